"""What operators do, as the store does it: each job once, whatever is sent twice, and every key in its place."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import redis

from service.settings import Settings
from service.store import events, keys
from service.store.executions import Execution, Executions, Turn, Wanted
from service.store.jobs import JobGone, JobNotFound, Jobs, Submission
from service.store.operations import FAILED_OR_STOPPED, JobNotFailed, Operations
from service.store.outcomes import Failed, Finished, Stopped
from service.store.queues import QueueNotFound, Queues
from tests.forgetful import Forgetful, losing

SETTINGS = Settings(lease=3)
ADD = Submission(model="add", version="1", input={"x": 1}, timeout=30)
ALL = keys.queues_of("add")


@pytest.fixture
def jobs(connection: redis.Redis) -> Jobs:
    return Jobs(connection, SETTINGS)


@pytest.fixture
def executions(connection: redis.Redis) -> Executions:
    return Executions(connection, SETTINGS)


@pytest.fixture
def operations(through: redis.Redis) -> Operations:
    return Operations(through, SETTINGS)


def kinds(connection: redis.Redis, job_id: str) -> list[str]:
    return [event.type for event in events.read(connection, job_id, events.BEGINNING)]


def queued(connection: Any, queue: str = "add") -> list[str]:
    return [job_id.decode() for job_id in connection.lrange(keys.queue(queue), 0, -1)]


def taken(executions: Executions, *queues: str) -> list[Execution]:
    wanted = [Wanted(queue, queue, "main", "add", 0, 0, 100) for queue in queues or ("add",)]
    return executions.make(Turn(wanted=wanted), "w1").taken


def ended(jobs: Jobs, executions: Executions, outcome: Any, **options: Any) -> str:
    """The id of a job that has run and ended so."""
    job_id = jobs.submit(Submission(**{**vars(ADD), **options})).id
    (execution,) = taken(executions)
    if isinstance(outcome, Stopped):
        assert jobs.cancel(job_id) == "requested"
    executions.record(execution, outcome)
    return job_id


def heard(connection: redis.Redis, act: Callable[[], object], most: int) -> list[str]:
    """The queues whose workers are woken by an act, up to so many."""
    with connection.pubsub(ignore_subscribe_messages=True) as pubsub:
        pubsub.subscribe(keys.Channels(connection).wake)
        pubsub.get_message(timeout=5)  # that it is subscribed
        act()
        messages = [pubsub.get_message(timeout=5) for _ in range(most)]
    return [message["data"].decode() for message in messages if message]


FAILURE = Failed("model_error", "it broke", again=False)
STOP = Stopped("killed", "2026-01-01T00:00:00.000Z")


# --- pause, resume


def test_nothing_is_taken_from_a_paused_queue_and_what_is_behind_it_goes_on(
    connection: redis.Redis, jobs: Jobs, executions: Executions, operations: Operations
) -> None:
    paused = jobs.submit(ADD).id
    lower = jobs.submit(Submission(**{**vars(ADD), "priority": "low"})).id
    operations.pause(["add"])

    assert [each.job.id for each in taken(executions, *ALL)] == [lower]
    assert queued(connection) == [paused]

    operations.resume(["add"])
    assert [each.job.id for each in taken(executions, *ALL)] == [paused]


def test_resume_wakes_the_workers_of_each_queue(connection: redis.Redis, operations: Operations) -> None:
    operations.pause(ALL)

    assert heard(connection, lambda: operations.resume(ALL), len(ALL)) == ALL

    assert not connection.exists(keys.PAUSED)


def test_the_queues_of_published_models_and_all_that_were_used_are_known(
    connection: redis.Redis, jobs: Jobs, operations: Operations
) -> None:
    connection.hset(keys.MODELS, "add", "{}")
    jobs.submit(Submission(**{**vars(ADD), "model": "forgotten"}))
    connection.sadd(keys.QUEUES, keys.queue("of-others"))
    operations.pause(["add-low"])
    queues = Queues(connection)

    assert [(each.name, each.model, each.priority, each.depth, each.paused) for each in queues.all()] == [
        ("add-high", "add", "high", 0, False),
        ("add", "add", "default", 0, False),
        ("add-low", "add", "low", 0, True),
        ("forgotten", None, None, 1, False),
        ("of-others", None, None, 0, False),
    ]
    queues.check("of-others")
    with pytest.raises(QueueNotFound):
        queues.check("none")


# --- purge


def test_a_purged_job_is_as_a_canceled_one(
    connection: redis.Redis, jobs: Jobs, executions: Executions, operations: Operations
) -> None:
    job_id = jobs.submit(Submission(**{**vars(ADD), "start_timeout": 600, "result_ttl": 77})).id

    assert operations.purge(["add"]) == 1

    job = jobs.read(job_id)
    assert (job.status, job.to_json()["cancellation"]["mode"]) == ("canceled", "purged")
    assert job.to_json()["ended_at"] is not None
    assert kinds(connection, job_id) == ["queued", "canceled"]
    assert events.read(connection, job_id, events.BEGINNING)[-1].data == '{"mode":"purged"}'
    assert connection.zscore(keys.registry("canceled", "add"), job_id) is not None
    assert connection.zcard(keys.START_DEADLINES) == 0
    assert 0 < connection.ttl(keys.job(job_id)) <= 77
    assert 0 < connection.ttl(keys.events(job_id)) <= 77
    assert connection.ttl(keys.known(job_id)) > SETTINGS.tombstone_ttl
    assert queued(connection) == []
    assert taken(executions) == []


def test_a_purge_takes_what_is_scheduled_and_leaves_what_runs_and_other_queues(
    connection: redis.Redis, jobs: Jobs, executions: Executions, operations: Operations
) -> None:
    later = ended(jobs, executions, Failed("model_error", "no", after=600), retries=1)
    running = jobs.submit(ADD).id
    (execution,) = taken(executions)
    waiting = jobs.submit(ADD).id
    other = jobs.submit(Submission(**{**vars(ADD), "priority": "high"})).id

    assert operations.purge(["add"]) == 2

    assert [jobs.read(each).status for each in (later, running, waiting, other)] == [
        *("canceled", "started", "canceled", "queued"),
    ]
    assert connection.zcard(keys.registry("scheduled", "add")) == 0
    assert executions.record(execution, Finished("3")) == "finished"


def test_a_purge_goes_through_a_long_queue_and_past_what_is_no_job(
    connection: redis.Redis, jobs: Jobs, operations: Operations, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("service.store.operations._PAGE", 7)
    monkeypatch.setattr("service.store.operations._CHUNK", 3)
    job_ids = [jobs.submit(ADD).id for _ in range(20)]
    connection.linsert(keys.queue("add"), "BEFORE", job_ids[10], "erased")
    connection.linsert(keys.queue("add"), "BEFORE", job_ids[11], job_ids[2])

    assert operations.purge(["add"]) == 20

    assert {jobs.read(each).status for each in job_ids} == {"canceled"}
    assert all(kinds(connection, each) == ["queued", "canceled"] for each in job_ids)
    assert queued(connection) == []


def test_a_purge_whose_answer_was_lost_cancels_and_counts_each_job_once(
    proxy: Forgetful, connection: redis.Redis, jobs: Jobs, operations: Operations
) -> None:
    job_ids = [jobs.submit(ADD).id for _ in range(3)]

    with losing(proxy):
        assert operations.purge(["add"]) == 3

    assert all(kinds(connection, each) == ["queued", "canceled"] for each in job_ids)


# --- requeue, retry


@pytest.mark.parametrize("outcome", [FAILURE, STOP])
def test_a_job_that_is_tried_again_is_as_one_that_was_never_over(
    connection: redis.Redis, jobs: Jobs, executions: Executions, operations: Operations, outcome: Any
) -> None:
    job_id = ended(jobs, executions, outcome)
    behind = jobs.submit(ADD).id

    operations.retry(job_id)

    job = jobs.read(job_id).to_json()
    assert (job["status"], job["error"], job["cancellation"], job["ended_at"]) == ("queued", None, None, None)
    assert (job["started_at"], job["position"]) == (None, 1)
    assert queued(connection) == [behind, job_id]
    assert kinds(connection, job_id)[-1] == "queued"
    assert connection.zcard(keys.registry("failed", "add")) == 0
    assert {connection.ttl(key) for key in keys.lifecycle(job_id) if connection.exists(key)} == {-1}
    _, execution = taken(executions)
    assert (execution.job.id, execution.number) == (job_id, 2)
    assert executions.record(execution, Finished("3")) == "finished"
    assert connection.ttl(keys.known(job_id)) > SETTINGS.tombstone_ttl


def test_a_job_that_is_tried_again_can_be_canceled(
    connection: redis.Redis, jobs: Jobs, executions: Executions, operations: Operations
) -> None:
    job_id = ended(jobs, executions, FAILURE)
    operations.retry(job_id)

    assert jobs.cancel(job_id) == "canceled"

    assert queued(connection) == []
    assert connection.ttl(keys.job(job_id)) > 0
    jobs.erase(job_id)
    with pytest.raises(JobGone):
        jobs.read(job_id)


def test_a_job_that_waited_too_long_is_tried_again_without_its_deadline(
    connection: redis.Redis, jobs: Jobs, executions: Executions, operations: Operations
) -> None:
    job_id = jobs.submit(Submission(**{**vars(ADD), "start_timeout": 600})).id
    connection.hset(keys.job(job_id), "start_deadline", 1)
    assert jobs.read(job_id).to_json()["error"]["type"] == "expired"

    operations.retry(job_id)

    assert [each.job.id for each in taken(executions)] == [job_id]


def test_a_job_that_is_tried_again_has_all_its_retries(
    connection: redis.Redis, jobs: Jobs, executions: Executions, operations: Operations
) -> None:
    job_id = ended(jobs, executions, FAILURE)
    connection.hset(keys.job(job_id), mapping={"retries": 4, "retries_left": 0})

    operations.retry(job_id)

    assert jobs.read(job_id).retries_left == 4


def test_only_a_job_that_failed_or_was_stopped_can_be_tried_again(
    connection: redis.Redis, jobs: Jobs, executions: Executions, operations: Operations
) -> None:
    finished, waiting = ended(jobs, executions, Finished("3")), jobs.submit(ADD).id
    before = kinds(connection, finished)

    for job_id, status in ((finished, "finished"), (waiting, "queued")):
        with pytest.raises(JobNotFailed, match=status):
            operations.retry(job_id)
    with pytest.raises(JobNotFound):
        operations.retry("none")

    assert queued(connection) == [waiting]
    assert kinds(connection, finished) == before


def test_a_job_that_is_tried_again_wakes_the_workers_of_its_queue(
    connection: redis.Redis, jobs: Jobs, executions: Executions, operations: Operations
) -> None:
    job_id = ended(jobs, executions, FAILURE)

    assert heard(connection, lambda: operations.retry(job_id), 1) == ["add"]


def test_another_use_may_run_a_finished_or_a_canceled_job_again(
    connection: redis.Redis, jobs: Jobs, executions: Executions, operations: Operations
) -> None:
    finished = ended(jobs, executions, Finished("3"))
    canceled = jobs.submit(Submission(**{**vars(ADD), "start_timeout": 600})).id
    jobs.cancel(canceled)
    connection.hset(keys.job(canceled), "start_deadline", 1)

    for job_id, status in ((finished, "finished"), (canceled, "canceled")):
        operations.retry(job_id, {status})

    assert queued(connection) == [finished, canceled]
    assert connection.zcard(keys.registry("finished", "add")) == connection.zcard(keys.registry("canceled", "add")) == 0
    assert jobs.read(finished).output is None
    assert [each.job.id for each in taken(executions)] == [finished, canceled]


def test_a_requeue_brings_back_what_failed_and_on_demand_what_was_stopped(
    connection: redis.Redis,
    jobs: Jobs,
    executions: Executions,
    operations: Operations,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("service.store.operations._PAGE", 3)
    monkeypatch.setattr("service.store.operations._CHUNK", 2)
    ids = [ended(jobs, executions, STOP if number % 3 == 0 else FAILURE) for number in range(11)]
    stopped = ids[::3]

    assert operations.requeue(ALL) == 7
    assert sorted(queued(connection)) == sorted(set(ids) - set(stopped))

    assert operations.requeue(ALL, FAILED_OR_STOPPED) == 4
    assert sorted(queued(connection)) == sorted(ids)
    assert operations.requeue(ALL, FAILED_OR_STOPPED) == 0


def test_a_requeue_passes_over_a_job_that_has_expired_and_forgets_it(
    connection: redis.Redis, jobs: Jobs, executions: Executions, operations: Operations
) -> None:
    gone, there = ended(jobs, executions, FAILURE), ended(jobs, executions, FAILURE)
    connection.delete(keys.job(gone))

    assert operations.requeue(ALL) == 1

    assert queued(connection) == [there]
    assert connection.zcard(keys.registry("failed", "add")) == 0
    assert not connection.exists(keys.job(gone))


def test_a_requeue_whose_answer_was_lost_queues_and_counts_each_job_once(
    proxy: Forgetful, connection: redis.Redis, jobs: Jobs, executions: Executions, operations: Operations
) -> None:
    ids = [ended(jobs, executions, FAILURE) for _ in range(3)]
    before = kinds(connection, ids[0])

    with losing(proxy):
        assert operations.requeue(ALL) == 3

    assert sorted(queued(connection)) == sorted(ids)
    assert all(kinds(connection, each) == [*before, "queued"] for each in ids)
