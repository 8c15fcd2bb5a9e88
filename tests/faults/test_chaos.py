"""Everything is killed at random while jobs of every kind are submitted, run and watched: nothing is lost.

`CHAOS_JOBS=2000 CHAOS_SEED=7 .venv/bin/python -m pytest -s tests/faults/test_chaos.py` is the long form, of
about ten minutes. A seed gives the same jobs and the same blows; the moments at which they fall are the machine's.
"""

from __future__ import annotations

import os
import random
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from itertools import cycle, islice
from pathlib import Path
from typing import Any

import httpx
import pytest
import redis

from service.embedded import EmbeddedRedis
from tests.chaos import Chaos, durable_redis
from tests.deployment import Api, Deployment, deployment, until
from tests.evidence import Asked, assert_explained, assert_right, assert_whole, runs_of_each
from tests.registries import assert_all_is_over, statuses
from tests.watchers import TERMINAL, log_of, watch_with_cuts

MODELS = """
    import asyncio
    import os
    import time
    from collections.abc import Iterator
    from pathlib import Path
    from service import Retry, model, progress

    WORKER = os.getppid()

    def note(word, name):
        with open(os.environ["NOTES"], "a") as file:
            file.write(f"{word} {name} {WORKER} {os.getpid()} {time.monotonic()}\\n")

    @model
    def plain(name: str, seconds: float) -> str:
        note("start", name)
        for _ in progress(range(10)):
            time.sleep(seconds / 10)
        return name

    @model
    class Warm:
        def setup(self) -> None:
            self.ready = True

        def predict(self, name: str, seconds: float) -> str:
            note("start", name)
            time.sleep(seconds)
            return name if self.ready else ""

    @model
    def streams(name: str, seconds: float) -> Iterator[str]:
        note("start", name)
        for part in (name[:2], name[2:]):
            time.sleep(seconds / 2)
            yield part

    @model(max_batch_size=4, batch_timeout=0.1)
    def together(name: list[str], seconds: list[float]) -> list[str]:
        for each in name:
            note("start", each)
        time.sleep(max(seconds))
        return name

    @model(concurrency=8)
    async def waits(name: str, seconds: float) -> str:
        note("start", name)
        print("waiting")
        await asyncio.sleep(seconds)
        return name

    @model(retries=4)
    def retried(name: str, seconds: float) -> str:
        note("start", name)
        progress.update(0.5)
        time.sleep(seconds)
        return name

    @model(retries=4)
    def stumbles(name: str, seconds: float) -> str:
        note("start", name)
        time.sleep(seconds)
        if not Path(os.environ["NOTES"] + name).exists():
            Path(os.environ["NOTES"] + name).touch()
            note("raised", name)
            raise Retry("once more", after=0.5)
        return name
"""
RETRIES = {"retried": 4, "stumbles": 4}
NAMES = ("plain", "warm", "streams", "together", "waits", *RETRIES)

JOBS = int(os.environ.get("CHAOS_JOBS", "150"))
SEED = int(os.environ.get("CHAOS_SEED", str(random.randrange(10**6))))
SUBMITTERS = 4
SECONDS = (0.0, 0.05, 0.2, 1.0, 6.0), (30, 30, 20, 18, 2)  # that jobs take, and how many do; the last longer than LEASE
EACH = 0.14  # seconds of chaos for each job
DRAINED = 60 + JOBS * 0.3  # the rest of the jobs, when all is quiet again
WATCHED = 3  # each third job


def submit(apis: list[Api], asked: Asked, rng: random.Random) -> None:
    """Submit a job as a careful caller does: again, with the same key, until one web process or the other accepts."""
    body: dict[str, Any] = {"input": {"name": asked.name, "seconds": rng.choices(*SECONDS)[0]}}
    body["priority"] = rng.choice(("high", "default", "low"))
    if rng.random() < 0.05:
        body["start_timeout"] = 3
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        try:
            answer = rng.choice(apis).post(asked.model, headers={"Idempotency-Key": asked.name}, **body)
        except httpx.HTTPError as error:
            asked.refused[type(error).__name__] += 1
        else:
            if answer.status_code in (200, 202):
                assert asked.id in ("", answer.json()["id"]), f"two jobs for {asked.name}"
                asked.id = answer.json()["id"]
                if rng.random() < 0.9:
                    return
                continue  # as one whose answer was lost
            assert answer.status_code == 503, answer.text
            asked.refused["503"] += 1
        time.sleep(0.1)
    pytest.fail(f"{asked.name} was not accepted: {asked.refused}")


def ask(apis: list[Api], asked: Asked, number: int, began: float) -> None:
    """Submit a job when its time has come; some are soon canceled, if that can be had at the first try."""
    rng = random.Random(SEED * 10_000 + number)
    time.sleep(max(0.0, began + number * EACH - time.monotonic()))
    submit(apis, asked, rng)
    if rng.random() < 0.05:
        with suppress(httpx.HTTPError):
            rng.choice(apis).cancel(asked.id)


def watch(apis: list[Api], asked: Asked) -> None:
    """Watch a job from its beginning to its end, now over this connection, now over that."""
    asked.watched, rng = True, random.Random(asked.name)
    until(lambda: bool(asked.id), within=JOBS * EACH + 60)
    cuts = (rng.choice((1, 2, 5, 100)) for _ in iter(int, 1))
    asked.log = watch_with_cuts(apis, asked.id, rng, cuts, within=JOBS * EACH + DRAINED)


@pytest.fixture
def server(tmp_path: Path) -> Iterator[EmbeddedRedis]:
    """A Redis that loses nothing and may be killed."""
    with durable_redis(tmp_path) as each:
        yield each


@pytest.fixture
def deployed(tmp_path: Path, server: EmbeddedRedis) -> Iterator[Deployment]:
    """A deployment on it."""
    with deployment(tmp_path, server.url, NOTES=str(tmp_path / "notes"), LEASE="4") as each:
        each.write(MODELS)
        yield each


@pytest.mark.timeout(120 + JOBS)
def test_whatever_is_killed_every_job_ends_once_and_is_told_whole(
    deployed: Deployment, server: EmbeddedRedis, capsys: pytest.CaptureFixture[str]
) -> None:
    names = enumerate(islice(cycle(NAMES), JOBS))
    jobs = [Asked(f"{name}-{number}", name, RETRIES.get(name, 0)) for number, name in names]
    chaos = Chaos(deployed, server, random.Random(SEED), workers=3, webs=2)
    api = chaos.site.apis[0]
    until(lambda: {model["name"] for model in api.http.get("/v1/models").json()["models"]} >= set(NAMES))

    began = time.monotonic()
    with ThreadPoolExecutor(SUBMITTERS) as submitters, ThreadPoolExecutor(8) as watchers:
        watching = [watchers.submit(watch, chaos.site.apis, asked) for asked in jobs[::WATCHED]]
        asking = [submitters.submit(ask, chaos.site.apis, jobs[number], number, began) for number in range(JOBS)]
        chaos.run(lambda: not all(each.done() for each in asking))
        chaos.end()
        quiet = time.monotonic()
        for each in (*asking, *watching):
            each.result()

    with redis.Redis.from_url(server.url) as connection:
        until(lambda: set(statuses(connection).values()) <= TERMINAL, within=DRAINED)
        over = time.monotonic()
        assert_all_is_over(connection)
        assert sorted(statuses(connection)) == sorted(asked.id for asked in jobs)
    outcomes = assert_all_fits(chaos, api, jobs, deployed.folder / "notes")
    for worker in chaos.workers.ended:
        assert worker.returncode <= 0 or started_in_vain(worker.log.read_text())  # type: ignore[attr-defined]
    refused = sum((asked.refused for asked in jobs), Counter())
    with capsys.disabled():
        print(f"\nCHAOS_SEED={SEED} CHAOS_JOBS={JOBS}: {quiet - began:.0f} s of chaos, over {over - quiet:.0f} s later")
        print(f"  struck: {dict(chaos.counts)}\n  ended: {dict(outcomes)}\n  refused: {dict(refused)}")


def assert_all_fits(chaos: Chaos, api: Api, jobs: list[Asked], notes: Path) -> Counter[str]:
    """For each job its end, its runs, its attempts, its log and what its watcher saw; how many ended how."""
    runs, ends = runs_of_each(notes), Counter[str]()
    for asked in jobs:
        job, log, own = api.job(asked.id), log_of(api, asked.id), runs.get(asked.name, [])
        assert_right(asked, job, own)
        assert_whole(log, job)
        assert_explained(chaos.faults, asked, job, own)
        assert not asked.watched or asked.log == log
        ends[job["error"]["type"] if job["error"] else job["status"]] += 1
        ends["run again"] += max(0, len(own) - 1)
    return ends


def started_in_vain(log: str) -> bool:
    """Whether a worker ended by itself as it may: Redis was away, or its work-horse was killed, before it was ready."""
    return "worker started" not in log or "cannot be imported" in log
