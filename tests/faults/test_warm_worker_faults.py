"""A warm worker when Redis goes away, answers get lost, processes are killed: nothing is lost, nothing is doubled."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
import redis
from rq import Callback, Queue, Retry

from service.embedded import EmbeddedRedis
from service.worker import WarmWorker
from service.worker.warm_cleanup import clean_queue
from service.worker.warm_link import Horse, Running
from service.worker.warm_turns import Turns
from tests.deployment import children, until
from tests.forgetful import Forgetful
from tests.rq_workers import RqWorkers, rq_workers

pytestmark = pytest.mark.usefixtures("pickle_by_default")

AWAY = 10.0


@pytest.fixture
def workers(tmp_path: Path, redis_url: str) -> Iterator[RqWorkers]:
    """Workers of an RQ application, on an empty Redis."""
    with rq_workers(tmp_path, redis_url) as each:
        yield each


# ---------------------------------------------------------------- Redis is away


@pytest.fixture
def server(tmp_path: Path) -> Iterator[EmbeddedRedis]:
    """A Redis of this test's own, which it may kill."""
    with EmbeddedRedis(tmp_path / "redis", os.environ.get("TEST_REDIS_SERVER")) as each:
        yield each


def kill(server: EmbeddedRedis) -> None:
    server.kill()


def test_outcomes_are_held_while_redis_is_away_and_no_worker_ends(tmp_path: Path, server: EmbeddedRedis) -> None:
    with rq_workers(tmp_path, server.url) as workers:
        plain = workers.queue.enqueue("tasks.waits")
        called = workers.queue.enqueue("tasks.waits", on_success=Callback("tasks.succeeded"))
        failing = workers.queue.enqueue("tasks.waits_and_fails", retry=Retry(max=1, interval=[60]))
        started = [workers.start() for _ in range(3)]
        workers.noted("start", times=3)
        started.append(workers.ready(queues=("idle", "other")))

        kill(server)
        workers.go()
        workers.noted("end", times=3)
        time.sleep(AWAY)  # the time itself is what is tested
        server.restart()

        workers.becomes(plain, "finished")
        workers.becomes(called, "finished")
        workers.becomes(failing, "scheduled")
        late = Queue("other", connection=workers.connection).enqueue("tasks.says", "late")
        workers.becomes(late, "finished")
        assert [worker.poll() for worker in started] == [None] * 4
        assert Counter(workers.notes) == {"start": 3, "end": 3, f"success {called.id} waited": 1, "late": 1}
        assert [len(job.results()) for job in (plain, called, failing)] == [1, 1, 0]
        assert not workers.connection.zcard("rq:wip:low")


# ---------------------------------------------------------------- answers are lost


def test_nothing_is_doubled_when_answers_are_lost(tmp_path: Path, redis_url: str) -> None:
    proxy = Forgetful(tmp_path / "proxy.sock", redis_url.removeprefix("unix://"))
    with rq_workers(tmp_path, redis_url) as workers:
        workers.redis_url = proxy.url
        process = workers.ready("--name", "one", queues=("high", "low"))
        proxy.share = 0.2

        plain = [workers.queue.enqueue("tasks.says", f"plain {n}") for n in range(60)]
        called = [workers.queue.enqueue("tasks.add", n, 1, on_success=Callback("tasks.succeeded")) for n in range(20)]
        failing = [workers.queue.enqueue("tasks.fails", on_failure=Callback("tasks.failed")) for _ in range(20)]
        retried = [workers.queue.enqueue("tasks.says_and_fails", f"retry {n}", retry=Retry(max=1)) for n in range(20)]

        until(lambda: workers.connection.zcard("rq:finished:low") == 80, within=40)
        until(lambda: workers.connection.zcard("rq:failed:low") == 40, within=40)

        assert proxy.lost > 20
        assert process.poll() is None
        noted = Counter(workers.notes)
        assert {note: times for note, times in noted.items() if times != (2 if note.startswith("retry") else 1)} == {}
        assert sum(noted.values()) == 60 + 20 + 20 + 40
        doubled = [(job.description, job.id) for job in plain + called + failing + retried if len(job.results()) != 1]
        assert not doubled
        counters = workers.connection.hmget("rq:worker:one", "successful_job_count", "failed_job_count")
        assert counters == [b"80", b"60"]
        assert workers.connection.zcard("rq:wip:low") == 0
    proxy.close()


def test_a_retry_with_an_interval_is_one_transaction(workers: RqWorkers) -> None:
    job = workers.queue.enqueue("tasks.fails", retry=Retry(max=1, interval=60))
    with workers.connection.monitor() as monitor:
        workers.burst()
        workers.connection.ping()
        commands = []
        for command in monitor.listen():
            commands.append(command["command"])
            if command["command"] == "PING":
                break

    scheduled = [number for number, command in enumerate(commands) if " status scheduled" in command]
    assert scheduled
    for number in scheduled:
        before = [command for command in commands[:number] if command in ("MULTI", "EXEC")]
        assert before[-1] == "MULTI"
    assert workers.connection.zscore("rq:scheduled:low", job.id)


# ---------------------------------------------------------------- processes are killed


@pytest.mark.parametrize("queues", [("low",), ("high", "low")])
def test_no_job_is_lost_when_workers_are_killed_in_a_flood(workers: RqWorkers, queues: tuple[str, ...]) -> None:
    jobs = 2000
    workers.queue.enqueue_many([Queue.prepare_data("tasks.says", args=(str(n),)) for n in range(jobs)])
    for round_ in range(1, 4):
        process = workers.start("--quiet", queues=queues)
        until(lambda floor=round_ * 200: len(workers.notes) > floor)  # type: ignore[misc]
        process.kill()
        process.wait()

    killed = workers.connection.zrange("rq:wip:low", 0, -1)
    assert len(killed) <= 3
    assert workers.connection.zcard("rq:finished:low") + workers.queue.count + len(killed) == jobs
    assert max(Counter(workers.notes).values()) == 1


def test_a_killed_horse_costs_the_job_that_it_ran_and_no_other(workers: RqWorkers) -> None:
    jobs = 1500
    workers.queue.enqueue_many([Queue.prepare_data("tasks.says", args=(str(n),)) for n in range(jobs)])
    process = workers.start("--quiet")
    for round_ in range(1, 4):
        until(lambda floor=round_ * 200: len(workers.notes) > floor)  # type: ignore[misc]
        os.kill(children(process.pid)[-1], signal.SIGKILL)

    until(lambda: workers.connection.zcard("rq:finished:low") + workers.connection.zcard("rq:failed:low") == jobs)

    assert workers.connection.zcard("rq:failed:low") <= 3
    assert max(Counter(workers.notes).values()) == 1
    assert workers.connection.zcard("rq:wip:low") == 0


def fenced(queue: Queue) -> tuple[WarmWorker, Turns]:
    """A worker whose horse may take jobs from a queue, and the turns of that horse."""
    worker = WarmWorker([queue], connection=queue.connection, name="one")
    worker._fence()
    assert worker._turns is not None
    return worker, worker._turns


@pytest.mark.parametrize("begun", ["nothing", "another", "it"])
def test_only_a_job_that_a_dead_horse_had_begun_fails_and_the_other_is_first_in_its_queue_again(
    connection: redis.Redis, redis_url: str, begun: str
) -> None:
    queue = Queue("low", connection=connection)
    first, second = queue.enqueue("tasks.nothing"), queue.enqueue("tasks.nothing")
    worker, turns = fenced(queue)
    taken = turns.make(worker.queues, "start").send()
    horse = worker._horse = Horse(lambda pipe, _: pipe.recv_bytes())
    if begun != "nothing":
        execution_id = taken.execution_id if begun == "it" else "another"
        horse.page.begin(Running(execution_id, first.id, "low", 180, time.monotonic() + 180))

    os.kill(horse.pid, signal.SIGKILL)
    worker._bury_horse(horse)

    assert first.get_status().value == ("failed" if begun == "it" else "queued")
    assert queue.job_ids == ([second.id] if begun == "it" else [first.id, second.id])
    assert not connection.keys("rq:execution:*")
    assert not connection.zcard("rq:wip:low")


def test_a_job_that_is_given_back_twice_is_queued_once(connection: redis.Redis, redis_url: str) -> None:
    queue = Queue("low", connection=connection)
    first, second = queue.enqueue("tasks.nothing"), queue.enqueue("tasks.nothing")
    worker, turns = fenced(queue)
    taken = turns.make(worker.queues, "start").send()

    worker._give_back(first.id, taken.execution_id)
    worker._give_back(first.id, taken.execution_id)

    assert queue.job_ids == [first.id, second.id]


def test_a_turn_of_a_horse_that_was_given_up_changes_nothing(connection: redis.Redis, redis_url: str) -> None:
    queue = Queue("low", connection=connection)
    job = queue.enqueue("tasks.nothing")
    worker, turns = fenced(queue)
    late = turns.make(worker.queues, "start")
    worker._fence()

    assert late.send().word == "fenced"

    assert queue.job_ids == [job.id]


def test_a_turn_that_is_sent_twice_takes_one_job(connection: redis.Redis, redis_url: str) -> None:
    queue = Queue("low", connection=connection)
    first, second = queue.enqueue("tasks.nothing"), queue.enqueue("tasks.nothing")
    worker, turns = fenced(queue)
    turn = turns.make(worker.queues, "start")

    assert turn.send() == turn.send()

    assert queue.job_ids == [second.id]
    assert connection.zcard("rq:wip:low") == 1
    assert first.get_status().value == "started"


# ---------------------------------------------------------------- jobs are abandoned


def test_an_abandoned_job_is_queued_once_however_many_clean_up_at_once(connection: redis.Redis, redis_url: str) -> None:
    queue = Queue("low", connection=connection)
    for _ in range(10):
        connection.flushall()
        job = queue.enqueue("tasks.nothing", retry=Retry(max=2))
        worker, turns = fenced(queue)
        turns.make(worker.queues, "start").send()
        (member,) = connection.zrange("rq:wip:low", 0, -1)
        connection.zadd("rq:wip:low", {member: time.time() - 1})
        barrier = threading.Barrier(4)

        def clean(barrier: threading.Barrier = barrier) -> None:
            with redis.Redis.from_url(redis_url) as own:
                barrier.wait()
                clean_queue(Queue("low", connection=own), [], lambda *_: None)

        threads = [threading.Thread(target=clean) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

        assert queue.job_ids == [job.id]
        assert connection.zcard("rq:wip:low") == 0


def test_an_abandoned_job_without_retries_fails_as_in_rq_and_an_unreadable_one_holds_up_nobody(
    workers: RqWorkers,
) -> None:
    jobs = [workers.queue.enqueue("tasks.waits", job_id=name) for name in ("poison", "left")]
    for _ in jobs:
        process = workers.start()
        workers.noted("start", times=len(workers.processes))
        process.kill()
        process.wait()
    for member in workers.connection.zrange("rq:wip:low", 0, -1):
        workers.connection.zadd("rq:wip:low", {member: time.time() - 1})
    workers.connection.hset("rq:job:poison", "created_at", "yesterday")

    workers.burst()

    assert workers.status(jobs[1]) == "failed"
    assert "AbandonedJobError" in workers.failure(jobs[1])
    assert set(workers.connection.zrange("rq:failed:low", 0, -1)) == {b"poison", b"left"}


# ---------------------------------------------------------------- what is in Redis is garbage


@pytest.mark.parametrize(
    ("field", "value", "status"),
    [
        ("timeout", "9" * 400, "finished"),
        ("timeout", "nan", "failed"),
        ("result_ttl", "9" * 30, "finished"),
        ("retries_left", "x", "failed"),
        ("data", b"\xff\xfe", "failed"),
        ("origin", b"\xff", "failed"),
        ("meta", b"\x80", "finished"),
        ("group_id", b"\xff", "failed"),
        ("worker_name", b"\xff", "finished"),
    ],
)
def test_a_job_with_an_odd_hash_ends_and_holds_up_nobody(
    workers: RqWorkers, field: str, value: str | bytes, status: str
) -> None:
    odd, next_one = (workers.queue.enqueue("tasks.add", 1, 2) for _ in range(2))
    workers.connection.hset(odd.key, field, value)

    workers.burst()

    assert [workers.status(odd), workers.status(next_one)] == [status, "finished"]
    assert workers.connection.zcard("rq:wip:low") == 0


def test_a_failed_job_whose_failure_is_to_be_kept_for_ages_is_kept(workers: RqWorkers) -> None:
    job = workers.queue.enqueue("tasks.fails")
    workers.connection.hset(job.key, "failure_ttl", "9" * 400)

    workers.burst()

    assert workers.status(job) == "failed"


@pytest.mark.parametrize(
    "key",
    [
        *("rq:results:odd", "rq:executions:odd", "rq:job:odd:dependents", "rq:job::odd:dependencies"),
        *("rq:finished:low", "rq:wip:low", "rq:worker:one:executions", "rq:queue:low:intermediate", "rq:warm:one"),
        *("rq:queue:high", "rq:failed:low", "rq:ready:low"),
    ],
)
def test_a_string_where_something_else_should_be_loses_no_job_and_ends_no_worker(workers: RqWorkers, key: str) -> None:
    odd, next_one = workers.queue.enqueue("tasks.add", 1, 2, job_id="odd"), workers.queue.enqueue("tasks.add", 1, 2)
    workers.connection.set(key, "x")

    workers.burst("--name", "one", queues=("high", "low"))

    assert workers.status(odd) == ("failed" if key == "rq:job:odd:dependents" else "finished")
    assert workers.status(next_one) == "finished"


def test_members_that_are_no_jobs_keep_no_abandoned_job_from_being_found(workers: RqWorkers) -> None:
    job = workers.queue.enqueue("tasks.nothing")
    past = time.time() - 1
    workers.connection.lpush("rq:queue:low", b"\xff", "a b", "")
    workers.connection.hset(b"rq:job:\xff", "data", "x")
    workers.connection.zadd("rq:wip:low", {b"\xff:\xfe": past, "one": past, ":": past, "gone:x": past, "left:x": past})
    workers.connection.zadd("rq:ready:low", {b"\xff": 1})
    workers.connection.sadd("rq:workers:low", b"\xff")
    left = workers.queue.create_job("tasks.nothing", job_id="left")
    left.save()
    workers.connection.hset(left.key, mapping={"status": "started", "origin": "low"})

    workers.burst()

    assert [workers.status(job), workers.status(left)] == ["finished", "failed"]
    assert workers.connection.zcard("rq:wip:low") == 0
