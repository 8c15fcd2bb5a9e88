"""The recovery loop on what nobody of ours writes: foreign keys and members, jobs in no list, thousands at once."""

from __future__ import annotations

import json
import time
import zlib
from typing import Any

import pytest
import redis

from service.settings import Settings
from service.store import keys
from service.store.events import dumps
from service.store.executions import Execution, Executions, Turn, Wanted
from service.store.job import UnreadableJob
from service.store.jobs import JobGone, JobNotFound, Jobs, Submission
from service.store.listings import Listings
from service.store.models import Models, Report, unknown_description
from service.store.outcomes import Failed, Finished, Released
from service.store.recovery import Recovery, _Trust
from tests.deployment import eventually

SETTINGS = Settings(lease=3)
ADD = Submission(model="add", version="1", input={"x": 1}, timeout=30)
EXPIRED = {"type": "expired", "message": "the job was not started within its start_timeout"}


@pytest.fixture
def jobs(connection: redis.Redis) -> Jobs:
    return Jobs(connection, SETTINGS)


@pytest.fixture
def executions(connection: redis.Redis) -> Executions:
    return Executions(connection, SETTINGS)


@pytest.fixture
def recovery(connection: redis.Redis) -> Recovery:
    publish(connection)
    return Recovery(connection, SETTINGS, "holder")


def publish(connection: redis.Redis) -> None:
    Models(connection).report("w1", [(unknown_description("add", "add.py"), Report("ready"))], ttl=60)


def take(executions: Executions, most: int = 1) -> list[Execution]:
    wanted = [Wanted("add", "default", "main", "add", 1 / most, 1 / most, most)]
    return executions.make(Turn(wanted=wanted), "w1").taken


def runs(jobs: Jobs, executions: Executions) -> None:
    """A new job can be submitted, taken and finished."""
    job_id = jobs.submit(ADD).id
    while True:
        (execution,) = take(executions)
        assert executions.record(execution, Finished("3")) == "finished"
        if execution.job.id == job_id:
            return


# --- foreign keys and members -----------------------------------------------------------------------

SHARED = {
    "queue": keys.queue("add"),
    **{name: keys.registry(name, "add") for name in ("wip", "scheduled", "finished", "failed", "canceled")},
    "jobs": keys.JOBS,
    "jobs of a model": keys.jobs_of("add"),
    "start deadlines": keys.START_DEADLINES,
    "models": keys.MODELS,
    "serving": keys.serving("add"),
    "paused": keys.PAUSED,
    "queues": keys.QUEUES,
    "workers": keys.WORKERS,
    "recovery": keys.RECOVERY,
    "granted": keys.granted("w1"),
    "executions of a worker": keys.worker_executions("w1"),
}


@pytest.mark.parametrize("kind", ["string", "hash"])
@pytest.mark.parametrize("key", SHARED.values(), ids=SHARED)
def test_a_key_that_is_something_else_is_set_aside_and_jobs_run(
    connection: redis.Redis, jobs: Jobs, executions: Executions, recovery: Recovery, key: str, kind: str
) -> None:
    connection.delete(key)
    if kind == "string":
        connection.set(key, "not yours")
    else:
        connection.hset(key, "not", "yours")

    for _ in range(2):
        recovery.run()
        publish(connection)
    runs(jobs, executions)

    Models(connection).all()
    assert recovery is not None


@pytest.mark.parametrize("member", [b"\xff\xfe", b"a b", b"", b"x" * 1000, b"no-such-job", b"no:such:job"], ids=repr)
def test_a_member_that_is_no_job_is_dropped_and_the_others_go_on(
    connection: redis.Redis, jobs: Jobs, executions: Executions, recovery: Recovery, member: bytes
) -> None:
    for name in ("wip", "scheduled", "finished", "failed", "canceled"):
        connection.zadd(keys.registry(name, "add"), {member: 1})
    connection.lpush(keys.queue("add"), member)
    for index in (keys.JOBS, keys.jobs_of("add"), keys.START_DEADLINES):
        connection.zadd(index, {member: 1})
    connection.sadd(keys.PAUSED, member)
    connection.sadd(keys.QUEUES, member)
    connection.hset(keys.MODELS, member, member)
    late = jobs.submit(Submission(**{**vars(ADD), "start_timeout": 1}))
    connection.zadd(keys.START_DEADLINES, {late.id: 1})
    connection.hset(keys.job(late.id), "start_deadline", "1")

    jobs.active(None, 100)
    recovery.run()

    assert jobs.read(late.id).error == {
        "type": "expired",
        "message": "the job was not started within its start_timeout",
    }
    runs(jobs, executions)
    recovery.run()
    listed = Listings(connection, jobs)
    left = [connection.zscore(keys.registry(name, "add"), member) for name in ("wip", "scheduled")]
    assert [*left, connection.zscore(keys.START_DEADLINES, member)] == [None] * 3
    assert [each.job.status for each in listed.newest(None, frozenset(), 10, None)[0]] == ["finished", "failed"]


FORGED = {
    "a timeout of 400 digits": {"timeout": "9" * 400},
    "a timeout that is none": {"timeout": "soon"},
    "a ttl of 30 digits": {"result_ttl": "9" * 30},
    "attempts without end": {"attempts": "9" * 30},
    "retries in words": {"retries_left": "many"},
    "no payload": {"data": "[]"},
    "a payload that unpacks to 200 MB": {"data": zlib.compress(b"[" + b" " * 200 * 2**20 + b"]")},
    "a payload of another function": {"data": json.dumps(["os.system", None, ["x", {}], {}])},
    "a payload that is nested deeply": {"data": "[" * 100_000},
    "bytes": {"data": b"\xff\x00\xfe"},
    "no number": {"data": json.dumps(["service.worker.entry.run", None, ["add", {"x": float("nan")}], {}])},
}


@pytest.mark.parametrize("fields", FORGED.values(), ids=FORGED)
def test_a_forged_job_is_refused_shown_and_ended(
    connection: redis.Redis, jobs: Jobs, executions: Executions, recovery: Recovery, fields: dict[str, Any]
) -> None:
    job_id = jobs.submit(ADD).id
    connection.hset(keys.job(job_id), mapping=fields)

    (execution,) = take(executions)
    with pytest.raises(UnreadableJob):
        execution.job.call()
    jobs.read(job_id).to_json()
    executions.record(execution, Failed("refused", "it cannot be read", again=False))

    job = jobs.read(job_id)
    assert (job.status, job.error) == ("failed", {"type": "refused", "message": "it cannot be read"})
    assert 0 < connection.ttl(keys.job(job_id)) <= SETTINGS.failure_ttl
    runs(jobs, executions)


UNREADABLE = (
    *(b"{", b"[" * 100_000, b"\xff", b"9999999999", b'"text"', b"null", b"[]"),
    *(b'{"progress": NaN, "number": 1}', b'{"progress": 1e999, "number": 1, "url": -Infinity}'),
)
SHOWN = ("metadata", "webhook", "error", "meta", "attempt:1", "attempts", "retry_policy", "scheduled_at", "created_at")


@pytest.mark.parametrize("value", UNREADABLE, ids=range(len(UNREADABLE)))
@pytest.mark.parametrize("field", SHOWN)
def test_a_field_that_nobody_can_read_stops_neither_its_job_nor_who_looks(
    connection: redis.Redis, jobs: Jobs, executions: Executions, field: str, value: bytes
) -> None:
    job_id = jobs.submit(ADD).id
    connection.hset(keys.job(job_id), field, value)

    dumps(jobs.read(job_id).to_json())
    (execution,) = take(executions)
    connection.hset(keys.job(job_id), field, value)
    assert executions.record(execution, Finished("3")) == "finished"

    connection.hset(keys.job(job_id), field, value)
    shown = jobs.read(job_id).to_json()
    assert (shown["output"], dumps(shown)[:1]) == (3, "{")


@pytest.mark.parametrize("name", ["events", "known", "results", "dependents", "execution", "executions", "job"])
def test_a_job_whose_own_key_is_something_else_holds_up_no_other(
    connection: redis.Redis, jobs: Jobs, executions: Executions, recovery: Recovery, name: str
) -> None:
    bad, good = jobs.submit(ADD).id, jobs.submit(ADD).id
    taken = take(executions, most=2)
    key = keys.execution(bad, taken[0].id) if name == "execution" else getattr(keys, name)(bad)
    connection.delete(key)
    connection.set(key, "not yours") if name != "known" else connection.hset(key, "not", "yours")

    turn = Turn(ends=[(execution, Finished("3")) for execution in taken])
    executions.make(turn, "w1")

    assert jobs.read(good).status == "finished"
    connection.zadd(keys.registry("wip", "add"), {taken[0].member: 1}, xx=True)
    eventually(lambda: _gone_from_wip(connection, recovery))
    try:
        jobs.read(bad).to_json()
    except (JobGone, JobNotFound):
        assert name in ("job", "known")
    runs(jobs, executions)


def _gone_from_wip(connection: redis.Redis, recovery: Recovery) -> None:
    recovery.run()
    assert connection.zcard(keys.registry("wip", "add")) == 0


# --- jobs in no list --------------------------------------------------------------------------------


@pytest.mark.parametrize("status", ["queued", "scheduled", "started"])
def test_a_job_that_is_in_no_list_is_put_back(
    connection: redis.Redis,
    jobs: Jobs,
    executions: Executions,
    recovery: Recovery,
    monkeypatch: pytest.MonkeyPatch,
    status: str,
) -> None:
    monkeypatch.setattr("service.store.recovery._UNPLACED_FOR", 0)
    job_id = jobs.submit(Submission(**{**vars(ADD), "retries": 1})).id
    if status != "queued":
        (execution,) = take(executions)
        if status == "scheduled":
            executions.record(execution, Released(after=0.01))
    connection.delete(*(keys.registry(name, "add") for name in ("wip", "scheduled")), keys.queue("add"))

    def back() -> None:
        recovery.run()
        assert connection.lrange(keys.queue("add"), 0, -1) == [job_id.encode()]

    eventually(back)
    assert jobs.read(job_id).status == "queued"
    assert executions.record(take(executions)[0], Finished("3")) == "finished"


def test_a_job_that_one_of_rqs_workers_has_in_its_hands_is_left_to_it(
    connection: redis.Redis, jobs: Jobs, recovery: Recovery, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("service.store.recovery._UNPLACED_FOR", 0)
    jobs.submit(ADD)
    connection.lmove(keys.queue("add"), f"{keys.queue('add')}:intermediate", "LEFT", "RIGHT")

    for _ in range(3):
        recovery.run()

    assert connection.llen(keys.queue("add")) == 0


# --- many at once -----------------------------------------------------------------------------------


def test_thousands_that_are_due_at_once_are_moved_in_two_passes(
    connection: redis.Redis, jobs: Jobs, executions: Executions, recovery: Recovery, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("service.store.recovery._SECONDS", 20)  # of a machine that others use, too
    ids = [jobs.submit(Submission(**{**vars(ADD), "start_timeout": 3600})).id for _ in range(3000)]
    retried = []
    while len(retried) < 1000:
        for execution in take(executions, most=64):
            executions.record(execution, Released(after=0.001))
            retried.append(execution.job.id)
    waiting = [job_id for job_id in ids if job_id not in set(retried)]
    for job_id in waiting:
        connection.hset(keys.job(job_id), "start_deadline", 1)
        connection.zadd(keys.START_DEADLINES, {job_id: 1})

    for _ in range(2):
        recovery.run()

    assert {jobs.read(job_id).status for job_id in waiting} == {"failed"}
    assert {jobs.read(job_id).status for job_id in retried} == {"queued"}
    assert connection.llen(keys.queue("add")) == len(retried)


# --- clocks -----------------------------------------------------------------------------------------


def test_what_waited_here_and_is_given_back_still_has_to_start_in_time(
    connection: redis.Redis, jobs: Jobs, executions: Executions, recovery: Recovery
) -> None:
    job_id = jobs.submit(Submission(**{**vars(ADD), "start_timeout": 1})).id
    (execution,) = take(executions)
    executions.record(execution, Released(), begun=False)
    assert jobs.read(job_id).status == "queued"

    def expired() -> None:
        recovery.run()
        assert connection.zscore(keys.START_DEADLINES, job_id) is None

    eventually(expired)
    assert jobs.read(job_id).error == EXPIRED


def test_a_job_that_has_begun_in_time_may_start_again_whenever_it_likes(
    connection: redis.Redis, jobs: Jobs, executions: Executions
) -> None:
    job_id = jobs.submit(Submission(**{**vars(ADD), "start_timeout": 1})).id
    executions.record(take(executions)[0], Released())

    assert connection.zscore(keys.START_DEADLINES, job_id) is None
    assert connection.hget(keys.job(job_id), "start_deadline") is None


def test_a_lease_that_ends_too_far_in_the_future_is_cut_and_one_of_rqs_is_not(
    connection: redis.Redis, jobs: Jobs, executions: Executions, recovery: Recovery
) -> None:
    jobs.submit(ADD)
    (execution,) = take(executions)
    wip = keys.registry("wip", "add")
    later = time.time() + 3600
    connection.zadd(wip, {execution.member: later, "stock:execution": later})

    recovery.run()

    assert (connection.zscore(wip, execution.member) or 0) < time.time() + 60
    assert connection.zscore(wip, "stock:execution") == later


@pytest.mark.parametrize("step", [3600, -3600, 2])
def test_leases_are_not_judged_soon_after_redis_clock_took_a_step(step: float) -> None:
    trust = _Trust(patience=1000)
    trust.look(1000.0, -1e9)
    assert trust.may_judge

    trust.look(1000.0 + step, -1e9)

    assert not trust.may_judge


def test_leases_are_not_judged_soon_after_another_redis_answers() -> None:
    trust = _Trust(patience=1000)
    for run_id in ("a", "a"):
        trust.look_at_server(run_id)
        assert trust.may_judge

    trust.look_at_server("b")

    assert not trust.may_judge
