"""RQ's own tools and workers on the same Redis: they see our jobs and workers as theirs."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import redis
from rq import Queue, Worker
from rq.job import Job
from rq.registry import FailedJobRegistry, FinishedJobRegistry, ScheduledJobRegistry, StartedJobRegistry
from rq.results import Result
from rq.serializers import JSONSerializer

from tests.deployment import Api, Deployment, eventually

MODELS = """
    import os, time
    from service import Retry, model, progress

    @model
    def add(x: int, y: int) -> int:
        progress.update(0.5, "half")
        return x + y

    @model(timeout=60)
    def sleeps(seconds: float) -> str:
        progress.update(0.25, "asleep")
        for _ in range(round(seconds / 0.1)):
            time.sleep(0.1)
            progress.update(0.25, "asleep")
        return "slept"

    @model
    def mends(file: str) -> str:
        if not os.path.exists(file):
            raise RuntimeError("it is broken")
        return "mended"
"""

ENTRY = "service.worker.entry.run"


@pytest.fixture
def connection(service: Api) -> Iterator[redis.Redis]:
    """A client of the service's Redis."""
    with redis.Redis.from_url(service.redis_url) as client:  # type: ignore[attr-defined]
        yield client


def fetch(job: Any, connection: redis.Redis) -> Job:
    return Job.fetch(job["id"], connection=connection, serializer=JSONSerializer)


def queue(name: str, connection: redis.Redis) -> Queue:
    return Queue(name, connection=connection, serializer=JSONSerializer)


def rq(service: Api, *arguments: str) -> str:
    """What RQ's command line prints."""
    command = [str(Path(sys.executable).parent / "rq"), arguments[0], "--url", service.redis_url]  # type: ignore[attr-defined]
    done = subprocess.run([*command, *arguments[1:]], capture_output=True, text=True, timeout=30)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_a_finished_job_is_a_finished_job_of_rq(service: Api, connection: redis.Redis) -> None:
    job = service.done(service.submit("add", input={"x": 1, "y": 2})["id"])

    found = fetch(job, connection)
    assert (found.get_status(), found.return_value()) == ("finished", 3)
    assert found.meta["progress"]["message"] == "half"
    assert (found.func_name, found.args) == (ENTRY, ["add", {"x": 1, "y": 2}])
    latest = found.latest_result()
    assert latest is not None
    assert latest.type == Result.Type.SUCCESSFUL
    assert latest.worker_name == job["attempts"][0]["worker"]
    assert found.started_at is not None
    assert found.ended_at is not None
    assert found.started_at <= found.ended_at
    assert job["id"] in FinishedJobRegistry(queue=queue("add", connection)).get_job_ids()


def test_a_failed_job_is_a_failed_job_of_rq(service: Api, connection: redis.Redis, tmp_path: Path) -> None:
    job = service.done(service.submit("mends", input={"file": str(tmp_path / "file")})["id"])

    found = fetch(job, connection)
    assert found.get_status() == "failed"
    latest = found.latest_result()
    assert latest is not None
    assert latest.type == Result.Type.FAILED
    assert "RuntimeError: it is broken" in (latest.exc_string or "")
    assert job["id"] in FailedJobRegistry(queue=queue("mends", connection)).get_job_ids()


def test_a_running_job_is_a_started_job_of_rq_and_its_worker_busy(service: Api, connection: redis.Redis) -> None:
    job = service.submit("sleeps", input={"seconds": 30})
    name = service.started(job["id"])["attempts"][0]["worker"]

    worker = Worker.find_by_key(f"rq:worker:{name}", connection=connection, serializer=JSONSerializer)
    assert worker is not None
    assert worker.get_state() == "busy"
    assert worker.get_current_job_id() == job["id"]
    assert job["id"] in StartedJobRegistry(queue=queue("sleeps", connection)).get_job_ids()
    executions = fetch(job, connection).get_executions()
    assert [execution.worker_name for execution in executions] == [name]
    (line,) = [line for line in rq(service, "info", "--only-workers", "--raw").splitlines() if name in line]
    assert ") busy " in line

    service.cancel(job["id"])
    service.done(job["id"])
    worker.refresh()

    def idle() -> None:
        assert worker.get_state() == "idle"

    eventually(idle)
    assert StartedJobRegistry(queue=queue("sleeps", connection)).get_job_ids() == []
    assert fetch(job, connection).get_status() == "stopped"


def test_the_counters_of_the_worker_count(service: Api, connection: redis.Redis, tmp_path: Path) -> None:
    (worker,) = Worker.all(connection=connection, serializer=JSONSerializer)
    before = worker.successful_job_count, worker.failed_job_count

    service.done(service.submit("add", input={"x": 1, "y": 2})["id"])
    service.done(service.submit("mends", input={"file": str(tmp_path / "file")})["id"])

    worker.refresh()
    assert (worker.successful_job_count, worker.failed_job_count) == (before[0] + 1, before[1] + 1)
    assert worker.total_working_time > 0


def test_rq_info_lists_queues_and_workers(service: Api, connection: redis.Redis) -> None:
    service.done(service.submit("add", input={"x": 1, "y": 2})["id"])

    text = rq(service, "info", "--raw")

    assert "queue add 0" in text
    (worker,) = Worker.all(connection=connection, serializer=JSONSerializer)
    assert f"worker {worker.name}" in text
    assert set(worker.queue_names()) >= {"add-high", "add", "add-low", "sleeps", "mends"}


def test_rq_requeue_runs_a_failed_job_again(service: Api, tmp_path: Path) -> None:
    job = service.done(service.submit("mends", input={"file": str(tmp_path / "file")})["id"])
    assert job["status"] == "failed"
    (tmp_path / "file").touch()

    rq(service, "requeue", "--queue", "mends", "--serializer", "rq.serializers.JSONSerializer", job["id"])

    def mended() -> Any:
        now = service.job(job["id"])
        assert now["status"] == "finished"
        return now

    done = eventually(mended)
    assert (done["output"], done["error"]) == ("mended", None)
    assert len(done["attempts"]) == 2


def test_rq_suspend_holds_the_worker_and_rq_resume_lets_it_go_on(service: Api, connection: redis.Redis) -> None:
    rq(service, "suspend")
    try:
        job = service.submit("add", input={"x": 1, "y": 2})
        assert service.job(job["id"], wait=2)["status"] == "queued"
    finally:
        rq(service, "resume")

    assert service.done(job["id"], within=8)["output"] == 3


def test_a_canceled_job_is_a_canceled_job_of_rq(service: Api, connection: redis.Redis) -> None:
    running = service.submit("sleeps", input={"seconds": 30})
    service.started(running["id"])
    waiting = service.submit("add", input={"x": 1, "y": 2})
    service.cancel(waiting["id"])
    service.cancel(running["id"])

    assert fetch(waiting, connection).get_status() == "canceled"
    assert waiting["id"] in queue("add", connection).canceled_job_registry.get_job_ids()
    service.done(running["id"])


def test_a_job_that_rq_canceled_is_not_run(service: Api, connection: redis.Redis) -> None:
    running = service.submit("sleeps", input={"seconds": 30})
    service.started(running["id"])
    waiting = service.submit("add", input={"x": 1, "y": 2})
    fetch(waiting, connection).cancel()
    service.cancel(running["id"])
    service.done(service.submit("add", input={"x": 0, "y": 0})["id"])

    job = service.job(waiting["id"])
    assert (job["status"], job["attempts"]) == ("canceled", [])


def test_a_job_that_rq_enqueued_for_our_entry_point_runs(service: Api, connection: redis.Redis) -> None:
    job = queue("add", connection).enqueue(ENTRY, "add", {"x": 20, "y": 22})

    def finished() -> None:
        assert job.get_status(refresh=True) == "finished"

    eventually(finished)
    assert job.return_value() == 42


@pytest.mark.parametrize("ttl", [-1, 0])
def test_a_job_that_rq_would_keep_for_ever_or_not_at_all_is_kept_for_ours(
    service: Api, connection: redis.Redis, ttl: int
) -> None:
    job = queue("add", connection).enqueue(ENTRY, "add", {"x": 1, "y": 2}, result_ttl=ttl)

    def finished() -> None:
        assert job.get_status(refresh=True) == "finished"

    eventually(finished)
    assert connection.ttl(job.key) > 80_000
    assert job.return_value() == 3


@pytest.mark.parametrize("serializer", ["json", "pickle"])
def test_a_job_of_rq_that_depends_on_ours_is_enqueued_when_ours_finishes(
    service: Api, connection: redis.Redis, serializer: str
) -> None:
    parent = service.submit("sleeps", input={"seconds": 1})
    others = queue("others", connection) if serializer == "json" else Queue("others", connection=connection)
    child = others.enqueue("os.getpid", depends_on=fetch(parent, connection))
    assert child.get_status() == "deferred"

    assert service.done(parent["id"])["status"] == "finished"

    def enqueued() -> None:
        assert child.get_status(refresh=True) == "queued"

    eventually(enqueued, within=5)
    assert child.id in others.get_job_ids()
    Job.fetch(child.id, connection=connection, serializer=others.serializer)  # its payload is still readable


def test_a_job_of_rq_that_depends_on_one_that_failed_stays_deferred(
    service: Api, connection: redis.Redis, tmp_path: Path
) -> None:
    blocker = service.submit("sleeps", input={"seconds": 30})
    service.started(blocker["id"])
    parent = service.submit("mends", input={"file": str(tmp_path / "file")})
    child = queue("others", connection).enqueue("os.getpid", depends_on=fetch(parent, connection))
    service.cancel(blocker["id"])

    assert service.done(parent["id"])["status"] == "failed"

    assert service.done(service.submit("add", input={"x": 1, "y": 2})["id"])["output"] == 3
    assert child.get_status(refresh=True) == "deferred"


def test_a_scheduled_retry_is_in_rqs_scheduled_registry(deployed: Deployment, connection: redis.Redis) -> None:
    deployed.write("""
        from service import Retry, model

        @model(retries=1)
        def later() -> None:
            raise Retry("in an hour", after=3600)
    """)
    deployed.worker()
    api = deployed.web()
    job = api.submit("later")

    def scheduled() -> None:
        assert api.job(job["id"])["status"] == "scheduled"

    eventually(scheduled)
    with redis.Redis.from_url(deployed.redis_url) as client:
        registry = ScheduledJobRegistry("later", connection=client, serializer=JSONSerializer)
        assert registry.get_job_ids() == [job["id"]]


def test_a_stock_rq_worker_runs_our_jobs_and_http_shows_how_they_ended(deployed: Deployment, tmp_path: Path) -> None:
    deployed.write(MODELS)
    worker = deployed.worker()
    api = deployed.web()
    worker.terminate()
    worker.wait(10)
    good = api.submit("add", input={"x": 1, "y": 2})
    bad = api.submit("mends", input={"file": str(tmp_path / "file")})

    code = """
import os, redis
from rq import SimpleWorker
from rq.serializers import JSONSerializer
with redis.Redis.from_url(os.environ["REDIS_URL"]) as connection:
    SimpleWorker(["add", "mends"], connection=connection, serializer=JSONSerializer).work(burst=True)
"""
    done = subprocess.run(
        [sys.executable, "-c", code], env=deployed.environment, cwd=tmp_path, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr

    finished = api.job(good["id"])
    assert (finished["status"], finished["output"]) == ("finished", 3)
    assert finished["ended_at"] is not None
    failed = api.job(bad["id"])
    assert (failed["status"], failed["error"]["message"]) == ("failed", "RuntimeError: it is broken")


def test_a_job_that_rq_deletes_while_it_runs_leaves_no_half_of_it_behind(service: Api, connection: redis.Redis) -> None:
    job = service.submit("sleeps", input={"seconds": 3})
    service.started(job["id"])

    fetch(job, connection).delete()

    next_job = service.submit("add", input={"x": 1, "y": 2})
    assert service.done(next_job["id"])["status"] == "finished"  # the deleted one is over, or was left
    assert connection.hgetall(f"rq:job:{job['id']}") == {}
    assert service.http.get(f"/v1/jobs/{job['id']}").status_code == 410
    assert connection.zrange("rq:wip:sleeps", 0, -1) == []

    def swept() -> None:
        left = list(connection.scan_iter(f"*{job['id']}*", count=1000))
        assert all(connection.ttl(key) > 0 for key in left), left

    eventually(swept, within=12)


def test_all_keys_of_jobs_that_are_over_expire(service: Api, connection: redis.Redis, tmp_path: Path) -> None:
    missing = str(tmp_path / "file")
    jobs = [
        service.done(service.submit("add", input={"x": 1, "y": 2})["id"]),
        service.done(service.submit("mends", input={"file": missing})["id"]),
    ]
    running = service.submit("sleeps", input={"seconds": 30})
    service.started(running["id"])
    waiting = service.submit("add", input={"x": 1, "y": 2})
    service.cancel(waiting["id"])
    service.cancel(running["id"])
    jobs += [service.done(running["id"]), service.job(waiting["id"])]
    assert [job["status"] for job in jobs] == ["finished", "failed", "stopped", "canceled"]

    for job in jobs:
        own = list(connection.scan_iter(f"*{job['id']}*", count=1000))
        assert own
        assert {key.decode(): connection.ttl(key) for key in own if connection.ttl(key) <= 0} == {}


def test_a_hundred_more_jobs_add_no_other_keys_than_their_own(service: Api, connection: redis.Redis) -> None:
    def others() -> set[bytes]:
        return {key for key in connection.scan_iter(count=1000) if not any(j.encode() in key for j in ids)}

    ids: list[str] = [service.done(service.submit("add", input={"x": 1, "y": 2})["id"])["id"]]
    before = others()

    submitted = [service.submit("add", input={"x": 1, "y": 2})["id"] for _ in range(100)]
    service.done(submitted[-1])
    for job_id in submitted:
        service.done(job_id)
    ids += submitted

    assert others() - before == set()
