"""Who can write to Redis must not own the workers: what this service did not write is refused, and hurts nobody."""

from __future__ import annotations

import json
import pickle
import subprocess
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import redis
from rq import Queue
from rq.serializers import JSONSerializer

from service.embedded import EmbeddedRedis
from tests.deployment import Api, Deployment, eventually

MODELS = """
    import time
    from service import model

    @model
    def add(x: int, y: int) -> int:
        return x + y

    @model(timeout=60)
    def sleeps(seconds: float) -> None:
        time.sleep(seconds)
"""

ENTRY = "service.worker.entry.run"


class Served(Deployment):
    """A deployment that serves MODELS, with its worker and a caller."""

    worker_process: subprocess.Popen[bytes]
    caller: Api

    def revive(self) -> None:
        """Have a worker, even if the test before has ended it."""
        if not hasattr(self, "worker_process") or self.worker_process.poll() is not None:
            self.worker_process = self.worker()


@pytest.fixture(scope="module")
def deployed_once(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    folder = tmp_path_factory.mktemp("refused")
    with EmbeddedRedis(folder / "redis") as server:
        each = Served(folder, server.url)
        try:
            each.write(MODELS)
            each.caller = each.web()
            yield each
        finally:
            each.close()


@pytest.fixture
def connection(deployed_once: Served) -> Iterator[redis.Redis]:
    """A client of the Redis of that deployment."""
    with redis.Redis.from_url(deployed_once.redis_url) as client:
        yield client


@pytest.fixture
def served(deployed_once: Served, connection: redis.Redis) -> Iterator[Served]:
    """That deployment, with a worker that lives and nothing left of what other tests wrote by hand."""
    connection.delete("rq:wip:add", "rq:queue:add")
    deployed_once.revive()
    yield deployed_once
    connection.delete("rq:wip:add", "rq:queue:add", "rq:job:odd")


@pytest.fixture
def queue(connection: redis.Redis) -> Queue:
    """The queue of the model add, as any RQ application sees it."""
    return Queue("add", connection=connection, serializer=JSONSerializer)


def fields(connection: redis.Redis, job_id: str) -> dict[str, str]:
    """A job's hash, once the job has failed."""

    def check() -> dict[str, str]:
        raw: Any = connection.hgetall(f"rq:job:{job_id}")
        found = {name.decode(): value.decode(errors="replace") for name, value in raw.items() if name != b"data"}
        assert found.get("status") == "failed", found
        return found

    return eventually(check, within=8)


def assert_it_serves(served: Served) -> None:
    """The worker lives and runs jobs."""
    job = served.caller.submit("add", input={"x": 1, "y": 2})

    def over() -> None:
        dead = served.worker_process.poll() is not None
        assert dead or served.caller.job(job["id"])["done"]

    eventually(over)
    last_words = served.worker_process.log.read_text()[-400:]  # type: ignore[attr-defined]
    assert served.worker_process.poll() is None, last_words
    assert served.caller.job(job["id"])["status"] == "finished"


def test_functions_other_than_the_entry_point_are_refused_and_not_run(
    served: Served, queue: Queue, connection: redis.Redis, tmp_path: Path
) -> None:
    touched = tmp_path / "touched"
    jobs = [
        queue.enqueue("os.system", f"touch {touched}"),
        queue.enqueue("builtins.eval", f"open({str(touched)!r}, 'w')"),
        queue.enqueue("subprocess.call", ["touch", str(touched)]),
        queue.enqueue("service.worker.entry.run", "add", {"x": 1, "y": 2}, surplus=1),
        queue.enqueue("service.worker.entry._models"),
    ]

    for job in jobs:
        assert json.loads(fields(connection, job.id)["error"])["type"] == "refused"
    assert not touched.exists()
    assert_it_serves(served)


def test_pickled_jobs_are_refused_and_not_unpickled(served: Served, connection: redis.Redis, tmp_path: Path) -> None:
    touched = tmp_path / "touched"

    class Bomb:
        def __reduce__(self) -> Any:
            return Path.touch, (touched,)

    plain = Queue("add", connection=connection).enqueue("os.system", f"touch {touched}")
    bomb = Queue("add", connection=connection, serializer=JSONSerializer).create_job(ENTRY, ("add", {"x": 1, "y": 2}))
    bomb.save()
    connection.hset(f"rq:job:{bomb.id}", "data", zlib.compress(pickle.dumps(Bomb())))
    connection.hset(f"rq:job:{bomb.id}", mapping={"status": "queued", "meta": pickle.dumps(Bomb())})
    connection.rpush("rq:queue:add", bomb.id)

    for job in (plain, bomb):
        assert json.loads(fields(connection, job.id)["error"])["type"] == "refused"
    assert not touched.exists()
    assert_it_serves(served)


@pytest.mark.parametrize("kind", ["success", "failure", "stopped"])
def test_callbacks_named_in_a_job_are_not_called(
    served: Served, queue: Queue, connection: redis.Redis, tmp_path: Path, kind: str
) -> None:
    touched = tmp_path / "touched"
    job = queue.create_job(ENTRY, ("add", {"x": 1, "y": "no" if kind == "failure" else 2}))
    job.save()
    connection.hset(f"rq:job:{job.id}", mapping={"status": "queued", f"{kind}_callback_name": "os.system"})
    connection.rpush("rq:queue:add", job.id)

    def ended() -> None:
        assert connection.hget(f"rq:job:{job.id}", "status") in (b"finished", b"failed")

    eventually(ended)
    assert not touched.exists()
    assert "os.system" not in served.worker_process.log.read_text()  # type: ignore[attr-defined]
    assert_it_serves(served)


def test_a_job_of_a_model_that_is_not_there_fails(served: Served, queue: Queue, connection: redis.Redis) -> None:
    job = queue.enqueue(ENTRY, "subtract", {"x": 1, "y": 2})

    error = json.loads(fields(connection, job.id)["error"])
    assert error["type"] in ("unknown_model", "refused")
    assert "subtract" in error["message"]
    assert_it_serves(served)


def test_input_that_came_past_the_web_is_checked_all_the_same(
    served: Served, queue: Queue, connection: redis.Redis
) -> None:
    job = queue.enqueue(ENTRY, "add", {"x": "one", "y": 2})

    assert json.loads(fields(connection, job.id)["error"])["type"] == "invalid_input"
    assert_it_serves(served)


UNREADABLE: dict[str, dict[Any, Any]] = {
    "no data": {"data": None},
    "empty data": {"data": b""},
    "data that is no JSON": {"data": b"\x80\x04\x95"},
    "deeply nested data": {"data": zlib.compress(b"[" * 100_000)},
    "no origin": {"origin": None},
    "origin that is no text": {"origin": b"\xff\xfe"},
    "timeout that is no number": {"timeout": "soon"},
    "fractional timeout": {"timeout": "1.5"},
    "result_ttl that is no number": {"result_ttl": "long"},
    "failure_ttl that is no number": {"failure_ttl": "long", "data": b""},
    "retries that are no number": {"retries_left": "many", "data": zlib.compress(json.dumps([1]).encode())},
    "attempts that are no number": {"attempts": "many"},
    "start_deadline that is no number": {"start_deadline": "soon"},
    "meta that is no JSON": {"meta": b"\xff{"},
    "a field name that is no text": {b"\xff\xfe": "x"},
    "a bad date": {"created_at": "yesterday"},
}


@pytest.mark.parametrize("what", UNREADABLE)
def test_a_job_that_cannot_be_read_does_not_hurt_the_worker(served: Served, connection: redis.Redis, what: str) -> None:
    written: dict[Any, Any] = {
        "data": zlib.compress(json.dumps([ENTRY, None, ["add", {"x": 1, "y": 2}], {}]).encode()),
        "status": "queued",
        "origin": "add",
        "created_at": "2026-01-01T00:00:00.000000Z",
        "timeout": "30",
    } | UNREADABLE[what]
    connection.hset("rq:job:odd", mapping={name: value for name, value in written.items() if value is not None})
    connection.rpush("rq:queue:add", "odd")

    assert_it_serves(served)


def test_an_id_without_a_readable_job_does_not_hurt_the_worker(served: Served, connection: redis.Redis) -> None:
    connection.set("rq:job:text", "no hash at all")
    connection.hset("rq:job:weird", mapping={"status": "no-such-status", "data": "x"})
    connection.hset("rq:job:bare", "meta", "{}")
    connection.rpush("rq:queue:add", "text", "weird", "bare", "missing", b"\xff\xfe", "a:b", "")

    assert_it_serves(served)
    assert connection.llen("rq:queue:add") == 0


def test_a_held_job_that_cannot_be_read_does_not_stop_the_recovery_of_others(
    served: Served, connection: redis.Redis
) -> None:
    payload = zlib.compress(json.dumps([ENTRY, None, ["add", {"x": 1, "y": 2}], {}]).encode())
    good = {"data": payload, "status": "started", "origin": "add", "started_at": "2026-01-01T00:00:00.000000Z"}
    odd: dict[str, dict[Any, Any]] = {
        "odd1": {"attempts": "1", "attempt:1": "no JSON"},
        "odd2": {b"\xff\xfe": "x"},
        "odd3": {"started_at": "yesterday"},
        "odd4": {"retries_left": "many"},
        "odd5": {"attempts": "1", "attempt:1": "[]"},
    }
    for job_id, changed in {**odd, "good": {}}.items():
        connection.delete(f"rq:job:{job_id}")
        connection.hset(f"rq:job:{job_id}", mapping={**good, **changed})
        connection.set(f"service:job:{job_id}:known", "1")
        connection.zadd("rq:wip:add", {f"{job_id}:e1": 1})

    assert json.loads(fields(connection, "good")["error"])["type"] == "lost"
    assert_it_serves(served)
