"""Redis is down for a while in the middle of work: callers are told so, and all goes on by itself when it is back.

`REDIS_DOWN=30 .venv/bin/python -m pytest -s tests/faults/test_redis_down.py` is the long form.
"""

from __future__ import annotations

import os
import random
import threading
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest
import redis

from service.embedded import EmbeddedRedis
from tests.chaos import durable_redis
from tests.deployment import Api, Deployment, deployment, until
from tests.registries import assert_all_is_over, statuses
from tests.watchers import TERMINAL, log_of, watch_with_cuts

MODELS = """
    import os, time
    from service import model, progress

    @model(timeout=60)
    def noted(name: str, seconds: float = 0) -> str:
        with open(os.environ["NOTES"], "a") as file:
            file.write(f"{name}\\n")
        for _ in progress(range(round(seconds * 20))):
            time.sleep(0.05)
        return name
"""

DOWN = float(os.environ.get("REDIS_DOWN", "5"))
BACK_WITHIN = 15.0  # seconds; 5 are enough on a machine with nothing else to do


@pytest.fixture
def server(tmp_path: Path) -> Iterator[EmbeddedRedis]:
    """A Redis of this test's own."""
    with durable_redis(tmp_path) as each:
        yield each


@pytest.fixture
def own(tmp_path: Path, server: EmbeddedRedis) -> Iterator[Deployment]:
    """A deployment on it."""
    with deployment(tmp_path, server.url, NOTES=str(tmp_path / "notes")) as each:
        (tmp_path / "notes").touch()
        each.write(MODELS)
        yield each


class Callers:
    """Some who submit all the time, and keep what they are answered."""

    def __init__(self, apis: list[Api]) -> None:
        self._apis = apis
        self.over = threading.Event()
        self.accepted: dict[str, tuple[str, float]] = {}
        """By the name that was submitted: the job's id, and when it was accepted (time.monotonic())."""
        self.unknown: set[str] = set()
        """What was refused: it may still have been accepted in the moment in which Redis went away."""
        self.refused: list[tuple[float, httpx.Response]] = []

    def submit(self, number: int) -> None:
        """Submit one after the other until it is over."""
        place = 0
        while not self.over.wait(0.05):
            name, place = f"{number}-{place}", place + 1
            answer = self._apis[number % 2].post("noted", input={"name": name, "seconds": 0.1 * (place % 5 == 0)})
            if answer.status_code == 202:
                self.accepted[name] = answer.json()["id"], time.monotonic()
            else:
                self.unknown.add(name)
                self.refused.append((time.monotonic(), answer))


def back_after(callers: Callers, notes: Path, since: float) -> tuple[float, float]:
    """How long until a submit was accepted again, and until one that was submitted since had run."""

    def accepted() -> list[str]:
        return [name for name, (_, moment) in list(callers.accepted.items()) if moment > since]

    until(lambda: bool(accepted()), within=BACK_WITHIN)
    web = time.monotonic() - since
    until(lambda: not set(accepted()).isdisjoint(notes.read_text().split()), within=BACK_WITHIN)
    return web, time.monotonic() - since


@pytest.mark.timeout(120 + DOWN * 3)
def test_all_goes_on_by_itself_after_redis_was_down_for_long(
    own: Deployment, server: EmbeddedRedis, capsys: pytest.CaptureFixture[str]
) -> None:
    workers = [own.worker() for _ in range(2)]
    apis = [own.web(), own.web()]
    webs: list[Any] = [api.process for api in apis]  # type: ignore[attr-defined]
    notes = own.folder / "notes"
    callers = Callers(apis)
    running = apis[0].submit("noted", input={"name": "running", "seconds": DOWN + 2})
    with ThreadPoolExecutor(5) as pool:
        watching = pool.submit(watch, apis, running["id"])
        submitting = [pool.submit(callers.submit, number) for number in range(4)]
        try:
            until(lambda: len(callers.accepted) >= 20)
            server.stop()
            gone = time.monotonic()
            time.sleep(DOWN)  # the time itself is what is tested
            ends = time.monotonic()
            server.start()
            web, work = back_after(callers, notes, time.monotonic())
        finally:
            callers.over.set()
        for each in submitting:
            each.result()
        with redis.Redis.from_url(server.url) as connection:
            until(lambda: set(statuses(connection).values()) <= TERMINAL, within=60)
            assert_all_is_over(connection)
            found = statuses(connection)
        seen = watching.result()

    with capsys.disabled():
        print(f"\nREDIS_DOWN={DOWN:g}: accepted again after {web:.1f} s, at work again after {work:.1f} s")
    assert [process.poll() for process in (*workers, *webs)] == [None] * 4
    assert_refused_well(callers, gone, ends)
    assert set(found.values()) == {"finished"}
    assert {job_id for job_id, _ in callers.accepted.values()} <= set(found)
    times = Counter(notes.read_text().split())
    assert set(callers.accepted) <= set(times) <= {"running", *callers.accepted, *callers.unknown}
    assert set(times.values()) == {1}
    assert seen == log_of(apis[0], running["id"])


def watch(apis: list[Api], job_id: str) -> Any:
    """All that a watcher sees of a job."""
    return watch_with_cuts(apis, job_id, random.Random(1), iter(()), within=DOWN + 60)


def assert_refused_well(callers: Callers, gone: float, ends: float) -> None:
    """While Redis was down, and only then, callers were told so, and when to come again."""
    during = [answer for moment, answer in callers.refused if gone < moment < ends]
    assert len(during) > DOWN / 5
    for _, answer in callers.refused:
        assert answer.status_code == 503
        assert answer.headers["Content-Type"] == "application/problem+json"
        assert int(answer.headers["Retry-After"]) > 0
        assert answer.json()["type"] == "/problems/unavailable"
    assert not [name for name, (_, moment) in callers.accepted.items() if gone + 2 < moment < ends]
