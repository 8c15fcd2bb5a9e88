"""The store's logic, on fakeredis in milliseconds and on a real Redis: both must behave alike."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import fakeredis
import pytest
import redis

from service.settings import Settings
from service.store import events, keys
from service.store.executions import Append, Execution, Executions, LeaseLost, Turn, Wanted
from service.store.jobs import JobGone, JobNotDone, JobNotFound, Jobs, Submission
from service.store.listings import Listings
from service.store.models import ModelNotFound, Models, Report, unknown_description
from service.store.outcomes import Failed, Finished, Released, Stopped
from service.store.recovery import Recovery
from tests.deployment import eventually

SETTINGS = Settings(lease=3)


@pytest.fixture(params=["fakeredis", "redis"])
def store(request: pytest.FixtureRequest) -> Iterator[redis.Redis]:
    if request.param == "redis":
        yield request.getfixturevalue("connection")
    else:
        with fakeredis.FakeRedis(version=(7,)) as client:
            yield client


@pytest.fixture
def jobs(store: redis.Redis) -> Jobs:
    return Jobs(store, SETTINGS)


@pytest.fixture
def executions(store: redis.Redis) -> Executions:
    return Executions(store, SETTINGS)


def submission(**options: Any) -> Submission:
    return Submission(**{"model": "add", "version": "1", "input": {"x": 1}, "timeout": 30, **options})


def types(store: redis.Redis, job_id: str) -> list[str]:
    return [event.type for event in events.read(store, job_id, events.BEGINNING)]


def test_a_submitted_job_is_queued_with_its_log(store: redis.Redis, jobs: Jobs) -> None:
    job_id = jobs.submit(submission(metadata={"mine": "ü"}, priority="high")).id

    job = jobs.read(job_id).to_json()
    assert (job["status"], job["position"], job["priority"], job["done"]) == ("queued", 0, "high", False)
    assert (job["input"], job["metadata"]) == ({"x": 1}, {"mine": "ü"})
    assert types(store, job_id) == ["queued"]
    assert store.lrange(keys.queue("add-high"), 0, -1) == [job_id.encode()]


def take(executions: Executions, turn_id: str, worker: str, queues: list[str]) -> Execution | None:
    """The next job of these queues, taken by a turn of this id."""
    wanted = [Wanted(queue, str(place), "main", queue) for place, queue in enumerate(queues)]
    taken = executions.make(Turn(wanted=wanted, id=turn_id), worker).taken
    assert len(taken) <= 1
    return taken[0] if taken else None


def test_a_job_runs_once_and_keeps_its_output(store: redis.Redis, jobs: Jobs, executions: Executions) -> None:
    job_id = jobs.submit(submission()).id

    execution = take(executions, "e1", "w1", ["add"])
    assert execution is not None
    assert execution.job.call() == ("add", {"x": 1})
    assert take(executions, "e2", "w2", ["add"]) is None
    assert jobs.read(job_id).status == "started"

    assert executions.record(execution, Finished("[1, 2]")) == "finished"
    job = jobs.read(job_id).to_json()
    assert (job["status"], job["output"], job["done"]) == ("finished", [1, 2], True)
    assert types(store, job_id) == ["queued", "started", "finished"]


def test_asking_twice_with_one_id_takes_one_job(store: redis.Redis, jobs: Jobs, executions: Executions) -> None:
    for _ in range(2):
        jobs.submit(submission())

    first, again = (take(executions, "e1", "w1", ["add"]) for _ in range(2))

    assert first is not None
    assert again is not None
    assert first.job.id == again.job.id
    assert store.llen(keys.queue("add")) == 1


def test_what_is_written_twice_is_there_once(store: redis.Redis, jobs: Jobs, executions: Executions) -> None:
    job_id = jobs.submit(submission()).id
    execution = take(executions, "e1", "w1", ["add"])
    assert execution is not None

    for _ in range(2):
        progress = Append(execution, 1, [("progress", "{}")], '{"progress":{"fraction":0.5}}')
        assert not executions.make(Turn(appends=[progress]), "w1").lost
    for _ in range(2):
        assert executions.record(execution, Finished("1")) == "finished"

    assert types(store, job_id) == ["queued", "started", "progress", "finished"]
    assert store.xlen(keys.results(job_id)) == 1


def test_a_failed_try_is_retried_as_often_as_allowed(store: redis.Redis, jobs: Jobs, executions: Executions) -> None:
    job_id = jobs.submit(submission(retries=1)).id
    statuses = []
    for number in range(2):
        execution = take(executions, f"e{number}", "w1", ["add"])
        assert execution is not None
        statuses.append(executions.record(execution, Failed("model_error", f"try {number}", after=0)))

    job = jobs.read(job_id).to_json()
    assert statuses == ["queued", "failed"]
    assert job["error"] == {"type": "model_error", "message": "try 1"}
    assert [each["error"]["message"] for each in job["attempts"]] == ["try 0", "try 1"]
    assert types(store, job_id) == ["queued", "started", "retrying", "queued", "started", "failed"]


def test_a_failure_that_another_try_cannot_help_is_final(jobs: Jobs, executions: Executions) -> None:
    jobs.submit(submission(retries=5))
    execution = take(executions, "e1", "w1", ["add"])
    assert execution is not None

    assert executions.record(execution, Failed("refused", "no", again=False)) == "failed"


def test_a_released_job_goes_back_to_the_front_and_its_try_does_not_count(
    store: redis.Redis, jobs: Jobs, executions: Executions
) -> None:
    first, second = jobs.submit(submission()).id, jobs.submit(submission()).id
    execution = take(executions, "e1", "w1", ["add"])
    assert execution is not None

    assert executions.record(execution, Released()) == "queued"

    assert store.lrange(keys.queue("add"), 0, -1) == [first.encode(), second.encode()]
    assert jobs.read(first).attempts == []
    assert jobs.read(first).position == 0


def test_a_stopped_job_tells_how_it_was_stopped(jobs: Jobs, executions: Executions) -> None:
    job_id = jobs.submit(submission(retries=3)).id
    execution = take(executions, "e1", "w1", ["add"])
    assert execution is not None
    assert jobs.cancel(job_id) == "requested"
    assert executions.renew("w1", [execution]) == [2]

    assert executions.record(execution, Stopped("killed", "2026-01-01T00:00:00.000Z")) == "stopped"

    cancellation = jobs.read(job_id).to_json()["cancellation"]
    assert cancellation["mode"] == "killed"
    assert cancellation["acknowledged_at"] == "2026-01-01T00:00:00.000Z"
    assert jobs.cancel(job_id) == "done"


def test_a_canceled_job_is_not_run(store: redis.Redis, jobs: Jobs, executions: Executions) -> None:
    job_id = jobs.submit(submission()).id

    assert jobs.cancel(job_id) == "canceled"
    store.rpush(keys.queue("add"), job_id)  # as if it had been in the list twice

    assert take(executions, "e1", "w1", ["add"]) is None
    assert jobs.read(job_id).to_json()["cancellation"]["mode"] == "dequeued"
    assert types(store, job_id) == ["queued", "canceled"]


def test_who_lost_the_lease_cannot_write(store: redis.Redis, jobs: Jobs, executions: Executions) -> None:
    job_id = jobs.submit(submission()).id
    execution = take(executions, "e1", "w1", ["add"])
    assert execution is not None
    store.zadd(keys.registry("wip", "add"), {execution.member: 1})
    executions.record(execution, Failed("lost", "the worker died"), lease_ended=True)

    late = Turn(appends=[Append(execution, 1, [("progress", "{}")])], ends=[(execution, Finished("1"))])
    assert executions.make(late, "w1").lost == [execution, execution]
    assert executions.renew("w1", [execution]) == [0]
    assert jobs.read(job_id).error == {"type": "lost", "message": "the worker died"}
    assert types(store, job_id) == ["queued", "started", "failed"]


def test_a_living_workers_job_is_not_taken_back(jobs: Jobs, executions: Executions) -> None:
    job_id = jobs.submit(submission()).id
    execution = take(executions, "e1", "w1", ["add"])
    assert execution is not None

    with pytest.raises(LeaseLost):
        executions.record(execution, Failed("lost", "the worker died"), lease_ended=True)
    assert jobs.read(job_id).status == "started"


def test_recovery_retries_what_a_dead_worker_held(connection: redis.Redis) -> None:
    # On a real one only: it asks since when Redis is up, which fakeredis does not tell.
    store, jobs, executions = connection, Jobs(connection, SETTINGS), Executions(connection, SETTINGS)
    Models(store).publish([{"name": "add"}])
    job_id = jobs.submit(submission(retries=1)).id
    execution = take(executions, "e1", "w1", ["add"])
    assert execution is not None
    store.zadd(keys.registry("wip", "add"), {execution.member: 1})

    recovery = Recovery(store, SETTINGS, "w2")

    def taken_back() -> Any:
        recovery.run()
        job = jobs.read(job_id).to_json()
        assert job["status"] == "queued"
        return job

    job = eventually(taken_back)  # a Redis that has just started is given the time of a lease
    assert job["attempts"][0]["error"]["type"] == "lost"
    assert store.zcard(keys.registry("wip", "add")) == 0


def test_a_turn_says_when_it_leaves_nothing_in_the_queues(jobs: Jobs, executions: Executions) -> None:
    for priority in ("high", "default"):
        jobs.submit(submission(priority=priority))
    wanted = [Wanted("add-high", "high", "main", "add"), Wanted("add", "default", "main", "add")]

    turns = [executions.make(Turn(wanted=wanted), "w1") for _ in range(3)]

    assert [(len(turn.taken), turn.empty) for turn in turns] == [(1, False), (1, True), (0, True)]
    assert not executions.make(turns[1], "w1").empty  # one that is made again looks at nothing
    assert not executions.make(Turn(), "w1").empty


@pytest.mark.parametrize("begun", [False, True])
def test_of_what_a_dead_worker_held_only_what_had_begun_is_charged(connection: redis.Redis, begun: bool) -> None:
    store, jobs, executions = connection, Jobs(connection, SETTINGS), Executions(connection, SETTINGS)
    Models(store).publish([{"name": "add"}])
    ids = [jobs.submit(submission()).id for _ in range(2)]
    wanted = [Wanted("add", "default", "main", "add", 0.5, 0.5, 2)]
    first, second = executions.make(Turn(wanted=wanted), "w1").taken
    assert (first.waits, second.waits) == (False, True)
    executions.make(Turn(begun=[second] if begun else []), "w1")
    store.zadd(keys.registry("wip", "add"), {first.member: 1, second.member: 1})

    recovery = Recovery(store, SETTINGS, "w2")

    def taken_back() -> None:
        recovery.run()
        assert store.zcard(keys.registry("wip", "add")) == 0

    eventually(taken_back)
    jobs_now = [jobs.read(job_id).to_json() for job_id in ids]
    assert [job["status"] for job in jobs_now] == ["failed", "failed" if begun else "queued"]
    assert [len(job["attempts"]) for job in jobs_now] == [1, 1 if begun else 0]


def test_nothing_is_taken_back_soon_after_redis_was_away(
    store: redis.Redis, jobs: Jobs, executions: Executions
) -> None:
    Models(store).publish([{"name": "add"}])
    job_id = jobs.submit(submission()).id
    execution = take(executions, "e1", "w1", ["add"])
    assert execution is not None
    store.zadd(keys.registry("wip", "add"), {execution.member: 1})

    Recovery(store, SETTINGS, "w2").run(redis_away_at=time.monotonic())

    assert jobs.read(job_id).status == "started"


def test_recovery_queues_what_is_due(store: redis.Redis, jobs: Jobs, executions: Executions) -> None:
    Models(store).publish([{"name": "add"}])
    job_id = jobs.submit(submission(retries=1)).id
    execution = take(executions, "e1", "w1", ["add"])
    assert execution is not None
    assert executions.record(execution, Failed("model_error", "not yet", after=100)) == "scheduled"
    store.zadd(keys.registry("scheduled", "add"), {job_id: 1})

    Recovery(store, SETTINGS, "w2").run()

    assert jobs.read(job_id).status == "queued"
    assert types(store, job_id)[-3:] == ["retrying", "scheduled", "queued"]


def test_only_one_worker_holds_the_recovery_loop(store: redis.Redis) -> None:
    first, second = Recovery(store, SETTINGS, "w1"), Recovery(store, SETTINGS, "w2")
    first.run()
    second.run()
    assert store.get(keys.RECOVERY) == b"w1"

    first.release()
    second.run()
    assert store.get(keys.RECOVERY) == b"w2"


def test_a_job_that_waited_too_long_expires_also_without_a_worker(store: redis.Redis, jobs: Jobs) -> None:
    job_id = jobs.submit(submission(start_timeout=1)).id
    store.hset(keys.job(job_id), "start_deadline", 1)

    job = jobs.read(job_id)

    assert job.error is not None
    assert (job.status, job.error["type"]) == ("failed", "expired")
    assert types(store, job_id) == ["queued", "failed"]
    assert store.llen(keys.queue("add")) == 0


def test_an_id_is_unknown_then_there_then_gone(jobs: Jobs) -> None:
    with pytest.raises(JobNotFound):
        jobs.read("never")
    job_id = jobs.submit(submission()).id
    with pytest.raises(JobNotDone):
        jobs.erase(job_id)
    jobs.cancel(job_id)
    jobs.erase(job_id)

    for act in (jobs.read, jobs.erase, jobs.cancel):
        with pytest.raises(JobGone):
            act(job_id)


def test_all_that_is_a_jobs_own_expires_with_it(store: redis.Redis, jobs: Jobs, executions: Executions) -> None:
    job_id = jobs.submit(submission(result_ttl=50)).id
    execution = take(executions, "e1", "w1", ["add"])
    assert execution is not None
    executions.record(execution, Finished("1"))

    own = [key for key in store.keys("*") if job_id.encode() in key]

    assert len(own) == 4  # the job, its log, its result, and that its id was given
    assert all(0 < store.ttl(key) <= 50 + SETTINGS.tombstone_ttl for key in own)
    assert 0 < store.ttl(keys.job(job_id)) <= 50


def test_recovery_forgets_the_index_entry_of_what_has_expired(store: redis.Redis, jobs: Jobs) -> None:
    Models(store).publish([{"name": "add"}])
    job_id = jobs.submit(submission()).id
    store.delete(keys.job(job_id))
    recovery = Recovery(store, SETTINGS, "w1")

    for _ in range(20):
        recovery.run()

    assert store.zcard(keys.JOBS) == 0
    assert store.zcard(keys.jobs_of("add")) == 0
    assert not store.exists(keys.events(job_id))
    assert store.ttl(keys.known(job_id)) > 0


def test_jobs_are_listed_newest_first_in_pages_without_gap_or_repeat(store: redis.Redis, jobs: Jobs) -> None:
    ids = [jobs.submit(submission()).id for _ in range(7)]
    for job_id in ids:
        store.zadd(keys.JOBS, {job_id: 5})  # one moment for all: told apart by id

    pages, cursor = [], None
    while True:
        page, cursor = Listings(store, jobs).newest(None, frozenset(), 3, cursor)
        pages.append([each.job.id for each in page])
        if cursor is None:
            break

    assert [len(page) for page in pages] == [3, 3, 1]
    assert [job_id for page in pages for job_id in page] == sorted(ids, reverse=True)


def test_a_list_can_be_limited_to_statuses_and_models(store: redis.Redis, jobs: Jobs) -> None:
    listings = Listings(store, jobs)
    first = jobs.submit(submission()).id
    jobs.cancel(first)
    jobs.submit(submission(model="other"))

    assert [each.job.id for each in listings.newest(None, frozenset({"canceled"}), 10, None)[0]] == [first]
    assert [each.job.model for each in listings.newest("other", frozenset(), 10, None)[0]] == ["other"]


def test_a_model_outlives_its_workers_and_is_offline_then(store: redis.Redis) -> None:
    models = Models(store)
    models.publish([{"name": "add", "input_schema": {}}])
    models.report("w1", [({"name": "add"}, Report("ready"))], ttl=30)
    assert models.get("add").state == "ready"

    models.withdraw("w1", ["add"])

    assert models.get("add").state == "offline"
    models.forget("add")
    with pytest.raises(ModelNotFound):
        models.get("add")


def test_a_broken_file_leaves_an_earlier_description_alone(store: redis.Redis) -> None:
    models = Models(store)
    models.publish([{"name": "add", "input_schema": {"type": "object"}}])

    broken = Report("failed", "oops")
    models.report("w1", [(unknown_description(name, f"{name}.py"), broken) for name in ("add", "new")], ttl=30)

    add, new = models.all()
    assert (add.state, add.error, add.callable) == ("failed", "oops", True)
    assert (new.state, new.callable) == ("failed", False)
