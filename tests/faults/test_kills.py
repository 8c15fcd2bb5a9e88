"""Processes are killed and frozen while jobs run: no job is lost, none ends twice."""

from __future__ import annotations

import json
import os
import signal
import time
from pathlib import Path
from typing import Any

import pytest
import redis

from tests.deployment import Api, Deployment, children, eventually, kill_horse, until

MODELS = """
    import os, time
    from service import Retry, model, progress

    def note(text):
        with open(os.environ["NOTES"], "a") as file:
            file.write(f"{text}\\n")

    @model(timeout=60)
    def once(seconds: float) -> int:
        note(f"start {os.getpid()}")
        for _ in progress(range(round(seconds * 20))):
            time.sleep(0.05)
        note(f"end {os.getpid()}")
        return os.getpid()

    @model(timeout=60, retries=2)
    def retried(seconds: float, again: float = 0) -> int:
        note(f"start {os.getpid()}")
        first = sum(line.startswith("start") for line in open(os.environ["NOTES"])) == 1
        try:
            for _ in progress(range(round((seconds if first else again) * 20))):
                time.sleep(0.05)
        finally:
            note(f"left {os.getpid()}")
        note(f"end {os.getpid()}")
        return os.getpid()

    @model(retries=1)
    def later() -> str:
        if not os.path.exists(os.environ["NOTES"] + ".later"):
            open(os.environ["NOTES"] + ".later", "x").close()
            raise Retry("in a moment", after=2)
        return "later"
"""

LEASE = 3
RECOVERED = 2 * LEASE + 4  # the recovery loop may have been the dead worker's: its lease, the job's, some passes


@pytest.fixture
def api(deployed: Deployment) -> Api:
    """A caller; the models are written."""
    deployed.environment["NOTES"] = str(deployed.folder / "notes")
    (deployed.folder / "notes").touch()
    deployed.write(MODELS)
    return deployed.web()


def notes(deployed: Deployment) -> list[str]:
    return (deployed.folder / "notes").read_text().splitlines()


def kinds(api: Api, job: Any) -> list[str]:
    return [event["type"] for event in api.log(job["id"]) if event["type"] != "progress"]


def runs(pid: int) -> bool:
    """Whether a process is there and has not ended."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def running(deployed: Deployment, api: Api, model: str, **value: Any) -> Any:
    """A job that is being predicted."""
    job = api.submit(model, input=value)
    until(lambda: any(line.startswith("start") for line in notes(deployed)))
    return api.started(job["id"])


def test_a_killed_worker_takes_its_horse_with_it_and_another_runs_the_job_again(deployed: Deployment, api: Api) -> None:
    first = deployed.worker()
    job = running(deployed, api, "retried", seconds=30)
    (horse,) = children(first.pid)
    second = deployed.worker()

    first.kill()
    first.wait()

    until(lambda: not runs(horse), within=3)
    done = api.done(job["id"], within=RECOVERED)
    assert done["status"] == "finished"
    assert [attempt["error"] and attempt["error"]["type"] for attempt in done["attempts"]] == ["lost", None]
    assert kinds(api, job) == ["queued", "started", "retrying", "queued", "started", "finished"]
    assert len([line for line in notes(deployed) if line.startswith("end")]) == 1
    assert second.poll() is None


def test_without_retries_the_job_of_a_killed_worker_is_lost_and_says_so(
    deployed: Deployment, api: Api, connection: redis.Redis
) -> None:
    first = deployed.worker()
    job = running(deployed, api, "once", seconds=30)
    deployed.worker()

    first.kill()
    first.wait()

    done = api.done(job["id"], within=RECOVERED)
    assert (done["status"], done["error"]["type"]) == ("failed", "lost")
    assert done["attempts"][0]["worker"] in done["error"]["message"]
    assert kinds(api, job) == ["queued", "started", "failed"]
    own = list(connection.scan_iter(f"*{job['id']}*", count=1000))
    assert {key.decode(): connection.ttl(key) for key in own if connection.ttl(key) <= 0} == {}


def test_a_stop_asked_of_a_worker_that_died_is_kept(deployed: Deployment, api: Api) -> None:
    first = deployed.worker()
    job = running(deployed, api, "retried", seconds=30)
    first.kill()
    first.wait()
    assert api.cancel(job["id"]).status_code == 202

    deployed.worker()

    assert api.done(job["id"], within=RECOVERED)["status"] == "stopped"


def test_a_worker_that_starts_later_takes_back_what_the_only_one_held(deployed: Deployment, api: Api) -> None:
    first = deployed.worker()
    job = running(deployed, api, "retried", seconds=30)
    first.kill()
    first.wait()

    deployed.worker()

    assert api.done(job["id"], within=RECOVERED)["status"] == "finished"


def test_a_killed_horse_is_a_crash_and_tried_again_by_the_same_worker(deployed: Deployment, api: Api) -> None:
    worker = deployed.worker()
    job = running(deployed, api, "retried", seconds=30)

    kill_horse(worker)

    done = api.done(job["id"], within=5)
    assert done["status"] == "finished"
    assert [attempt["error"] and attempt["error"]["type"] for attempt in done["attempts"]] == ["crashed", None]
    assert "SIGKILL" in done["attempts"][0]["error"]["message"]


def test_what_a_thawed_worker_writes_is_refused(deployed: Deployment, api: Api) -> None:
    first = deployed.worker()
    job = running(deployed, api, "retried", seconds=30, again=2)
    (horse,) = children(first.pid)
    deployed.worker()
    os.kill(first.pid, signal.SIGSTOP)

    def taken_over() -> None:
        assert len(api.job(job["id"])["attempts"]) == 2

    eventually(taken_over, within=RECOVERED)
    os.kill(first.pid, signal.SIGCONT)

    until(lambda: f"left {horse}" in notes(deployed), within=5)
    done = api.done(job["id"])
    assert done["status"] == "finished"
    assert kinds(api, job) == ["queued", "started", "retrying", "queued", "started", "finished"]
    assert len([line for line in notes(deployed) if line.startswith("end")]) == 1
    assert first.poll() is None
    assert "taken over" in first.log.read_text()  # type: ignore[attr-defined]


def test_a_result_that_a_frozen_worker_held_does_not_change_the_outcome(deployed: Deployment, api: Api) -> None:
    first = deployed.worker()
    job = running(deployed, api, "once", seconds=1)
    os.kill(first.pid, signal.SIGSTOP)
    deployed.worker()

    lost = api.done(job["id"], within=RECOVERED)
    assert lost["error"]["type"] == "lost"
    log = api.log(job["id"])
    os.kill(first.pid, signal.SIGCONT)

    until(lambda: "taken over" in first.log.read_text())  # type: ignore[attr-defined]
    assert api.job(job["id"])["error"]["type"] == "lost"
    assert api.log(job["id"]) == log


def test_a_lone_worker_that_was_frozen_for_a_while_goes_on_with_its_job(deployed: Deployment, api: Api) -> None:
    worker = deployed.worker()
    job = running(deployed, api, "once", seconds=2)

    os.kill(worker.pid, signal.SIGSTOP)
    time.sleep(LEASE + 1)
    os.kill(worker.pid, signal.SIGCONT)

    assert api.done(job["id"])["status"] == "finished"
    assert len(notes(deployed)) == 2


def test_scheduled_jobs_are_queued_though_the_holder_of_the_recovery_loop_died(
    deployed: Deployment, api: Api, connection: redis.Redis
) -> None:
    workers = [deployed.worker("--name", f"w{number}") for number in range(2)]
    job = api.submit("later")

    def scheduled() -> None:
        assert api.job(job["id"])["status"] == "scheduled"

    eventually(scheduled)
    holder = connection.get("service:recovery")
    assert holder in (b"w0", b"w1")
    workers[int(holder[1:])].kill()

    assert api.done(job["id"], within=2 + RECOVERED)["output"] == "later"


def test_no_job_runs_twice_at_once_though_workers_are_killed_all_the_time(deployed: Deployment, api: Api) -> None:
    workers = [deployed.worker() for _ in range(3)]
    jobs = [api.submit("retried", input={"seconds": 0.1, "again": 0.1}) for _ in range(30)]

    for worker in workers[:2]:
        until(lambda: bool(notes(deployed)))
        worker.kill()
        worker.wait()
    done = [api.done(job["id"], within=30) for job in jobs]

    assert [job["status"] for job in done] == ["finished"] * 30
    for job in done:
        log = [event["type"] for event in api.log(job["id"])]
        assert log.count("finished") == 1
        assert log[-1] == "finished"
    retried = sum(len(job["attempts"]) - 1 for job in done)
    assert len([line for line in notes(deployed) if line.startswith("start")]) <= 30 + retried


def test_a_watcher_sees_all_of_a_job_whose_worker_was_killed(deployed: Deployment, api: Api) -> None:
    first = deployed.worker()
    job = running(deployed, api, "retried", seconds=30)
    watcher = api.socket(f"/v1/jobs/{job['id']}/events?after=0")
    deployed.worker()
    first.kill()
    first.wait()

    received = []
    while not received or received[-1]["type"] != "finished":
        received.append(json.loads(watcher.recv()))
    watcher.close()

    assert received == api.log(job["id"])
