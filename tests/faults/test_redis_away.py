"""Redis is killed, restarted and away while jobs run: what was accepted is kept, and no worker ends for it."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import redis

from service.embedded import EmbeddedRedis
from tests.deployment import Api, Deployment, deployment, eventually, until

MODELS = """
    import os, time
    from service import model, progress

    def note(text):
        with open(os.environ["NOTES"], "a") as file:
            file.write(f"{text}\\n")

    @model(timeout=60)
    def sleeps(seconds: float) -> str:
        note("start")
        for _ in progress(range(round(seconds * 20))):
            time.sleep(0.05)
        note("end")
        return "slept"

    @model(timeout=60)
    def waits(file: str) -> str:
        note("start")
        while not os.path.exists(file):
            time.sleep(0.05)
        note("end")
        return "waited"
"""

AWAY = 4.0  # longer than the lease


@pytest.fixture
def server(tmp_path: Path) -> Iterator[EmbeddedRedis]:
    """A Redis of this test's own, which it may kill."""
    with EmbeddedRedis(tmp_path / "redis") as each:
        yield each


@pytest.fixture
def own(tmp_path: Path, server: EmbeddedRedis) -> Iterator[Deployment]:
    """A deployment on it."""
    with deployment(tmp_path, server.url, NOTES=str(tmp_path / "notes")) as each:
        (tmp_path / "notes").touch()
        each.write(MODELS)
        yield each


def kill(server: EmbeddedRedis) -> None:
    """SIGKILL Redis."""
    server.kill()


def notes(own: Deployment) -> list[str]:
    return (own.folder / "notes").read_text().splitlines()


def running(own: Deployment, api: Api, model: str, **value: Any) -> Any:
    """A job that is being predicted."""
    job = api.submit(model, input=value)
    until(lambda: "start" in notes(own))
    return api.started(job["id"])


def is_finished(api: Api, job: Any) -> Any:
    """The job, once Redis answers and it is finished."""

    def check() -> Any:
        response = api.http.get(f"/v1/jobs/{job['id']}")
        assert response.status_code == 200, response.text
        found = response.json()
        assert found["done"]
        return found

    found = eventually(check, within=25)
    assert found["status"] == "finished", found
    return found


def _says(worker: Any, text: str) -> None:
    until(lambda: text in worker.log.read_text(), within=20)


def test_a_job_finishes_though_redis_is_killed_and_restarted_meanwhile(own: Deployment, server: EmbeddedRedis) -> None:
    worker = own.worker()
    api = own.web()
    job = running(own, api, "sleeps", seconds=3)

    kill(server)
    server.restart()

    assert is_finished(api, job)["output"] == "slept"
    assert notes(own) == ["start", "end"]
    assert worker.poll() is None
    kinds = [event["type"] for event in api.log(job["id"])]
    assert kinds[-1] == "finished"
    assert kinds.count("finished") == kinds.count("started") == 1


@pytest.mark.parametrize("workers", [1, 2])
def test_a_job_that_ends_while_redis_is_away_keeps_its_result(
    own: Deployment, server: EmbeddedRedis, workers: int, tmp_path: Path
) -> None:
    started = [own.worker() for _ in range(workers)]
    api = own.web()
    job = running(own, api, "waits", file=str(tmp_path / "go"))

    kill(server)
    (tmp_path / "go").touch()
    until(lambda: "end" in notes(own))
    time.sleep(AWAY)  # the time itself is what is tested
    server.restart()

    assert is_finished(api, job)["output"] == "waited"
    assert notes(own) == ["start", "end"]
    assert [worker.poll() for worker in started] == [None] * workers


def test_a_job_that_runs_on_while_redis_is_away_for_longer_than_its_lease_is_not_lost(
    own: Deployment, server: EmbeddedRedis, tmp_path: Path
) -> None:
    for _ in range(2):
        own.worker()
    api = own.web()
    job = running(own, api, "waits", file=str(tmp_path / "go"))

    kill(server)
    time.sleep(AWAY)  # the time itself is what is tested
    server.restart()

    def answers_again() -> None:
        found = api.http.get(f"/v1/jobs/{job['id']}")
        assert found.status_code == 200

    eventually(answers_again)
    time.sleep(2)  # some passes of the recovery loop
    (tmp_path / "go").touch()
    assert is_finished(api, job)["output"] == "waited"
    assert notes(own) == ["start", "end"]


def test_what_was_queued_is_run_after_a_kill_of_redis(own: Deployment, server: EmbeddedRedis) -> None:
    api = own.web()
    worker = own.worker()
    running(own, api, "sleeps", seconds=1)
    waiting = [api.submit("sleeps", input={"seconds": 0}) for _ in range(20)]

    kill(server)
    server.restart()

    for job in waiting:
        is_finished(api, job)
    assert notes(own).count("end") == 21
    assert worker.poll() is None


def test_an_idle_worker_lives_through_an_absence_of_redis_and_hears_stops_again(
    own: Deployment, server: EmbeddedRedis
) -> None:
    worker = own.worker()
    api = own.web()

    kill(server)
    _says(worker, "Redis is away")
    server.restart()

    def submitted() -> Any:
        response = api.post("sleeps", input={"seconds": 30})
        assert response.status_code == 202
        return response.json()

    job = eventually(submitted)
    until(lambda: api.job(job["id"])["status"] == "started")
    api.cancel(job["id"])
    assert api.done(job["id"], within=8)["status"] == "stopped"


@pytest.mark.parametrize("gone", ["its hash", "its places in the sets", "both"])  # the first expires by itself
def test_a_worker_whose_registration_has_gone_registers_again(
    own: Deployment, server: EmbeddedRedis, gone: str
) -> None:
    process = own.worker()
    api = own.web()
    with redis.Redis.from_url(server.url) as connection:
        (key,) = connection.smembers("rq:workers")
        registered = connection.hgetall(key)
        if gone != "its places in the sets":
            connection.delete(key)
        if gone != "its hash":
            connection.delete("rq:workers", *connection.keys("rq:workers:*"))

        until(lambda: connection.hget(key, "pid") == registered[b"pid"])
        until(lambda: connection.smembers("rq:workers") == connection.smembers("rq:workers:waits") == {key})

    assert process.poll() is None
    job = api.submit("waits", input={"file": str(own.folder)})
    assert api.done(job["id"])["output"] == "waited"
