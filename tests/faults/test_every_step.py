"""A process is killed at every write of a job's life, before the write and after it: the job goes on from there.

`.venv/bin/python -m pytest -s tests/faults/test_every_step.py` prints what became of each job.
"""

from __future__ import annotations

import json
import signal
import subprocess
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import pytest
import redis

from service.embedded import EmbeddedRedis
from service.settings import Settings
from service.store import keys
from service.store.jobs import Jobs, Submission
from service.store.retry_policy import RetryPolicy
from tests.chaos import durable_redis
from tests.deadly import Deadly, Trap, script
from tests.deployment import Deployment, deployment, until
from tests.evidence import assert_whole
from tests.registries import assert_all_is_over
from tests.watchers import TERMINAL

MODELS = """
    import os, time
    from collections.abc import Iterator
    from service import Retry, model, progress

    def begin() -> bool:
        with open(os.environ["NOTES"], "a+") as file:
            file.write("start\\n")
            file.seek(0)
            return file.read() == "start\\n"

    @model(retries=2)
    def plain() -> str:
        begin()
        return "done"

    @model(retries=2)
    def tells() -> str:
        first = begin()
        progress.update(0.25)
        if first:
            time.sleep(60)
        return "done"

    @model(retries=2)
    def streams() -> Iterator[str]:
        first = begin()
        yield "do"
        if first:
            time.sleep(60)
        yield "ne"

    @model
    def fails() -> str:
        begin()
        raise ValueError("no")

    @model(retries=2)
    def again() -> str:
        if begin():
            raise ValueError("not at the first time")
        return "done"

    @model(retries=2)
    def later() -> str:
        if begin():
            raise Retry("in a moment", after=1)
        return "done"

    @model(retries=2)
    def long() -> str:
        if begin():
            time.sleep(60)
        return "done"

    @model
    def once() -> str:
        begin()
        time.sleep(60)
        return "done"
"""
RETRIES = {"fails": 0, "once": 0}
LEASE = 3
AT_ONCE = 6
WITHIN = 90


@dataclass(frozen=True)
class Step:
    """A write of a worker: of a job of which model, by which request, and what becomes of the job."""

    name: str
    model: str
    needles: tuple[str | bytes, ...]
    """What its request has in it; names of scripts, and bytes."""
    before: str
    after: str
    names_the_job: Literal["request", "answer", "neither"] = "request"
    while_it_runs: Callable[[Case, subprocess.Popen[bytes]], None] | None = None
    """What is done to the worker or the job; the trap is set then."""
    another_dies_first: bool = False
    """Whether the write is about a job that another dead worker held."""


class Case:
    """One job, whose worker is killed before or after a write, and another worker that finds what that one left."""

    def __init__(self, step: Step, before: bool, server: EmbeddedRedis, folder: Path, number: int) -> None:
        self.step = step
        self.before = before
        self.url = f"{server.url}?db={number}"
        self.proxy = Deadly(folder / "p", server.url.removeprefix("unix://"))
        self.redis = redis.Redis.from_url(self.url)
        self.jobs = Jobs(self.redis, Settings())
        self.notes = folder / "notes"
        self.notes.touch()
        self.folder = folder
        self.job_id = ""
        self.cursor = b"0"

    def run(self) -> str:
        """What became of the job."""
        environment = {"NOTES": str(self.notes), "LEASE": str(LEASE)}
        with self.redis, deployment(self.folder, self.url, **environment) as deployed:
            deployed.write(MODELS)
            self.job_id = self.submit()
            if self.step.another_dies_first:
                dead = deployed.worker()
                self.has_begun()
                dead.kill()
            self.kill_at_the_step(deployed)
            if not self.jobs.read(self.job_id).done:
                deployed.run("worker")
            until(self.has_ended, within=WITHIN)
            assert_all_is_over(self.redis)
            return self.told()

    def submit(self) -> str:
        """Submit the job; one for a model that nobody has may not wait for long."""
        retries, start_timeout = RETRIES.get(self.step.model, 2), 2 if self.step.model == "none" else None
        at_once = RetryPolicy(backoff=0)
        return self.jobs.submit(
            Submission(self.step.model, "", {}, 60, retries, start_timeout=start_timeout, retry_policy=at_once)
        ).id

    def kill_at_the_step(self, deployed: Deployment) -> None:
        """Let a worker run into its trap."""
        job_id = self.job_id.encode()
        needles = [script(each, self.redis) if isinstance(each, str) else each for each in self.step.needles]
        needles += [job_id] if self.step.names_the_job == "request" else []
        trap = Trap(tuple(needles), self.before, job_id if self.step.names_the_job == "answer" else b"")
        if not self.step.while_it_runs:
            self.proxy.trap = trap
        victim = deployed.run("worker", REDIS_URL=f"{self.proxy.url}?db={self.url.rpartition('=')[2]}")
        if self.step.while_it_runs:
            self.has_begun()
            self.proxy.trap = trap
            self.step.while_it_runs(self, victim)
        until(trap.sprung.is_set, within=WITHIN)
        assert (victim.wait(10), trap.pid) == (-signal.SIGKILL, victim.pid)
        self.proxy.close()

    def has_ended(self) -> bool:
        """Whether the log has come to its end; waits up to a second for more of it."""
        for _, entries in self.redis.xread({keys.events(self.job_id): self.cursor}, block=1000):
            self.cursor, fields = entries[-1]
            return fields[b"type"].decode() in TERMINAL
        return False

    def has_begun(self) -> None:
        """Wait until the model runs."""
        until(lambda: bool(self.notes.read_text()), within=WITHIN)

    def told(self) -> str:
        """The end of the job, how often its model ran, and its tries, in words."""
        job: Any = self.jobs.read(self.job_id).to_json()
        log = [json.loads(event.text) for event in self.jobs.follow(self.job_id, "0-0", 1000).events]
        assert_whole(log, job)
        runs = len(self.notes.read_text().split())
        tries = [each["error"]["type"] if each["error"] else job["status"] for each in job["attempts"]]
        end = f"failed: {job['error']['type']}" if job["error"] else job["status"]
        return f"{end}; runs {runs}; tries: {', '.join(tries) or 'none'}"


def nothing(case: Case, worker: subprocess.Popen[bytes]) -> None:
    pass


def stop(case: Case, worker: subprocess.Popen[bytes]) -> None:
    case.jobs.cancel(case.job_id)


def deploy(case: Case, worker: subprocess.Popen[bytes]) -> None:
    worker.terminate()


ONCE = "finished; runs 1; tries: finished"
TWICE = "finished; runs 2; tries: lost, finished"
AGAIN = "finished; runs 2; tries: model_error, finished"
NEVER_BEGUN = "finished; runs 1; tries: lost, finished"
UNCOUNTED = "finished; runs 2; tries: finished"
LOST = "failed: lost; runs 1; tries: lost"
FAILED = "failed: model_error; runs 1; tries: model_error"
STOPPED = "stopped; runs 1; tries: stopped"
EXPIRED = "failed: expired; runs 0; tries: none"

TURN, TO_QUEUE, DUE, RENEW, EXPIRE, HOLD = "turn", "again", "due", "renew", "expire", "hold"
STEPS = [
    Step("register the worker", "plain", (b"SADD", b"rq:workers"), ONCE, ONCE, "neither"),
    Step("hold the recovery loop", "long", (HOLD,), TWICE, TWICE, "neither", nothing),
    Step("take and start", "plain", (TURN, b"\r\nplain\r\n"), ONCE, NEVER_BEGUN, "answer"),
    Step("append progress", "tells", (TURN, b"progress"), TWICE, TWICE),
    Step("append output", "streams", (TURN, b"output"), TWICE, TWICE),
    Step("renew the lease", "long", (RENEW,), TWICE, TWICE),
    Step("finish", "plain", (TURN, b"finished"), TWICE, ONCE),
    Step("fail", "fails", (TURN, b"failed"), LOST, FAILED),
    Step("try again", "again", (TO_QUEUE,), TWICE, AGAIN),
    Step("try again later", "later", (TO_QUEUE,), TWICE, AGAIN),
    Step("queue what is due", "later", (DUE,), AGAIN, AGAIN),
    Step("stop", "long", (TURN, b"stopped"), STOPPED, STOPPED, "request", stop),
    Step("give back at a deploy", "long", (TO_QUEUE,), TWICE, UNCOUNTED, "request", deploy),
    Step("expire", "none", (EXPIRE,), EXPIRED, EXPIRED),
    Step("take back, to try again", "long", (TO_QUEUE,), TWICE, TWICE, another_dies_first=True),
    Step("take back, lost", "once", (TURN, b'"lost"'), LOST, LOST, another_dies_first=True),
]
CASES = [(step, before) for step in STEPS for before in (True, False)]


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[tuple[str, bool], Future[str]]]:
    """What becomes of each case; some are under way at the same time, each in a database of its own."""
    with (
        durable_redis(tmp_path_factory.mktemp("steps"), "--databases", str(len(CASES) + 1)) as server,
        ThreadPoolExecutor(AT_ONCE) as pool,
    ):
        running = {}
        for number, (step, before) in enumerate(CASES):
            case = Case(step, before, server, tmp_path_factory.mktemp("step"), number)
            running[step.name, before] = pool.submit(case.run)
        yield running
        print(f"\n{table(running)}")


def table(outcomes: dict[tuple[str, bool], Future[str]]) -> str:
    """All of them, in Markdown."""
    cell = {key: "?" if each.exception() else each.result() for key, each in outcomes.items()}
    rows = [f"| {step.name} | {cell[step.name, True]} | {cell[step.name, False]} |" for step in STEPS]
    return "\n".join(["| killed at | before the write | after the write |", "|---|---|---|", *rows])


@pytest.mark.timeout(300)  # the first one waits for some of the others
@pytest.mark.parametrize("before", [True, False], ids=["before", "after"])
@pytest.mark.parametrize("step", STEPS, ids=lambda step: step.name)
def test_a_job_survives_that_its_worker_is_killed_at_a_write(
    step: Step, before: bool, outcomes: dict[tuple[str, bool], Future[str]]
) -> None:
    assert outcomes[step.name, before].result() == (step.before if before else step.after)
