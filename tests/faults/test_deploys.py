"""Web processes and workers are restarted one after the other under load: nobody notices.

`DEPLOYS=20 .venv/bin/python -m pytest -s tests/faults/test_deploys.py` is the long form.
"""

from __future__ import annotations

import os
import random
import signal
import socket
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import httpx
import pytest
import redis

from tests.deployment import Api, Deployment, children, until
from tests.registries import assert_all_is_over, statuses
from tests.site import Kept, Site
from tests.watchers import TERMINAL

MODELS = """
    import os, time
    from service import model

    @model
    def noted(name: str, seconds: float = 0) -> str:
        with open(os.environ["NOTES"], "a") as file:
            file.write(f"{name}\\n")
        time.sleep(seconds)
        return name
"""

DEPLOYS = int(os.environ.get("DEPLOYS", "2"))
KEYS, SUBMITS, CALLERS = 50, 500, 20


class Caller:
    """A caller who goes to another web process when one is not there or says that it cannot; any other error counts.

    Each request has a connection of its own: whoever reuses one that was idle must expect that it has just been closed.
    """

    def __init__(self, apis: list[Api], rng: random.Random) -> None:
        self._apis = apis
        self._rng = rng
        self.met: Counter[str] = Counter()
        self.failed: list[str] = []

    def ask(self, method: str, path: str, body: Any = None) -> Any:
        """The JSON of the answer, or None if the request failed."""
        while True:
            api = self._rng.choice(self._apis)
            try:
                answer = api.http.request(method, path, json=body, headers={"Connection": "close"})
            except httpx.ConnectError:
                self.met["refused"] += 1
                time.sleep(0.02)
                continue
            except httpx.TransportError as error:
                self.failed.append(f"{method} {path}: {error!r}")
                return None
            self.met[str(answer.status_code)] += 1
            if answer.status_code in (200, 202):
                return answer.json()
            if answer.status_code != 503:
                self.failed.append(f"{method} {path}: {answer.status_code} {answer.text}")
                return None


@pytest.fixture
def site(deployed: Deployment, notes: Path) -> Site:
    """Two web processes."""
    deployed.write(MODELS)
    return Site(deployed, 2)


def start_workers(deployed: Deployment, count: int) -> Kept:
    """Workers that work."""
    workers = Kept(lambda number: deployed.run("worker"), count)
    for number in range(count):
        works(workers, number)
    return workers


def works(workers: Kept, number: int) -> None:
    """Wait until one of them works, started again if it has ended."""

    def started() -> bool:
        workers.keep()
        return "worker started" in workers.processes[number].log.read_text()  # type: ignore[attr-defined]

    until(started, within=60)


@contextmanager
def load(count: int, ask: Callable[[int, threading.Event], None]) -> Iterator[None]:
    """So many callers at work; they end what they do at the end."""
    over = threading.Event()
    with ThreadPoolExecutor(count) as pool:
        running = [pool.submit(ask, number, over) for number in range(count)]
        try:
            yield
        finally:
            over.set()
        for each in running:
            each.result()


def all_over(connection: redis.Redis) -> None:
    """Wait until all jobs are."""
    until(lambda: set(statuses(connection).values()) <= TERMINAL, within=60)
    assert_all_is_over(connection)


@pytest.mark.timeout(120 + DEPLOYS * 60)
def test_rolling_restarts_fail_no_request_and_run_each_job_once(
    deployed: Deployment, site: Site, notes: Path, connection: redis.Redis, capsys: pytest.CaptureFixture[str]
) -> None:
    workers = start_workers(deployed, 2)
    callers = [Caller(site.apis, random.Random(number)) for number in range(4)]
    submitted: list[str] = []

    def ask(number: int, over: threading.Event) -> None:
        caller, rng = callers[number], random.Random(number)
        while not over.wait(0.1):
            name = f"{number}-{len(submitted)}-{rng.random()}"
            body = {"input": {"name": name, "seconds": rng.choice((0, 0, 0, 0.1))}}
            if (job := caller.ask("POST", "/v1/models/noted/jobs", body)) is not None:
                submitted.append(name)
                caller.ask("GET", f"/v1/jobs/{job['id']}")

    with load(len(callers), ask):
        for _ in range(DEPLOYS):
            for number in range(2):
                site.restart(number, signal.SIGTERM)
            for number in range(2):
                process = workers.processes[number]
                process.terminate()
                assert process.wait(30) == 0
                works(workers, number)

    all_over(connection)
    met = sum((caller.met for caller in callers), Counter())
    with capsys.disabled():
        print(f"\nDEPLOYS={DEPLOYS}: {len(submitted)} jobs, answers {dict(met)}")
    assert [failure for caller in callers for failure in caller.failed] == []
    assert met["refused"] > 0
    assert Counter(statuses(connection).values()) == {"finished": len(submitted)}
    assert Counter(notes.read_text().split()) == Counter(submitted)


@pytest.mark.timeout(180)
def test_as_many_jobs_as_idempotency_keys_though_web_processes_are_killed_and_deployed_meanwhile(
    deployed: Deployment, site: Site, notes: Path, connection: redis.Redis
) -> None:
    start_workers(deployed, 1)
    answers: dict[str, set[str]] = {f"key-{number}": set() for number in range(KEYS)}
    done: list[str] = []

    def ask(number: int, over: threading.Event) -> None:
        rng = random.Random(number)
        for place in range(number, SUBMITS, CALLERS):
            key = f"key-{place % KEYS}"
            answers[key].add(insist(site.apis, key, rng))
            done.append(key)

    with load(CALLERS, ask):
        for number, signum in enumerate((signal.SIGKILL, signal.SIGTERM, signal.SIGKILL, signal.SIGTERM)):
            until(lambda least=SUBMITS * number // 5: len(done) >= least, within=60)  # type: ignore[misc]
            site.restart(number // 2, signum)

    all_over(connection)
    assert len(done) == SUBMITS
    assert [len(ids) for ids in answers.values()] == [1] * KEYS
    assert set(statuses(connection)) == set.union(*answers.values())
    assert sorted(notes.read_text().split()) == sorted(answers)


def insist(apis: list[Api], key: str, rng: random.Random) -> str:
    """The id of the job that a key gives, asked for as often as it takes."""
    body = {"input": {"name": key}}
    while True:
        with suppress(httpx.TransportError):
            answer = rng.choice(apis).http.post("/v1/models/noted/jobs", json=body, headers={"Idempotency-Key": key})
            if answer.status_code != 503:
                assert answer.status_code in (200, 202), answer.text
                return str(answer.json()["id"])
        time.sleep(0.05)


def test_a_web_process_that_ends_answers_what_it_has_begun_and_refuses_others_at_once(deployed: Deployment) -> None:
    api = deployed.web()
    body = b'{"model": "none", "input": {}}'
    head = f"PUT /v1/jobs/mine HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\nContent-Length: {len(body)}"
    with socket.create_connection(("127.0.0.1", api.port), timeout=20) as begun:
        begun.sendall(f"{head}\r\n\r\n".encode() + body[:1])

        api.process.terminate()  # type: ignore[attr-defined]

        until(lambda: refuses(api.port), within=5)  # less than the grace period of a web process
        begun.sendall(body[1:])
        assert begun.recv(12) == b"HTTP/1.1 404"


def test_a_web_process_that_ends_answers_all_who_are_connected(deployed: Deployment) -> None:
    api = deployed.web()
    (process,) = children(api.process.pid)  # type: ignore[attr-defined]
    os.kill(process, signal.SIGSTOP)
    until(lambda: is_stopped(process))  # else it may still see the other signal first
    connected = [socket.create_connection(("127.0.0.1", api.port), timeout=20) for _ in range(10)]
    for each in connected:
        each.sendall(b"GET /healthz HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
    api.process.terminate()  # type: ignore[attr-defined]
    until(lambda: is_pending(process, signal.SIGTERM))

    os.kill(process, signal.SIGCONT)

    assert [each.recv(12) for each in connected] == [b"HTTP/1.1 200"] * len(connected)
    for each in connected:
        each.close()


def refuses(port: int) -> bool:
    """Whether nobody listens at a port."""
    try:
        socket.create_connection(("127.0.0.1", port), timeout=1).close()
    except ConnectionRefusedError:
        return True
    return False


def is_stopped(pid: int) -> bool:
    """Whether all threads of a process stand still."""
    states = [each.read_text().rpartition(")")[2].split()[0] for each in Path(f"/proc/{pid}/task").glob("*/stat")]
    return set(states) == {"T"}


def is_pending(pid: int, signum: signal.Signals) -> bool:
    """Whether a process has been sent a signal and has not had the time to see it."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    masks = [int(line.split()[1], 16) for line in lines if line.startswith(("SigPnd", "ShdPnd"))]
    return any(mask >> (signum - 1) & 1 for mask in masks)
