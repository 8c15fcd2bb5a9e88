"""The worker's side of a job: take it, tell of it, end it. A turn does all that is due in one atomic script.

Every write is fenced: it needs the execution's entry in RQ's started registry, which a worker loses
when its lease has passed and the job was given to another. Every step may be sent twice.
"""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from itertools import chain
from typing import Any

import redis
from rq.job import Job as RQJob
from rq.queue import Queue
from rq.serializers import JSONSerializer

from service.settings import Settings
from service.store import keys
from service.store.clock import RedisClock, from_rq, now, rfc3339, to_unix
from service.store.events import dumps
from service.store.job import Job, packed, traceback_field
from service.store.outcomes import Declined, Failed, Finished, Outcome, Released, Stopped, ending_of
from service.store.retry_policy import retry_policy_of
from service.store.scripts import Scripts

_TOLD = (  # as turn.lua names them
    *("model", "timeout", "retries_left", "priority", "created_at", "result_ttl", "failure_ttl", "attempts"),
    *("retries", "retry_policy", "crashes", "start_deadline", "secrets", "metadata", "version"),
)


class LeaseLost(Exception):
    """The job is no longer this execution's: another may run it already."""


@dataclass(frozen=True)
class Execution:
    """One run of one job by one worker."""

    id: str
    job: Job
    worker: str
    started_at: float
    number: int
    waits: bool = False
    """Whether it was taken to run after others; a turn says when it has begun."""
    version: str | None = None
    """That of the model by which its worker runs it."""

    @property
    def member(self) -> str:
        return f"{self.job.id}:{self.id}"


@dataclass(frozen=True)
class Append:
    """Events (type, JSON) for a job's log; `meta` is its latest progress, JSON.

    `number` counts the appends of an execution: one that is repeated writes nothing twice.
    """

    execution: Execution
    number: int
    events: Sequence[tuple[str, str]]
    meta: str = ""


@dataclass(frozen=True)
class Wanted:
    """A queue to take from, and how many: turn.lua says what its numbers mean."""

    queue: str
    priority: str
    lane: str
    model: str
    first: float = 1.0
    further: float = 1.0
    most: int = 1
    version: str | None = None


@dataclass
class Turn:
    """What a worker's next turn writes and wants, and what came of it once it was made.

    One that was not answered is made again under its id: what was written is not written twice, and what
    was taken is given again, whatever is wanted now.
    """

    appends: list[Append] = field(default_factory=list)
    ends: list[tuple[Execution, Finished | Failed | Stopped]] = field(default_factory=list)
    wanted: list[Wanted] = field(default_factory=list)
    begun: list[Execution] = field(default_factory=list)
    """Those that waited and have begun."""
    holding: bool = True
    """Whether the worker holds other jobs than those that end."""
    running: bool = False
    """Whether the main lane runs something."""
    id: str = field(default_factory=lambda: uuid.uuid4().hex)

    taken: list[Execution] = field(default_factory=list)
    lost: list[Execution] = field(default_factory=list)
    """Those of them that are no longer this worker's."""
    suspended: bool = False
    again: bool = False
    """Whether there may be more in the queues, behind what was passed over."""
    empty: bool = False
    """Whether nothing is left in the queues that were wanted."""


class Executions:
    """All executions, as workers and the recovery loop see them."""

    def __init__(self, connection: redis.Redis, settings: Settings) -> None:
        self._redis = connection
        self._settings = settings
        self._scripts = Scripts(connection)
        self._lease = round(settings.lease)
        self.clock = RedisClock()
        """Read at each turn and each renewal."""

    def make(self, turn: Turn, worker: str, lease_ended: bool = False) -> Turn:
        """Make a turn: one round trip, whatever is in it."""
        asked_at = time.monotonic()
        appended, ended, taken, state, moment = self._scripts.turn(
            keys=[
                keys.granted(worker),
                keys.worker(worker),
                keys.worker_executions(worker),
                keys.SUSPENDED,
                keys.START_DEADLINES,
                keys.PAUSED,
                keys.APART,
            ],
            args=[
                turn.id,
                worker,
                self._lease,
                self._settings.max_events,
                self._settings.tombstone_ttl,
                dumps(worker),
                "1" if turn.holding else "",
                "1" if turn.running else "",
                len(turn.begun),
                *(each.member for each in turn.begun),
                len(turn.appends),
                *chain.from_iterable(map(_append, turn.appends)),
                len(turn.ends),
                *chain.from_iterable(self._end(*each, lease_ended) for each in turn.ends),
                len(turn.wanted),
                *chain.from_iterable(map(_wanted, turn.wanted)),
            ],
        )
        self.clock.read(float(moment), asked_at)
        turn.taken = [_taken(worker, float(moment), *each) for each in taken]
        turn.lost = [each.execution for each, answer in zip(turn.appends, appended, strict=True) if not answer]
        turn.lost += [execution for (execution, _), answer in zip(turn.ends, ended, strict=True) if not answer]
        turn.suspended, turn.again, turn.empty = state == b"suspended", state == b"again", state == b"empty"
        for (execution, _), answer in zip(turn.ends, ended, strict=True):
            if answer == 2:
                self._enqueue_dependents(execution.job)
        return turn

    def waits(self, execution: Execution) -> bool:
        """Whether it has not begun, as far as its worker has said."""
        return bool(self._redis.hexists(keys.execution(execution.job.id, execution.id), "waiting"))

    def forget(self, worker: str) -> None:
        """A worker ends: nobody will ask again for what it took last."""
        self._redis.delete(keys.granted(worker))

    def renew(self, worker: str, executions: Sequence[Execution]) -> list[int]:
        """Renew leases; for each 0 if it was lost, 2 if the job is asked to stop, else 1. One round trip."""
        asked_at = time.monotonic()
        moment, *answers = self._scripts.renew(
            keys=[keys.worker_executions(worker)],
            args=[self._lease, *(part for each in executions for part in (each.job.id, each.id, each.job.queue))],
        )
        self.clock.read(float(moment), asked_at)
        return list(answers)

    def record(self, execution: Execution, outcome: Outcome, lease_ended: bool = False, begun: bool = True) -> str:
        """Write how one execution ended, in one step, and return the job's status after it. Raises LeaseLost.

        With `lease_ended` it is written only if the lease has passed: so the recovery loop ends what a dead worker
        held, and never what a living one holds. One that is released before it had `begun` goes on to wait for as
        long as its start_timeout says.
        """
        ending = self._set_apart(execution, outcome) if isinstance(outcome, Declined) else outcome
        if ending is None:
            return "scheduled"
        if isinstance(ending, Released) or tried_again(execution, ending):
            status = self._again(execution, ending, lease_ended, begun)
            if status is not None:
                return status
            ending = self._stopped()  # asked for when the try was ending in another way
        assert not isinstance(ending, Released)
        if self.make(Turn(ends=[(execution, ending)]), execution.worker, lease_ended).lost:
            raise LeaseLost
        return ending_of(execution.job.id, ending).status

    def _stopped(self) -> Stopped:
        return Stopped("killed", self.clock.rfc3339)

    def _set_apart(self, execution: Execution, outcome: Declined) -> Failed | Stopped | None:
        """Have a job wait for a worker with its own version; else how it ends. Raises LeaseLost."""
        job = execution.job
        answer = self._scripts.apart(
            keys=[
                *keys.lifecycle(job.id),
                keys.registry("wip", job.queue),
                keys.execution(job.id, execution.id),
                keys.executions(job.id),
                keys.worker_executions(execution.worker),
                keys.registry("scheduled", job.queue),
                keys.apart(job.queue, job.version),
                keys.APART,
                keys.serving(keys.model_of(job.queue)),
                keys.START_DEADLINES,
            ],
            args=[
                execution.member,
                execution.id,
                job.id,
                execution.number,
                job.version,
                dumps(job.version),
                self._settings.version_wait,
                job.queue,
                self._settings.max_events,
            ],
        )
        if answer == 0:
            raise LeaseLost
        if answer == 2:
            return self._stopped()
        return outcome.failure if answer == 3 else None

    def _again(self, execution: Execution, outcome: Outcome, lease_ended: bool, begun: bool) -> str | None:
        job = execution.job
        error: dict[str, str] | None = None
        after, retries_left, crashed = 0.0, job.retries_left, False
        if isinstance(outcome, Failed):
            error = {"type": outcome.type, "message": outcome.message}
            after, retries_left = retry_policy_of(job).delay(outcome, job.tries_failed + 1), retries_left - 1
            crashed = outcome.crashed
        elif isinstance(outcome, Released):
            after = outcome.after
        answer = self._scripts.again(
            keys=[
                *keys.lifecycle(job.id),
                keys.registry("wip", job.queue),
                keys.execution(job.id, execution.id),
                keys.executions(job.id),
                keys.worker_executions(execution.worker),
                keys.queue(job.queue),
                keys.registry("scheduled", job.queue),
                keys.START_DEADLINES,
            ],
            args=[
                execution.member,
                execution.id,
                "1" if lease_ended else "",
                job.id,
                execution.number,
                _attempt(execution, error) if error else "",
                after or "",
                retries_left,
                job.queue,
                self._settings.max_events,
                "1" if crashed else "",
                dumps({"error": error, "after": round(after, 3), "retries_left": retries_left}) if error else "",
                dumps({"queue": job.queue, "priority": job.fields.get("priority")}),
                "1" if begun else "",
                packed(outcome.traceback) if isinstance(outcome, Failed) and outcome.traceback else "",
            ],
        )
        if answer == 0:
            raise LeaseLost
        if answer == 2:
            return None
        return "scheduled" if after else "queued"

    def _end(self, execution: Execution, outcome: Finished | Failed | Stopped, lease_ended: bool) -> Iterable[Any]:
        job, settings = execution.job, self._settings
        ending = ending_of(job.id, _in_the_end(job, outcome))
        good = ending.status == "finished"
        fields = dict(ending.fields)
        if isinstance(outcome, Failed) and outcome.traceback:
            fields[traceback_field(execution.number)] = packed(outcome.traceback)
        result = {
            **ending.result,
            "worker_name": execution.worker,
            "execution_id": execution.id,
            "execution_started_at": execution.started_at,
        }
        return (
            job.id,
            execution.id,
            job.queue,
            "1" if lease_ended else "",
            ending.status,
            execution.number,
            _attempt(execution, ending.error),
            job.ttl("result_ttl", settings.result_ttl) if good else job.ttl("failure_ttl", settings.failure_ttl),
            execution.started_at,
            ending.data,
            2 * len(fields),
            *chain.from_iterable(fields.items()),
            2 * len(result),
            *chain.from_iterable(result.items()),
        )

    def _enqueue_dependents(self, job: Job) -> None:
        # Rare, so RQ's own code does it: jobs that some RQ application made dependent on ours.
        rq_job = RQJob.fetch(job.id, connection=self._redis, serializer=JSONSerializer)
        Queue(job.queue, connection=self._redis, serializer=JSONSerializer).enqueue_dependents(rq_job)


def tried_again(execution: Execution, outcome: Outcome) -> bool:
    """Whether this outcome is not the job's last."""
    if not isinstance(outcome, Failed) or execution.job.retries_left <= 0:
        return False
    return retry_policy_of(execution.job).allows(outcome, execution.job.crashes)


def _in_the_end(job: Job, outcome: Finished | Failed | Stopped) -> Finished | Failed | Stopped:
    """A failure that is the job's last, and says so if nobody would guess why."""
    if not isinstance(outcome, Failed) or not outcome.crashed or not job.crashes or job.retries_left <= 0:
        return outcome
    most = retry_policy_of(job).max_crashes
    return replace(outcome, message=f"{outcome.message}; it is not tried again: max_crashes is {most}")


def held(job: Job, execution_id: str) -> Execution:
    """The execution that holds a job, as far as the job tells: for the recovery loop."""
    started_at = from_rq(job.fields.get("started_at"))
    attempt = job.attempts[-1] if job.attempts else {}
    return Execution(
        execution_id,
        job,
        attempt.get("worker") or job.fields.get("worker_name", ""),
        to_unix(started_at) or now().unix,
        job.attempt_count,
        version=attempt.get("version"),
    )


def _append(each: Append) -> Iterable[Any]:
    job = each.execution.job
    return (
        job.id,
        each.execution.id,
        job.queue,
        each.number,
        each.meta,
        2 * len(each.events),
        *chain.from_iterable(each.events),
    )


def _wanted(each: Wanted) -> Iterable[Any]:
    version = _as_json(each.version)
    return (each.queue, each.priority, each.lane, each.model, each.first, each.further, each.most, version)


# Of few versions, for each job.
_as_json = lru_cache(maxsize=1024)(dumps)
_from_json = lru_cache(maxsize=1024)(json.loads)


def _taken(
    worker: str,
    started_at: float,
    job_id: bytes,
    queue: bytes,
    execution: bytes,
    raw: list[Any],
    waits: int,
    version: bytes,
) -> Execution:
    payload, *values = raw
    fields = {name: value.decode(errors="replace") for name, value in zip(_TOLD, values, strict=True) if value}
    fields["origin"] = queue.decode(errors="replace")
    job = Job(job_id.decode(), fields, payload or b"", {})
    return Execution(execution.decode(), job, worker, started_at, job.attempt_count, bool(waits), _from_json(version))


def _attempt(execution: Execution, error: dict[str, str] | None) -> str:
    # What comes before and after it is put there by the script, which has the number and the time.
    attempt = {
        "worker": execution.worker,
        "version": execution.version,
        "started_at": rfc3339(execution.started_at),
        "error": error,
    }
    return dumps(attempt)[1:-1]
