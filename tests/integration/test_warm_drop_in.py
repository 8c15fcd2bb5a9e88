"""WarmWorker stands in for RQ's workers in applications that have classes of their own, observers, many queues."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import redis
from rq import Queue
from rq.command import send_command
from rq.job import Job

from service.worker import WarmWorker
from tests.deployment import until
from tests.rq_workers import RqWorkers, rq_workers

pytestmark = pytest.mark.usefixtures("pickle_by_default")

OWN = """
    from rq.job import Job
    from rq.queue import Queue
    from service.worker import WarmWorker
    from tasks import note

    class OwnJob(Job):
        redis_job_namespace_prefix = "app:job:"

    class OwnKeyJob(Job):
        @classmethod
        def key_for(cls, job_id):
            return "app:keys:" + job_id

    class FetchedJob(OwnJob):
        @classmethod
        def fetch(cls, *args, **kwargs):
            note("fetched")
            return super().fetch(*args, **kwargs)

    class ReadJob(Job):
        def restore(self, raw_data):
            note("created " + raw_data[b"created_at"].decode()[:2])
            super().restore(raw_data)

    class OwnQueue(Queue):
        redis_queue_namespace_prefix = "app:queue:"
        redis_queues_keys = "app:queues"

    class LastFirst(Queue):
        @classmethod
        def dequeue_any(cls, queues, *args, **kwargs):
            note("dequeue")
            return super().dequeue_any(list(reversed(queues)), *args, **kwargs)

    class OwnWorker(WarmWorker):
        redis_worker_namespace_prefix = "app:worker:"
"""

# What sentry-sdk does (integrations/rq.py): another function in the place of RQ's, on RQ's own class.
OBSERVED = """
    import functools
    import rq.worker
    from tasks import note

    plain = rq.worker.Worker.perform_job

    @functools.wraps(plain)
    def observed(self, job, *args, **kwargs):
        note("observed " + job.id)
        return plain(self, job, *args, **kwargs)

    rq.worker.Worker.perform_job = observed
    from service.worker import WarmWorker
"""

# A host whose clock is wrong: before anything reads it.
CLOCK = """
    import datetime, os, time
    ahead = float(os.environ.get("CLOCK_AHEAD", 0))
    plain_time, plain_datetime = time.time, datetime.datetime

    class Shifted(plain_datetime):
        @classmethod
        def now(cls, tz=None):
            return plain_datetime.now(tz) + datetime.timedelta(seconds=ahead)

    if ahead:
        time.time = lambda: plain_time() + ahead
        datetime.datetime = Shifted
"""


@pytest.fixture
def workers(tmp_path: Path, redis_url: str) -> Iterator[RqWorkers]:
    """Workers of an RQ application, on an empty Redis."""
    with rq_workers(tmp_path, redis_url) as each:
        each.write("own.py", OWN)
        yield each


class OwnJob(Job):
    redis_job_namespace_prefix = "app:job:"


class OwnKeyJob(Job):
    @classmethod
    def key_for(cls, job_id: str) -> str:
        return "app:keys:" + job_id


class OwnQueue(Queue):
    redis_queue_namespace_prefix = "app:queue:"
    redis_queues_keys = "app:queues"


# ---------------------------------------------------------------- classes of an application


@pytest.mark.parametrize(
    ("kind", "name"),
    [(OwnJob, "OwnJob"), (OwnKeyJob, "OwnKeyJob"), (OwnJob, "FetchedJob")],
    ids=["prefix", "key_for", "fetch"],
)
def test_jobs_of_a_class_with_keys_of_its_own_run_in_a_warm_horse(
    workers: RqWorkers, kind: type[Job], name: str
) -> None:
    queue = Queue("low", connection=workers.connection, job_class=kind)
    jobs = [queue.enqueue("tasks.counts") for _ in range(3)]
    failing = queue.enqueue("tasks.fails")

    workers.burst("--job-class", f"own.{name}")

    assert [job.get_status().value for job in jobs] == ["finished"] * 3
    assert [job.return_value()[1] for job in jobs] == [1, 2, 3]
    assert failing.get_status().value == "failed"
    assert workers.notes.count("fetched") == (4 if name == "FetchedJob" else 0)
    assert workers.connection.keys("rq:job:*") == []


def test_a_job_of_such_a_class_is_stopped_killed_and_given_back_like_any_other(workers: RqWorkers) -> None:
    queue = Queue("low", connection=workers.connection, job_class=OwnJob)
    stopped, late = queue.enqueue("tasks.in_c"), queue.enqueue("tasks.will_not_hear", job_timeout=1)
    process = workers.start("--job-class", "own.OwnJob")
    workers.noted("start")

    stop(workers, stopped)
    until(lambda: late.get_status().value == "failed")
    left = queue.enqueue("tasks.waits")
    workers.noted("start", times=3)
    workers.kill(process)

    assert stopped.get_status().value == "stopped"
    assert left.get_status().value == "started"


def stop(workers: RqWorkers, job: Job) -> None:
    """As send_stop_job_command, which looks for a job of RQ's own class."""
    (worker,) = workers.connection.smembers("rq:workers")
    send_command(workers.connection, worker.decode().removeprefix("rq:worker:"), "stop-job", job_id=job.id)
    until(lambda: job.get_status().value == "stopped")


def test_a_job_class_reads_a_hash_as_redis_has_it(workers: RqWorkers) -> None:
    workers.queue.enqueue("tasks.nothing")

    workers.burst("--job-class", "own.ReadJob")

    assert workers.notes == ["created 20"]


def test_a_queue_class_with_keys_of_its_own_is_served_at_once(workers: RqWorkers) -> None:
    queue = OwnQueue("low", connection=workers.connection)
    workers.ready("--queue-class", "own.OwnQueue")

    job = queue.enqueue("tasks.nothing")

    workers.becomes(job, "finished")


def test_a_queue_class_with_its_own_way_to_dequeue_is_asked(workers: RqWorkers) -> None:
    first = workers.queue.enqueue("tasks.says", "low")
    last = Queue("other", connection=workers.connection).enqueue("tasks.says", "other")

    workers.burst("--queue-class", "own.LastFirst", queues=("low", "other"))

    assert [note for note in workers.notes if note != "dequeue"] == ["other", "low"]
    assert workers.notes.count("dequeue") == 3
    assert (first.is_finished, last.is_finished) == (True, True)


def test_a_worker_class_with_keys_of_its_own_is_one_of_them(workers: RqWorkers) -> None:
    job = workers.queue.enqueue("tasks.waits")
    workers.start("--name", "one", kind="own.OwnWorker")
    workers.noted("start")

    assert workers.connection.smembers("rq:worker:one:executions") != set()
    assert workers.connection.hget("app:worker:one", "state") == b"busy"
    workers.go()
    workers.becomes(job, "finished")
    assert workers.connection.hget("app:worker:one", "successful_job_count") == b"1"


def test_what_an_observer_puts_in_the_place_of_rqs_methods_is_called(workers: RqWorkers) -> None:
    workers.write("observed.py", OBSERVED)
    jobs = [workers.queue.enqueue("tasks.counts") for _ in range(2)]

    workers.burst(kind="observed.WarmWorker")

    assert workers.notes == [f"observed {job.id}" for job in jobs]
    assert jobs[1].return_value()[1] == 2


def test_a_job_finds_the_process_as_the_first_one_did(workers: RqWorkers) -> None:
    before = workers.queue.enqueue("tasks.surroundings")
    workers.queue.enqueue("tasks.changes_its_process")
    after = workers.queue.enqueue("tasks.surroundings")

    workers.burst()

    assert after.return_value() == before.return_value()
    assert after.return_value()[2:] == [True, False]


# ---------------------------------------------------------------- many of everything


def test_a_hundred_and_fifty_queues_are_served(workers: RqWorkers) -> None:
    names = tuple(f"q{number}" for number in range(150))
    workers.ready(queues=names)

    jobs = [Queue(name, connection=workers.connection).enqueue("tasks.nothing") for name in (names[0], names[-1])]

    for job in jobs:
        workers.becomes(job, "finished")


def test_workers_that_have_ended_leave_no_connection(redis_url: str) -> None:
    with redis.Redis.from_url(redis_url) as connection:
        Queue("low", connection=connection).enqueue(len, "a")
        for _ in range(3):
            WarmWorker(["low"], connection=connection).work(burst=True)
        before = len(connection.client_list())
        for _ in range(10):
            WarmWorker(["low"], connection=connection).work(burst=True)

        assert len(connection.client_list()) <= before


def test_the_connections_of_the_caller_are_left_for_the_caller(redis_url: str) -> None:
    pool = redis.ConnectionPool.from_url(redis_url, max_connections=3)
    with redis.Redis.from_pool(pool) as connection:
        job = Queue("low", connection=connection).enqueue(len, "a")
        for _ in range(5):
            WarmWorker(["low"], connection=connection).work(burst=True)

        assert job.is_finished


# ---------------------------------------------------------------- names, commands


def test_of_two_workers_of_one_name_that_start_at_once_one_is_refused(workers: RqWorkers) -> None:
    processes = [workers.start("--name", "same") for _ in range(4)]

    until(lambda: sum(process.poll() is None for process in processes) == 1)
    job = workers.queue.enqueue("tasks.nothing")
    workers.becomes(job, "finished")
    refused = [workers.log(process) for process in processes if process.poll() is not None]
    assert all("There exists an active worker named 'same' already" in log for log in refused)


def test_the_thread_for_commands_ends_where_rqs_ends_and_goes_on_when_redis_refuses_for_now(redis_url: str) -> None:
    with redis.Redis.from_url(redis_url) as connection:
        worker = WarmWorker(["low"], connection=connection)
        worker._pubsub_exception_handler(redis.exceptions.ConnectionError(), None, None)
        worker._pubsub_exception_handler(redis.exceptions.ResponseError("LOADING ..."), None, None)
        try:
            raise ValueError("I/O operation on closed file")
        except ValueError as error:
            with pytest.raises(ValueError, match="closed file"):
                worker._pubsub_exception_handler(error, None, None)


@pytest.mark.parametrize("gone", ["all", "its places in the sets"])
def test_a_worker_is_listed_again_when_what_redis_knew_of_it_has_gone(workers: RqWorkers, gone: str) -> None:
    workers.ready("--name", "one")
    if gone == "all":
        workers.connection.flushall()
    else:
        workers.connection.delete("rq:workers", "rq:workers:low")

    until(lambda: workers.connection.smembers("rq:workers") == {b"rq:worker:one"}, 30)
    assert workers.connection.smembers("rq:workers:low") == {b"rq:worker:one"}
    until(lambda: workers.connection.hget("rq:worker:one", "queues") == b"low", 30)  # its hash follows its place
    job = workers.queue.enqueue("tasks.nothing")
    workers.becomes(job, "finished")


# ---------------------------------------------------------------- wrong clocks


def clean_up_with_a_clock(workers: RqWorkers, ahead: float) -> None:
    """Let another host's worker, whose clock is wrong, do its maintenance."""
    workers.environment["CLOCK_AHEAD"] = str(ahead)
    workers.burst()
    workers.environment.pop("CLOCK_AHEAD")


@pytest.mark.parametrize(("own", "others"), [(0, 300), (-300, 0), (300, -300)])
def test_a_running_job_is_not_taken_back_by_a_host_with_another_clock(
    workers: RqWorkers, own: float, others: float
) -> None:
    workers.write("sitecustomize.py", CLOCK)
    job = workers.queue.enqueue("tasks.waits", job_timeout=60)
    workers.environment["CLOCK_AHEAD"] = str(own)
    workers.start("--job-monitoring-interval", "1")
    workers.noted("start")
    (member,) = workers.connection.zrange("rq:wip:low", 0, -1)
    first = workers.connection.zscore("rq:wip:low", member)
    until(lambda: workers.connection.zscore("rq:wip:low", member) != first)  # it has written a heartbeat of its own

    clean_up_with_a_clock(workers, others)

    assert workers.connection.zrange("rq:wip:low", 0, -1) == [member]
    workers.go()
    workers.becomes(job, "finished")
    assert workers.notes == ["start", "end"]


def test_a_job_whose_worker_died_is_found_whatever_the_clocks_say(workers: RqWorkers) -> None:
    workers.write("sitecustomize.py", CLOCK)
    job = workers.queue.enqueue("tasks.waits", job_timeout=60)
    workers.environment["CLOCK_AHEAD"] = "100000"
    process = workers.start()
    workers.noted("start")
    workers.kill(process)
    (member,) = workers.connection.zrange("rq:wip:low", 0, -1)
    lease = workers.connection.zscore("rq:wip:low", member)
    assert lease is not None
    assert lease < time.time() + 200
    workers.connection.zadd("rq:wip:low", {member: time.time() - 1})

    clean_up_with_a_clock(workers, -100000)

    assert workers.status(job) == "failed"


def test_more_abandoned_jobs_than_are_cleaned_up_at_once_are_all_found(workers: RqWorkers) -> None:
    jobs = [workers.queue.enqueue("tasks.nothing", job_id=f"left{number}") for number in range(250)]
    workers.connection.delete("rq:queue:low")
    for job in jobs:
        workers.connection.hset(job.key, "status", "started")
    workers.connection.zadd("rq:wip:low", {f"{job.id}:one": time.time() - 1 for job in jobs})

    workers.burst()

    assert {workers.status(job) for job in jobs} == {"failed"}
