"""Async models: up to `concurrency` jobs at once on one event loop, each a job of its own."""

from __future__ import annotations

import os
import signal
import time
from collections import Counter
from pathlib import Path

import pytest

from tests.deployment import Api, Deployment, children, eventually, until
from tests.noting import NOTED, state

ASYNC = (
    NOTED
    + """
    import asyncio
    from service import progress

    @model(concurrency=200)
    async def waits(seconds: float, name: str = "") -> str:
        note(f"begin {name}")
        try:
            await asyncio.sleep(seconds)
        finally:
            note(f"end {name}")
        return name

    @model(concurrency=3)
    async def few(seconds: float) -> float:
        note("+")
        await asyncio.sleep(seconds)
        note("-")
        return seconds

    @model(concurrency=5)
    async def tells(name: str) -> str:
        for step in progress(range(3)):
            print(name, step)
            await asyncio.sleep(0.05)
        return name

    @model(concurrency=5)
    async def blocks(name: str) -> str:
        note(f"blocks {name}")
        while name == "bad":
            time.sleep(0.1)
        await asyncio.sleep(1)
        return name

    @model(concurrency=5)
    async def deadly(name: str) -> str:
        note(f"deadly {name}")
        await asyncio.sleep(0.3)
        if name == "bad":
            os._exit(3)
        await asyncio.sleep(0.5)
        return name

    @model(concurrency=5)
    async def leaves_a_task() -> None:
        async def later():
            note("task")
            try:
                await asyncio.sleep(60)
            finally:
                note("task ended")
        asyncio.create_task(later())
        await asyncio.sleep(0)

    @model(concurrency=5)
    async def exits(where: str) -> None:
        async def leave():
            raise SystemExit(3)
        if where == "job":
            raise SystemExit(3)
        asyncio.create_task(leave())
        await asyncio.sleep(1)

    @model
    def sync(seconds: float) -> str:
        time.sleep(seconds)
        return "sync"
"""
)


@pytest.fixture
def api(deployed: Deployment, notes: Path) -> Api:
    deployed.write(ASYNC)
    deployed.worker()
    return deployed.web()


def lines(notes: Path, word: str) -> int:
    return sum(line.startswith(word) for line in notes.read_text().splitlines())


def test_as_many_jobs_as_concurrency_says_run_at_once(api: Api, notes: Path) -> None:
    jobs = [api.submit("waits", input={"seconds": 3, "name": str(number)})["id"] for number in range(40)]

    until(lambda: lines(notes, "begin") == 40)
    assert lines(notes, "end") == 0
    assert [api.done(job)["output"] for job in jobs] == [str(number) for number in range(40)]


def test_no_more_jobs_than_concurrency_says_run_at_once(api: Api, notes: Path) -> None:
    jobs = [api.submit("few", input={"seconds": 0.2})["id"] for _ in range(10)]

    assert all(api.done(job)["status"] == "finished" for job in jobs)
    running, most = 0, 0
    for line in notes.read_text().split():
        running += 1 if line == "+" else -1
        most = max(most, running)
    assert most == 3


def test_jobs_that_run_at_once_tell_their_own_progress_and_lines(api: Api) -> None:
    jobs = {name: api.submit("tells", input={"name": name})["id"] for name in "abcde"}

    for name, job in jobs.items():
        api.done(job)
        messages = [event["data"]["message"] for event in api.log(job) if event["type"] == "log"]
        assert messages == [f"{name} {step}" for step in range(3)]
        assert api.job(job)["progress"]["index"] == 3


def test_one_is_stopped_and_the_others_run_on(api: Api, notes: Path) -> None:
    jobs = [api.submit("waits", input={"seconds": 3, "name": name})["id"] for name in ("a", "b", "c")]
    until(lambda: lines(notes, "begin") == 3)

    api.cancel(jobs[1])

    stopped = api.done(jobs[1], within=2)
    assert (stopped["status"], stopped["cancellation"]["mode"]) == ("stopped", "cooperative")
    assert notes.read_text().splitlines()[-1] == "end b"
    assert [api.done(job)["output"] for job in (jobs[0], jobs[2])] == ["a", "c"]


def test_one_times_out_and_the_others_run_on(api: Api, notes: Path) -> None:
    late = api.submit("waits", input={"seconds": 30}, timeout=1)["id"]
    other = api.submit("waits", input={"seconds": 2, "name": "other"})["id"]

    assert api.done(late, within=4)["error"]["type"] == "timeout"
    assert api.done(other)["output"] == "other"
    assert len(api.job(other)["attempts"]) == 1


def test_one_that_blocks_the_event_loop_is_killed_and_costs_the_others_nothing(api: Api, notes: Path) -> None:
    good = api.submit("blocks", input={"name": "good"})["id"]
    until(lambda: "blocks good" in notes.read_text())
    bad = api.submit("blocks", input={"name": "bad"})["id"]
    until(lambda: "blocks bad" in notes.read_text())

    api.cancel(bad)

    stopped = api.done(bad, within=4)
    assert (stopped["status"], stopped["cancellation"]["mode"]) == ("stopped", "killed")
    job = api.done(good)
    assert (job["output"], len(job["attempts"])) == ("good", 1)


def test_one_that_kills_the_horse_fails_and_the_others_are_run_again(api: Api, notes: Path) -> None:
    jobs = {name: api.submit("deadly", input={"name": name})["id"] for name in ("a", "bad", "b")}

    done = {name: api.done(job) for name, job in jobs.items()}

    assert {name: job["status"] for name, job in done.items()} == {"a": "finished", "bad": "failed", "b": "finished"}
    assert done["bad"]["error"]["type"] == "crashed"
    assert {len(job["attempts"]) for job in done.values()} == {1}


def test_tasks_that_a_job_has_left_end_with_it(api: Api, notes: Path) -> None:
    assert api.submit("leaves_a_task", wait=10)["status"] == "finished"

    until(lambda: "task ended" in notes.read_text(), within=5)


@pytest.mark.parametrize("where", ["job", "task"])
def test_sys_exit_in_an_async_model_fails_its_job_only(api: Api, where: str) -> None:
    job = api.done(api.submit("exits", input={"where": where})["id"])

    assert job["error"]["type"] == ("model_error" if where == "job" else "crashed")
    assert api.submit("waits", wait=10, input={"seconds": 0, "name": "on"})["output"] == "on"


def test_a_plain_model_and_async_ones_run_at_the_same_time(api: Api, notes: Path) -> None:
    slow = api.submit("sync", input={"seconds": 4})["id"]
    api.started(slow)

    assert api.submit("waits", wait=3, input={"seconds": 0.1, "name": "quick"})["output"] == "quick"
    assert api.job(slow)["status"] == "started"
    assert api.done(slow)["output"] == "sync"


def test_all_of_them_go_back_when_the_worker_ends(deployed: Deployment, notes: Path) -> None:
    deployed.write(ASYNC)
    worker = deployed.worker(GRACE_PERIOD="0")
    api = deployed.web()
    jobs = [api.submit("waits", input={"seconds": 60, "name": name})["id"] for name in "abc"]
    until(lambda: lines(notes, "begin") == 3)

    worker.send_signal(signal.SIGTERM)

    assert worker.wait(10) == 0
    assert {api.job(job)["status"] for job in jobs} == {"queued"}
    assert lines(notes, "end") == 3  # each was asked to leave, not killed


def test_the_leases_of_all_of_them_are_renewed(api: Api, deployed: Deployment, notes: Path) -> None:
    jobs = [api.submit("waits", input={"seconds": 5, "name": str(number)})["id"] for number in range(5)]  # LEASE is 3
    until(lambda: lines(notes, "begin") == 5)
    deployed.worker()

    assert all(len(api.done(job)["attempts"]) == 1 for job in jobs)
    assert Counter(notes.read_text().split())["begin"] == 5


def test_a_horse_killed_from_outside_costs_its_concurrent_jobs_no_attempt(
    api: Api, deployed: Deployment, notes: Path
) -> None:
    jobs = [api.submit("waits", input={"seconds": 1, "name": name})["id"] for name in "ab"]
    until(lambda: lines(notes, "begin") == 2)
    (worker,) = [each for each in deployed.processes if "worker" in each.args]  # type: ignore[operator]
    (horse,) = children(worker.pid)

    os.kill(horse, signal.SIGKILL)

    assert {api.done(job)["output"] for job in jobs} == {"a", "b"}
    assert {len(api.job(job)["attempts"]) for job in jobs} == {1}


def test_a_model_says_how_many_run_at_once(api: Api) -> None:
    assert state(api, "waits")["concurrency"] == 200


def test_queued_jobs_wait_for_a_place_and_are_seen_as_queued(api: Api, notes: Path) -> None:
    started = time.monotonic()
    jobs = [api.submit("few", input={"seconds": 2})["id"] for _ in range(4)]
    until(lambda: lines(notes, "+") == 3)

    last = api.job(jobs[3])
    assert (last["status"], last["position"]) == ("queued", 0), time.monotonic() - started

    def finished() -> None:
        assert api.job(jobs[3])["status"] == "finished"

    eventually(finished)
