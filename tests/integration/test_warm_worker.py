"""WarmWorker does for an RQ application what RQ's own Worker does, with one work-horse for all jobs."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import redis
from rq import Callback, Queue, Repeat, Retry
from rq.command import send_kill_horse_command, send_stop_execution_command, send_stop_job_command
from rq.group import Group
from rq.job import Dependency
from rq.results import Result
from rq.serializers import JSONSerializer
from rq.suspension import resume, suspend

from tests.deployment import children, until
from tests.rq_workers import STOCK, WARM, RqWorkers, rq_workers

pytestmark = pytest.mark.usefixtures("pickle_by_default")


@pytest.fixture
def workers(tmp_path: Path, redis_url: str) -> Iterator[RqWorkers]:
    """Workers of an RQ application, on an empty Redis."""
    with rq_workers(tmp_path, redis_url) as each:
        yield each


def return_value(job: Any) -> Any:
    return job.return_value(refresh=True)


# ---------------------------------------------------------------- what is left in Redis

VOLATILE = {b"birth", b"last_heartbeat", b"pid", b"ip_address", b"death", b"started_at", b"ended_at", b"enqueued_at"}
VOLATILE |= {b"created_at", b"total_working_time"}


def left_behind(connection: redis.Redis) -> dict[str, Any]:
    """All keys, with their type, rough time to live, and what of them is the same each time."""
    found: dict[str, Any] = {}
    for key in connection.keys("*"):
        kind = connection.type(key).decode()
        content: Any = None
        if kind == "hash":
            content = {k: None if k in VOLATILE else v for k, v in connection.hgetall(key).items()}
        elif kind == "stream":
            content = [
                {k: None if k.startswith(b"execution") or k == b"exc_string" else v for k, v in entry.items()}
                for _, entry in connection.xrange(key)
            ]
        elif kind == "zset":
            scores = connection.zrange(key, 0, -1, withscores=True)
            # -1 stands for never; all others are a moment.
            content = sorted((m, round(s - time.time(), -1) if s > 0 else s) for m, s in scores)
        elif kind == "set":
            content = connection.smembers(key)
        found[key.decode()] = (kind, round(connection.ttl(key), -1), content)
    return found


def run_one_of_each(workers: RqWorkers, kind: str) -> dict[str, Any]:
    workers.connection.flushall()
    for number, options in enumerate(
        [{}, {"result_ttl": 0}, {"result_ttl": 70}, {"result_ttl": -1}, {"meta": {"a": 1}}]
    ):
        workers.queue.enqueue("tasks.add", 1, 2, job_id=f"ok{number}", description="add", **options)
        workers.queue.enqueue("tasks.nothing", job_id=f"none{number}", **options)
    for number, options in enumerate([{}, {"failure_ttl": 0}, {"failure_ttl": 70}, {"failure_ttl": -1}, {"ttl": 90}]):
        workers.queue.enqueue("tasks.fails", job_id=f"no{number}", **options)
    workers.queue.enqueue("tasks.add", 1, 1, job_id="callback", on_success=Callback("tasks.succeeded"))
    workers.queue.enqueue("tasks.fails", job_id="again", retry=Retry(max=1))
    parent = workers.queue.enqueue("tasks.add", 1, 1, job_id="parent")
    workers.queue.enqueue("tasks.add", 1, 1, job_id="child", depends_on=parent)
    workers.burst("--name", "one", kind=kind)
    return left_behind(workers.connection)


def test_every_key_is_left_as_stock_rq_leaves_it(workers: RqWorkers) -> None:
    stock = run_one_of_each(workers, STOCK)
    warm = run_one_of_each(workers, WARM)

    assert sorted(warm) == sorted(stock)
    assert warm == stock


def test_a_running_job_looks_as_with_stock_rq(workers: RqWorkers) -> None:
    seen = []
    for kind in (STOCK, WARM):
        workers.connection.flushall()
        (workers.folder / "notes").write_text("")
        workers.queue.enqueue("tasks.will_not_hear", job_id="runs")
        process = workers.start("--name", "one", kind=kind)
        workers.noted("start")
        keys = {
            key.replace(key.split(":")[-1], "id") if key.startswith("rq:execution:") else key: kind_of
            for key, (kind_of, _, _) in left_behind(workers.connection).items()
            if not key.startswith("rq:warm:")
        }
        hash_fields = set(workers.connection.hgetall("rq:job:runs"))
        (execution,) = workers.connection.keys("rq:execution:*")
        state = workers.connection.hget("rq:worker:one", "state")
        seen.append((keys, hash_fields, set(workers.connection.hgetall(execution)), state))
        workers.kill(process)

    assert seen[0] == seen[1]


# ---------------------------------------------------------------- outcomes


def test_a_result_is_stored(workers: RqWorkers) -> None:
    job = workers.queue.enqueue("tasks.add", 1, 2)

    workers.burst()

    assert job.is_finished
    assert return_value(job) == 3


def test_a_module_is_loaded_once_for_all_jobs(workers: RqWorkers) -> None:
    jobs = [workers.queue.enqueue("tasks.counts") for _ in range(3)]

    workers.burst()

    (pid, first), (same, second), (still, third) = [return_value(job) for job in jobs]
    assert pid == same == still
    assert [first, second, third] == [1, 2, 3]


def test_the_worker_itself_imports_no_job_code(workers: RqWorkers) -> None:
    workers.write("spy.py", "import os\nfrom tasks import note\nnote(f'imported by {os.getpid()}')\ndef run(): pass\n")
    workers.queue.enqueue("spy.run")

    process = workers.start("--burst")

    assert process.wait(20) == 0
    assert len(workers.notes) == 1
    assert workers.notes != [f"imported by {process.pid}"]


def test_a_failure_is_stored_and_the_next_job_runs(workers: RqWorkers) -> None:
    failing = [workers.queue.enqueue(f"tasks.{name}") for name in ("fails", "exits", "missing")]
    failing.append(workers.queue.enqueue("no_such_module.run"))
    last = workers.queue.enqueue("tasks.add", 1, 2)

    workers.burst()

    assert [job.get_status().value for job in failing] == ["failed"] * 4
    assert "it cannot be" in workers.failure(failing[0])
    assert "SystemExit: 3" in workers.failure(failing[1])
    assert return_value(last) == 3


def test_a_result_that_cannot_be_serialised_is_replaced_as_in_rq(workers: RqWorkers) -> None:
    job = workers.queue.enqueue("tasks.unserialisable")

    workers.burst()

    assert job.is_finished
    assert return_value(job) == "Unserializable return value"


@pytest.mark.parametrize("end", ["leaves", "forks"])
def test_a_job_that_leaves_or_forks_ends_once(workers: RqWorkers, end: str) -> None:
    job = workers.queue.enqueue(f"tasks.{end}")
    last = workers.queue.enqueue("tasks.add", 1, 2)

    workers.burst()

    assert job.get_status().value == {"leaves": "failed", "forks": "finished"}[end]
    assert len(job.results()) == 1
    assert return_value(last) == 3


def test_a_job_may_change_itself(workers: RqWorkers) -> None:
    job = workers.queue.enqueue("tasks.changes_itself")

    workers.burst()

    assert return_value(job) == job.id
    assert workers.connection.hget(job.key, "description") == b"changed"


def test_retries_without_interval_are_queued_at_once(workers: RqWorkers) -> None:
    job = workers.queue.enqueue("tasks.fails_until", 3, retry=Retry(max=3))

    workers.burst()

    assert return_value(job) == "at last"
    assert workers.notes == ["attempt"] * 3
    assert workers.connection.hget(job.key, "retries_left") == b"1"


def test_retries_with_interval_are_scheduled_and_run_by_the_scheduler(workers: RqWorkers) -> None:
    job = workers.queue.enqueue("tasks.fails_until", 2, retry=Retry(max=1, interval=1))

    workers.start("--with-scheduler")

    workers.becomes(job, "finished")
    assert workers.notes == ["attempt"] * 2


def test_a_returned_retry_runs_the_job_again(workers: RqWorkers) -> None:
    job = workers.queue.enqueue("tasks.returns_retry", 3, 0)

    workers.burst()

    assert return_value(job) == "done"
    assert [result.type for result in job.results()] == [
        Result.Type.SUCCESSFUL,
        Result.Type.RETRIED,
        Result.Type.RETRIED,
    ]


def test_repeats_dependents_and_groups_are_left_to_rq(workers: RqWorkers) -> None:
    repeated = workers.queue.enqueue("tasks.says", "again", repeat=Repeat(times=2))
    parent = workers.queue.enqueue("tasks.fails")
    child = workers.queue.enqueue("tasks.says", "child", depends_on=Dependency(parent, allow_failure=True))
    member = Queue.prepare_data("tasks.says", args=("member",), result_ttl=0)
    group = Group.create(connection=workers.connection)
    group.enqueue_many(workers.queue, [member])

    workers.burst()

    assert workers.notes.count("again") == 3
    assert repeated.is_finished
    assert child.is_finished
    assert "member" in workers.notes
    assert not group.get_jobs()


def test_callbacks_and_exception_handlers_are_called(workers: RqWorkers) -> None:
    good = workers.queue.enqueue("tasks.add", 1, 2, on_success=Callback("tasks.succeeded"))
    bad = workers.queue.enqueue("tasks.fails", on_failure=Callback("tasks.failed"))

    workers.burst("--exception-handler", "tasks.handler")

    assert workers.notes == [f"success {good.id} 3", f"failure {bad.id} ValueError", f"handled {bad.id} ValueError"]


def test_both_serializers_work(workers: RqWorkers) -> None:
    queue = Queue("json", connection=workers.connection, serializer=JSONSerializer)
    job = queue.enqueue("tasks.add", 1, 2)

    workers.burst("--serializer", "rq.serializers.JSONSerializer", queues=("json",))

    assert job.is_finished
    assert return_value(job) == 3


# ---------------------------------------------------------------- order and options


@pytest.mark.parametrize("strategy", ["default", "round_robin"])
def test_queues_are_served_in_order(workers: RqWorkers, strategy: str) -> None:
    high = Queue("high", connection=workers.connection)
    for number in (1, 2):
        workers.queue.enqueue("tasks.says", f"low {number}")
        high.enqueue("tasks.says", f"high {number}")
    high.enqueue("tasks.says", "high first", at_front=True)

    workers.burst("--dequeue-strategy", strategy, queues=("high", "low"))

    assert (
        workers.notes
        == {
            "default": ["high first", "high 1", "high 2", "low 1", "low 2"],
            "round_robin": ["high first", "low 1", "high 1", "low 2", "high 2"],
        }[strategy]
    )


def test_a_worker_ends_after_max_jobs(workers: RqWorkers) -> None:
    for number in range(4):
        workers.queue.enqueue("tasks.says", str(number))

    assert workers.start("--max-jobs", "2").wait(20) == 0

    assert workers.notes == ["0", "1"]
    assert workers.queue.count == 2


def test_a_worker_ends_when_it_is_idle_for_too_long(workers: RqWorkers) -> None:
    assert workers.start("--max-idle-time", "1").wait(20) == 0


def test_an_idle_worker_starts_a_job_of_any_queue_at_once(workers: RqWorkers) -> None:
    workers.ready(queues=("high", "low"))
    workers.queue.enqueue("tasks.says", "warm")
    workers.noted("warm")

    for name in ("low", "high"):
        enqueued = time.monotonic()
        Queue(name, connection=workers.connection).enqueue("tasks.says", name)
        workers.noted(name)

        assert time.monotonic() - enqueued < 0.4


def test_a_suspended_worker_takes_nothing_until_it_is_resumed(workers: RqWorkers) -> None:
    process = workers.ready()
    suspend(workers.connection)
    job = workers.queue.enqueue("tasks.says", "ran")
    until(lambda: "suspended" in workers.log(process))

    assert workers.status(job) == "queued"
    resume(workers.connection)

    workers.becomes(job, "finished")


def test_canceled_deleted_and_repeated_ids_in_a_queue_are_skipped(workers: RqWorkers) -> None:
    canceled, deleted, twice = [workers.queue.enqueue("tasks.says", text) for text in ("canceled", "deleted", "twice")]
    canceled.cancel()
    deleted.delete()
    for job in (canceled, deleted, twice):
        workers.connection.rpush(workers.queue.key, job.id)

    workers.burst()

    assert workers.notes == ["twice"]
    assert workers.status(canceled) == "canceled"


def test_a_job_that_is_deleted_while_it_runs_stays_deleted(workers: RqWorkers) -> None:
    workers.queue.enqueue("tasks.deletes_itself", job_id="gone")

    workers.burst()

    assert not [key for key in workers.connection.keys("*") if b"gone" in key]
    assert not workers.connection.zcard("rq:finished:low")


def test_it_works_in_a_worker_pool(workers: RqWorkers) -> None:
    jobs = [workers.queue.enqueue("tasks.says", str(number)) for number in range(10)]
    workers.write(
        "pool.py",
        f"""
        import redis
        from rq.worker_pool import WorkerPool
        from service.worker import WarmWorker
        connection = redis.Redis.from_url({workers.redis_url!r})
        WorkerPool(["low"], connection, num_workers=2, worker_class=WarmWorker).start(burst=True)
        """,
    )

    workers.run("pool.py")

    assert [workers.status(job) for job in jobs] == ["finished"] * 10


# ---------------------------------------------------------------- what is overridden is called

OVERRIDES = """
    from service.worker import WarmWorker
    from tasks import note
    from rq.job import Job

    class Steps(WarmWorker):
        def perform_job(self, job, queue, execution):
            note(f"perform {self.is_horse}")
            return super().perform_job(job, queue, execution)

        def handle_job_success(self, job, queue, started_job_registry, execution):
            note("success")
            super().handle_job_success(job, queue, started_job_registry, execution)

        def handle_job_failure(self, job, queue, started_job_registry=None, exc_string="", execution=None):
            note("failure")
            super().handle_job_failure(job, queue, started_job_registry, exc_string, execution)

    class HandedOver(Steps):
        def execute_job(self, job, queue):
            note(f"execute {self.is_horse}")
            job.meta["unsaved"] = 1
            super().execute_job(job, queue)

        def monitor_work_horse(self, job, queue, execution):
            note("monitor")
            super().monitor_work_horse(job, queue, execution)
"""


BROKEN = """
    from service.worker import WarmWorker

    class Broken(WarmWorker):
        def check_for_suspension(self, burst):
            raise RuntimeError("broken")
"""


@pytest.mark.parametrize(
    ("kind", "notes"),
    [
        ("Steps", ["perform True", "success", "perform True", "failure"]),
        (
            "HandedOver",
            [
                "execute False",
                "monitor",
                "perform True",
                "success",
                "execute False",
                "monitor",
                "perform True",
                "failure",
            ],
        ),
    ],
)
def test_the_methods_that_a_subclass_overrides_are_called(workers: RqWorkers, kind: str, notes: list[str]) -> None:
    workers.write("own.py", OVERRIDES)
    good, bad = workers.queue.enqueue("tasks.counts"), workers.queue.enqueue("tasks.fails")
    again = workers.queue.enqueue("tasks.counts")

    workers.burst("--max-jobs", "2", kind=f"own.{kind}", queues=("high", "low"))

    assert sorted(workers.notes) == sorted(notes)
    assert good.is_finished
    assert bad.is_failed
    assert again.is_queued
    assert workers.connection.llen("rq:queue:low:intermediate") == 0


def test_a_job_that_is_handed_over_can_be_stopped_and_keeps_a_warm_horse(workers: RqWorkers) -> None:
    workers.write("own.py", OVERRIDES)
    first, second = workers.queue.enqueue("tasks.counts"), workers.queue.enqueue("tasks.counts")
    job = workers.queue.enqueue("tasks.in_c")
    last = workers.queue.enqueue("tasks.add", 1, 2)
    workers.start(kind="own.HandedOver")
    workers.noted("start")

    send_stop_job_command(workers.connection, job.id)

    workers.becomes(last, "finished")
    assert return_value(first)[0] == return_value(second)[0]
    assert return_value(second)[1] == 2
    assert workers.status(job) == "stopped"


# ---------------------------------------------------------------- killed at any moment


def test_a_job_past_its_timeout_gets_rqs_exception(workers: RqWorkers) -> None:
    job = workers.queue.enqueue("tasks.waits", job_timeout=1)
    last = workers.queue.enqueue("tasks.counts")

    workers.burst()

    assert "JobTimeoutException: Task exceeded maximum timeout value (1 seconds)" in workers.failure(job)
    assert last.is_finished


@pytest.mark.parametrize("name", ["will_not_hear", "in_c"])
def test_a_job_that_does_not_end_at_its_timeout_is_killed_a_second_later(workers: RqWorkers, name: str) -> None:
    job = workers.queue.enqueue(f"tasks.{name}", job_timeout=1)
    last = workers.queue.enqueue("tasks.add", 1, 2)
    workers.start()
    workers.noted("start")
    started = time.monotonic()

    workers.becomes(job, "failed")

    assert time.monotonic() - started < 10
    assert "JobTimeoutException" in workers.failure(job)
    workers.becomes(last, "finished")


def test_a_killed_job_is_retried(workers: RqWorkers) -> None:
    job = workers.queue.enqueue("tasks.in_c", job_timeout=1, retry=Retry(max=1))
    workers.start()

    workers.becomes(job, "failed")

    assert workers.notes == ["start"] * 2


@pytest.mark.parametrize("command", ["job", "execution"])
def test_a_stopped_job_ends_at_once_whatever_it_does(workers: RqWorkers, command: str) -> None:
    job = workers.queue.enqueue("tasks.in_c", on_stopped=Callback("tasks.stopped"), retry=Retry(max=3))
    last = workers.queue.enqueue("tasks.add", 1, 2)
    workers.start()
    workers.noted("start")
    asked = time.monotonic()

    if command == "job":
        send_stop_job_command(workers.connection, job.id)
    else:
        (execution,) = job.get_executions()
        send_stop_execution_command(workers.connection, job.id, execution.id)
    workers.becomes(job, "stopped")

    assert time.monotonic() - asked < 10
    workers.becomes(last, "finished")
    assert workers.notes == ["start", f"stopped {job.id}"]
    assert "Job stopped by user" in workers.failure(job)


def test_a_stop_for_another_job_does_nothing(workers: RqWorkers) -> None:
    job = workers.queue.enqueue("tasks.waits")
    process = workers.start("--name", "one")
    workers.noted("start")

    workers.connection.publish("rq:pubsub:one", json.dumps({"command": "stop-job", "job_id": "another"}))
    until(lambda: "command ignored" in workers.log(process))
    workers.go()

    workers.becomes(job, "finished")


@pytest.mark.parametrize("how", ["signal", "command"])
def test_a_job_whose_horse_is_killed_fails_as_in_rq(workers: RqWorkers, how: str) -> None:
    job = workers.queue.enqueue("tasks.sets_meta")
    last = workers.queue.enqueue("tasks.add", 1, 2)
    process = workers.start("--name", "one")
    workers.noted("start")

    if how == "signal":
        os.kill(workers.horse(process), signal.SIGKILL)
    else:
        send_kill_horse_command(workers.connection, "one")

    workers.becomes(last, "finished")
    assert "Work-horse terminated unexpectedly; waitpid returned 9 (signal 9)" in workers.failure(job)
    job.refresh()
    assert job.meta == {"seen": True}


def test_a_retry_after_a_killed_horse_keeps_what_the_job_wrote_to_meta(workers: RqWorkers) -> None:
    job = workers.queue.enqueue("tasks.sets_meta", retry=Retry(max=1, interval=60), meta={"seen": False})
    process = workers.start()
    workers.noted("start")

    os.kill(workers.horse(process), signal.SIGKILL)

    workers.becomes(job, "scheduled")
    job.refresh()
    assert job.meta == {"seen": True}


def test_a_kill_command_for_an_idle_worker_kills_nothing(workers: RqWorkers) -> None:
    first = workers.queue.enqueue("tasks.counts")
    process = workers.start("--name", "one")
    workers.becomes(first, "finished")
    until(lambda: any(client["cmd"] == "blmove" for client in workers.connection.client_list()))  # it waits for jobs

    send_kill_horse_command(workers.connection, "one")
    until(lambda: "kill horse command ignored" in workers.log(process))
    second = workers.queue.enqueue("tasks.counts")

    workers.becomes(second, "finished")
    assert return_value(second) == [return_value(first)[0], 2]


def test_a_malformed_command_does_not_make_the_worker_deaf(workers: RqWorkers) -> None:
    job = workers.queue.enqueue("tasks.waits")
    workers.start("--name", "one")
    workers.noted("start")

    for message in ("no JSON", "{}", json.dumps({"command": None}), json.dumps([1])):
        workers.connection.publish("rq:pubsub:one", message)
    send_stop_job_command(workers.connection, job.id)

    workers.becomes(job, "stopped")


# ---------------------------------------------------------------- shutdown


def test_a_warm_shutdown_lets_the_job_end_and_takes_no_other(workers: RqWorkers) -> None:
    job, waiting = workers.queue.enqueue("tasks.waits"), workers.queue.enqueue("tasks.add", 1, 2)
    process = workers.start()
    workers.noted("start")

    process.send_signal(signal.SIGTERM)
    until(lambda: "warm shut down requested" in workers.log(process))
    workers.go()

    assert process.wait(10) == 0
    assert workers.status(job) == "finished"
    assert workers.status(waiting) == "queued"
    assert not workers.connection.keys("rq:warm:*")


def test_a_worker_that_is_told_to_stop_in_a_flood_of_jobs_loses_none(workers: RqWorkers) -> None:
    workers.queue.enqueue_many([Queue.prepare_data("tasks.says", args=(str(n),)) for n in range(3000)])
    process = workers.start("--quiet")
    until(lambda: len(workers.notes) > 50)

    process.send_signal(signal.SIGTERM)

    assert process.wait(10) == 0
    done = workers.connection.zcard("rq:finished:low")
    assert 0 < done < 3000
    assert done + workers.queue.count == 3000
    assert workers.notes == [str(number) for number in range(done)]
    assert workers.connection.zcard("rq:wip:low") == 0


def test_a_cold_shutdown_gives_the_job_back(workers: RqWorkers) -> None:
    job = workers.queue.enqueue("tasks.in_c")
    waiting = workers.queue.enqueue("tasks.add", 1, 2)
    process = workers.start()
    workers.noted("start")

    process.send_signal(signal.SIGTERM)
    until(lambda: "warm shut down requested" in workers.log(process))
    time.sleep(1.1)  # RQ takes a second signal within a second for the same one
    process.send_signal(signal.SIGTERM)

    assert process.wait(10) == 0
    assert workers.queue.job_ids == [job.id, waiting.id]
    assert workers.status(job) == "queued"
    assert workers.connection.zcard("rq:wip:low") == 0


def test_a_name_is_refused_while_its_worker_lives_and_free_once_it_was_killed(workers: RqWorkers) -> None:
    first = workers.ready("--name", "one")
    assert workers.start("--name", "one").wait(10) == 1

    first.kill()
    first.wait()
    job = workers.queue.enqueue("tasks.add", 1, 2)
    workers.burst("--name", "one")

    assert job.is_finished


def test_the_horse_and_the_scheduler_die_with_a_killed_worker(workers: RqWorkers) -> None:
    workers.queue.enqueue("tasks.waits")
    process = workers.start("--with-scheduler")
    workers.noted("start")
    until(lambda: len(children(process.pid)) == 2)
    family = children(process.pid)

    process.kill()
    process.wait()

    until(lambda: not [pid for pid in family if is_running(pid)])
    assert workers.connection.get("rq:scheduler-lock:low") is None


def is_running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().split()[2] != "Z"
    except FileNotFoundError:
        return False


# ---------------------------------------------------------------- what stock RQ stumbles over


@pytest.mark.parametrize("kind", [WARM, "own.HandedOver"])
def test_a_job_that_cannot_be_read_is_moved_to_failed_and_the_worker_goes_on(workers: RqWorkers, kind: str) -> None:
    workers.write("own.py", OVERRIDES)
    for number, field in enumerate(({"status": "nonsense"}, {"created_at": "yesterday"}, {"timeout": "1 parsec"})):
        poison = workers.queue.enqueue("tasks.add", 1, 2, job_id=f"poison{number}")
        workers.connection.hset(poison.key, mapping=field)
    workers.connection.rpush(workers.queue.key, "no such id", "poison:1")
    workers.connection.set("rq:job:text", "not a hash")
    workers.connection.rpush(workers.queue.key, "text")
    last = workers.queue.enqueue("tasks.add", 1, 2)

    workers.burst(kind=kind)

    assert last.is_finished
    assert workers.connection.zrange("rq:failed:low", 0, -1) == [b"poison0", b"poison1", b"poison2"]
    assert workers.connection.zcard("rq:wip:low") == 0
    assert workers.connection.llen("rq:queue:low:intermediate") == 0


def test_an_error_in_the_worker_itself_ends_it_with_exit_code_1(workers: RqWorkers) -> None:
    workers.write("own.py", BROKEN)

    process = workers.start(kind="own.Broken")

    assert process.wait(20) == 1, workers.log(process)


def test_a_queue_that_is_no_list_is_told_and_keeps_no_other_waiting(workers: RqWorkers) -> None:
    workers.connection.set("rq:queue:high", "not a list")
    process = workers.ready(queues=("high", "low"))
    until(lambda: "rq:queue:high cannot be waited for" in workers.log(process))

    job = workers.queue.enqueue("tasks.nothing")

    workers.becomes(job, "finished")


def test_cleaning_up_leaves_finished_jobs_alone_and_queues_what_never_started(workers: RqWorkers) -> None:
    finished = workers.queue.enqueue("tasks.add", 1, 2)
    workers.burst()
    lost = workers.queue.enqueue("tasks.says", "found")
    intermediate = workers.queue.intermediate_queue_key
    workers.connection.lmove(workers.queue.key, intermediate)
    workers.connection.rpush(intermediate, finished.id)
    for job in (lost, finished):
        workers.connection.set(f"{intermediate}:first_seen:{job.id}", time.time() - 100)
        workers.connection.set(f"{intermediate}:warm_seen:{job.id}", time.time() - 100)

    workers.burst()

    assert workers.status(finished) == "finished"
    assert workers.notes == ["found"]
    assert workers.connection.llen(intermediate) == 0
