"""A script that Redis refuses in its middle, as an ACL may, leaves no half of a job; the same again does all of it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress

import pytest
import redis

from service.settings import Settings
from service.store import keys
from service.store.executions import Execution, Executions, LeaseLost, Turn, Wanted
from service.store.jobs import Identity, Jobs, Submission
from service.store.models import Models
from service.store.outcomes import Failed, Finished, Outcome, Released, Stopped
from service.store.recovery import Recovery
from tests.deployment import eventually

SETTINGS = Settings(lease=3)
WRITES = (
    *("hset", "hdel", "hincrby", "set", "sadd", "srem", "zadd", "zrem", "xadd", "rpush", "lpush", "lrem", "publish"),
    *("expire", "persist", "del", "rename", "hsetnx", "hincrbyfloat"),
)
ADD = Submission(
    model="add", version="1", input={}, timeout=30, retries=1, start_timeout=60, identity=Identity("same", None, "key")
)


@pytest.fixture
def narrow(connection: redis.Redis, redis_url: str) -> Iterator[redis.Redis]:
    """A client whose user may lack a command (`without`)."""
    connection.execute_command("ACL", "SETUSER", "narrow", "reset", "on", ">pass", "+@all", "~*", "&*")
    with redis.Redis.from_url(redis_url, username="narrow", password="pass") as client:  # noqa: S106
        yield client
    connection.execute_command("ACL", "DELUSER", "narrow")


@contextmanager
def without(connection: redis.Redis, command: str) -> Iterator[None]:
    """Within it that user may not use a command."""
    connection.execute_command("ACL", "SETUSER", "narrow", f"-{command}")
    try:
        yield
    finally:
        connection.execute_command("ACL", "SETUSER", "narrow", f"+{command}")


def take(executions: Executions) -> list[Execution]:
    return executions.make(Turn(wanted=[Wanted("add", "default", "main", "add")]), "w1").taken


@pytest.mark.parametrize("command", WRITES)
def test_a_submit_is_all_of_a_job_or_nothing(connection: redis.Redis, narrow: redis.Redis, command: str) -> None:
    refused = None
    with without(connection, command):
        try:
            Jobs(narrow, SETTINGS).submit(ADD)
        except redis.exceptions.ResponseError as error:
            refused = error

    job = Jobs(connection, SETTINGS).submit(ADD)

    assert job.replayed or refused
    assert Jobs(connection, SETTINGS).read(job.id).status == "queued"
    executions = Executions(connection, SETTINGS)
    assert [execution.job.id for execution in take(executions)] == [job.id]
    assert take(executions) == []


OUTCOMES: dict[str, tuple[Outcome, str]] = {
    "finished": (Finished("3"), "finished"),
    "failed": (Failed("model_error", "no", again=False), "failed"),
    "stopped": (Stopped("killed", "2026-01-01T00:00:00.000Z"), "stopped"),
    "again": (Failed("model_error", "no", after=0), "queued"),
    "later": (Failed("model_error", "no", after=60), "scheduled"),
    "released": (Released(), "queued"),
}


@pytest.mark.parametrize("outcome", OUTCOMES)
@pytest.mark.parametrize("command", WRITES)
def test_an_outcome_is_written_whole_when_it_is_sent_again(
    connection: redis.Redis, narrow: redis.Redis, monkeypatch: pytest.MonkeyPatch, command: str, outcome: str
) -> None:
    monkeypatch.setattr("service.store.recovery._UNPLACED_FOR", 0)
    Models(connection).publish([{"name": "add", "input_schema": {}}])
    value, status = OUTCOMES[outcome]
    jobs, executions = Jobs(connection, SETTINGS), Executions(connection, SETTINGS)
    job_id = jobs.submit(ADD).id
    (execution,) = take(executions)

    with without(connection, command), suppress(redis.exceptions.ResponseError):
        Executions(narrow, SETTINGS).record(execution, value)
    with suppress(LeaseLost):
        executions.record(execution, value)

    place = {"queued": keys.queue("add"), "scheduled": keys.registry("scheduled", "add")}.get(status)
    recovery = Recovery(connection, SETTINGS, "holder")

    def put_right() -> None:
        """By itself, or by the recovery loop."""
        recovery.run()
        assert jobs.read(job_id).status == status
        assert connection.zcard(keys.registry("wip", "add")) == 0
        assert place is None or connection.exists(place)

    connection.zadd(keys.registry("wip", "add"), {execution.member: 1}, xx=True)
    eventually(put_right)
    if status == "queued":
        assert [each.job.id for each in take(executions)] == [job_id]
        assert take(executions) == []


@pytest.mark.parametrize("command", WRITES)
def test_a_take_that_is_refused_leaves_the_job_to_the_next(
    connection: redis.Redis, narrow: redis.Redis, command: str
) -> None:
    jobs, executions = Jobs(connection, SETTINGS), Executions(connection, SETTINGS)
    job_id = jobs.submit(ADD).id

    taken: list[Execution] = []
    turn = Turn(wanted=[Wanted("add", "default", "main", "add")])
    with without(connection, command), suppress(redis.exceptions.ResponseError):
        taken = Executions(narrow, SETTINGS).make(turn, "w1").taken
    taken = taken or executions.make(turn, "w1").taken

    assert [execution.job.id for execution in taken] == [job_id]
    assert executions.record(taken[0], Finished("3")) == "finished"


@pytest.mark.parametrize("command", WRITES)
def test_a_cancel_that_is_refused_can_be_asked_again(
    connection: redis.Redis, narrow: redis.Redis, command: str
) -> None:
    jobs = Jobs(connection, SETTINGS)
    job_id = jobs.submit(ADD).id

    with without(connection, command), suppress(redis.exceptions.ResponseError):
        Jobs(narrow, SETTINGS).cancel(job_id)
    jobs.cancel(job_id)

    assert jobs.read(job_id).status == "canceled"
    assert take(Executions(connection, SETTINGS)) == []
