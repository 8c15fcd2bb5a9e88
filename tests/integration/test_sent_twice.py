"""The client library sends a command again when its answer was lost: whatever is sent twice happens once."""

from __future__ import annotations

from typing import Any

import pytest
import redis
from rq import Queue
from rq.job import Job
from rq.serializers import JSONSerializer

from service.settings import Settings
from service.store import events, keys
from service.store.executions import Append, Execution, Executions, Turn, Wanted
from service.store.jobs import Jobs, Submission
from service.store.outcomes import Failed, Finished, Released
from service.store.retry_policy import RetryPolicy
from tests.forgetful import Forgetful, losing

SETTINGS = Settings(lease=3)
ADD = Submission(model="add", version="1", input={"x": 1}, timeout=30, retries=2, retry_policy=RetryPolicy(backoff=0))


@pytest.fixture
def jobs(through: redis.Redis) -> Jobs:
    return Jobs(through, SETTINGS)


@pytest.fixture
def executions(through: redis.Redis) -> Executions:
    return Executions(through, SETTINGS)


def kinds(connection: redis.Redis, job_id: str) -> list[str]:
    return [event.type for event in events.read(connection, job_id, events.BEGINNING)]


def taken(executions: Executions, worker: str = "w1") -> Execution:
    (execution,) = executions.make(Turn(wanted=[Wanted("add", "default", "main", "add")]), worker).taken
    return execution


def test_a_submit_whose_answer_was_lost_queues_one_job(proxy: Forgetful, jobs: Jobs, connection: redis.Redis) -> None:
    with losing(proxy):
        job_id = jobs.submit(ADD).id

    assert connection.lrange(keys.queue("add"), 0, -1) == [job_id.encode()]
    assert kinds(connection, job_id) == ["queued"]
    assert connection.zcard(keys.JOBS) == 1


def test_a_take_whose_answer_was_lost_takes_one_job(
    proxy: Forgetful, jobs: Jobs, executions: Executions, connection: redis.Redis
) -> None:
    first, second = jobs.submit(ADD).id, jobs.submit(ADD).id

    with losing(proxy):
        execution = taken(executions)

    assert execution.job.id == first
    assert execution.number == 1
    assert kinds(connection, first) == ["queued", "started"]
    assert connection.lrange(keys.queue("add"), 0, -1) == [second.encode()]


def test_events_whose_answer_was_lost_are_in_the_log_once(
    proxy: Forgetful, jobs: Jobs, executions: Executions, connection: redis.Redis
) -> None:
    job_id = jobs.submit(ADD).id
    execution = taken(executions)

    for number in (1, 2):
        with losing(proxy):
            said = Append(execution, number, [("log", "{}"), ("output", "{}")], '{"progress":{}}')
            executions.make(Turn(appends=[said]), "w1")

    assert kinds(connection, job_id) == ["queued", "started"] + 2 * ["log", "output"]


@pytest.mark.parametrize(
    ("outcome", "wanted"),
    [
        (Finished("3"), ["finished"]),
        (Failed("model_error", "no", again=False), ["failed"]),
        (Failed("model_error", "no"), ["retrying", "queued"]),
        (Failed("model_error", "no", after=60), ["retrying", "scheduled"]),
        (Released(), ["queued"]),
    ],
)
def test_an_outcome_whose_answer_was_lost_is_recorded_once(
    proxy: Forgetful, jobs: Jobs, executions: Executions, connection: redis.Redis, outcome: Any, wanted: list[str]
) -> None:
    job_id = jobs.submit(ADD).id
    execution = taken(executions)

    with losing(proxy):
        executions.record(execution, outcome)

    assert kinds(connection, job_id) == ["queued", "started", *wanted]
    assert connection.xlen(keys.results(job_id)) == (1 if jobs.read(job_id).done else 0)
    assert connection.llen(keys.queue("add")) == (1 if wanted[-1] == "queued" else 0)
    assert connection.zcard(keys.registry("wip", "add")) == 0


def test_an_outcome_sent_again_after_the_next_try_began_changes_nothing(
    jobs: Jobs, executions: Executions, connection: redis.Redis
) -> None:
    job_id = jobs.submit(ADD).id
    first = taken(executions)
    executions.record(first, Failed("model_error", "no"))
    second = taken(executions, "w2")
    before = kinds(connection, job_id)

    executions.record(first, Failed("model_error", "no"))

    assert kinds(connection, job_id) == before
    assert connection.llen(keys.queue("add")) == 0
    assert executions.record(second, Finished("3")) == "finished"


def test_a_take_repeated_after_another_worker_got_the_job_does_not_give_it_twice(
    jobs: Jobs, executions: Executions, connection: redis.Redis
) -> None:
    job_id = jobs.submit(ADD).id
    turn = Turn(wanted=[Wanted("add", "default", "main", "add")])
    (first,) = executions.make(turn, "w1").taken
    connection.zadd(keys.registry("wip", "add"), {first.member: 1})
    executions.record(first, Failed("lost", "the worker was silent"), lease_ended=True)
    second = taken(executions, "w2")
    assert second.job.id == job_id

    assert executions.make(turn, "w1").taken == []


def test_jobs_that_wait_for_ours_are_enqueued_though_redis_went_away_between(
    jobs: Jobs, executions: Executions, connection: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    job_id = jobs.submit(ADD).id
    parent = Job.fetch(job_id, connection=connection, serializer=JSONSerializer)
    others = Queue("others", connection=connection, serializer=JSONSerializer)
    child = others.enqueue("os.getpid", depends_on=parent)
    execution = taken(executions)

    def away(*_: object, **__: object) -> None:
        raise redis.exceptions.ConnectionError("gone")

    with monkeypatch.context() as patched:
        patched.setattr(Queue, "enqueue_dependents", away)
        with pytest.raises(redis.exceptions.ConnectionError):
            executions.record(execution, Finished("3"))
    executions.record(execution, Finished("3"))  # as Control.persist does

    assert child.get_status(refresh=True) == "queued"
