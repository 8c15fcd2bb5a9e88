"""The worker's side of a job: take it, tell of it, end it. Each step is one atomic script.

Every write is fenced: it needs the execution's entry in RQ's started registry, which a worker loses
when its lease has passed and the job was given to another. Every step may be sent twice.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import redis
from rq.defaults import RQ_KEY_PREFIX
from rq.job import Job as RQJob
from rq.queue import Queue
from rq.serializers import JSONSerializer

from service.settings import Settings
from service.store import keys
from service.store.clock import from_rq, now, rfc3339, to_unix
from service.store.events import dumps
from service.store.job import Job, split
from service.store.outcomes import Failed, Finished, Outcome, Released, Stopped, ending_of
from service.store.scripts import Scripts


class Suspended(Exception):
    """`rq suspend` holds all workers."""


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

    @property
    def member(self) -> str:
        return f"{self.job.id}:{self.id}"


class Executions:
    """All executions, as workers and the recovery loop see them."""

    def __init__(self, connection: redis.Redis, settings: Settings) -> None:
        self._redis = connection
        self._settings = settings
        self._scripts = Scripts(connection)

    def take(self, execution_id: str, worker: str, queues: Sequence[str]) -> Execution | None:
        """Take the next job of these queues, in their order, and start it. None if there is none.

        Asking again with the same id gives the same job. Raises Suspended. One round trip.
        """
        moment = now()
        attempt = _attempt(worker, moment.rfc3339, None, None)
        while True:
            answer = self._scripts.take(
                keys=[
                    keys.granted(worker),
                    keys.worker(worker),
                    keys.worker_executions(worker),
                    keys.SUSPENDED,
                    keys.START_DEADLINES,
                    *map(keys.queue, queues),
                ],
                args=[
                    execution_id,
                    worker,
                    moment.unix,
                    moment.rq,
                    self._lease,
                    self._settings.max_events,
                    RQ_KEY_PREFIX,
                    attempt,
                    dumps(worker),
                ],
            )
            if answer == b"suspended":
                raise Suspended
            if answer != b"again":
                break
        if answer is None:
            return None
        payload, fields = split(answer[1])
        job = Job(answer[0].decode(), fields, payload, {})
        return Execution(execution_id, job, worker, moment.unix, job.attempt_count)

    def forget(self, worker: str) -> None:
        """A worker ends: nobody will ask again for what it took last."""
        self._redis.delete(keys.granted(worker))

    def append(self, execution: Execution, number: int, events: Sequence[tuple[str, str]], meta: str = "") -> None:
        """Append events (type, JSON) to the job's log; `meta` is the latest progress, JSON.

        `number` counts the calls of an execution: one that is repeated writes nothing twice. Raises LeaseLost.
        """
        self._fenced(
            self._scripts.append(
                keys=self._keys(execution)[:8],
                args=[
                    execution.member,
                    number,
                    self._settings.max_events,
                    meta,
                    *(part for event in events for part in event),
                ],
            )
        )

    def renew(self, execution: Execution) -> bool:
        """Renew the lease; whether the job is asked to stop. Raises LeaseLost."""
        moment = now()
        answer = self._scripts.renew(
            keys=self._keys(execution)[:10],
            args=[execution.member, execution.id, moment.unix, moment.rq, self._lease],
        )
        self._fenced(answer)
        return bool(answer == 2)

    def record(self, execution: Execution, outcome: Outcome, lease_ended_by: float | None = None) -> str:
        """Write how an execution ended, in one step, and return the job's status after it. Raises LeaseLost.

        With `lease_ended_by` (unix) it is written only if the lease had passed by then: so the recovery
        loop ends what a dead worker held, and never what a living one holds.
        """
        before = "" if lease_ended_by is None else str(lease_ended_by)
        if isinstance(outcome, Released) or self._tried_again(execution, outcome):
            status = self._again(execution, outcome, before)
            if status is not None:
                return status
            outcome = Stopped("killed", now().rfc3339)  # asked for when the try was ending in another way
        assert not isinstance(outcome, Released)
        return self._end(execution, outcome, before)

    def _tried_again(self, execution: Execution, outcome: Outcome) -> bool:
        return isinstance(outcome, Failed) and outcome.again and execution.job.retries_left > 0

    def _again(self, execution: Execution, outcome: Outcome, before: str) -> str | None:
        moment = now()
        job = execution.job
        error = {"type": outcome.type, "message": outcome.message} if isinstance(outcome, Failed) else None
        after = outcome.after if isinstance(outcome, (Failed, Released)) else 0
        retries_left = job.retries_left - (1 if error else 0)
        events = []
        if error:
            events.append(("retrying", dumps({"error": error, "after": after, "retries_left": retries_left})))
        if after:
            events.append(("scheduled", dumps({"at": rfc3339(moment.unix + after)})))
        else:
            events.append(("queued", dumps({"queue": job.queue, "priority": job.fields.get("priority")})))
        answer = self._scripts.again(
            keys=[*self._keys(execution), keys.queue(job.queue), keys.registry("scheduled", job.queue)],
            args=[
                execution.member,
                execution.id,
                before,
                job.id,
                execution.number,
                _attempt(execution.worker, rfc3339(execution.started_at), moment.rfc3339, error) if error else "",
                moment.unix + after if after else "",
                retries_left,
                moment.rq,
                keys.WAKE,
                job.queue,
                self._settings.max_events,
                *(part for event in events for part in event),
            ],
        )
        self._fenced(answer)
        if answer == 2:
            return None
        return "scheduled" if after else "queued"

    def _end(self, execution: Execution, outcome: Finished | Failed | Stopped, before: str) -> str:
        moment = now()
        job = execution.job
        settings = self._settings
        ending = ending_of(job.id, outcome)
        good = ending.status == "finished"
        fields = {"ended_at": moment.rq, "last_heartbeat": moment.rq, **ending.fields}
        result = {
            **ending.result,
            "worker_name": execution.worker,
            "execution_id": execution.id,
            "execution_started_at": execution.started_at,
            "execution_ended_at": moment.unix,
        }
        answer = self._scripts.end(
            keys=[
                *self._keys(execution),
                keys.worker(execution.worker),
                keys.registry("finished" if good else "failed", job.queue),
            ],
            args=[
                execution.member,
                execution.id,
                before,
                job.id,
                ending.status,
                execution.number,
                _attempt(execution.worker, rfc3339(execution.started_at), moment.rfc3339, ending.error),
                job.ttl("result_ttl", settings.result_ttl) if good else job.ttl("failure_ttl", settings.failure_ttl),
                self._settings.tombstone_ttl,
                moment.unix,
                "successful_job_count" if good else "failed_job_count",
                moment.unix - execution.started_at,
                self._settings.max_events,
                ending.data,
                2 * len(fields),
                *(part for pair in fields.items() for part in pair),
                *(part for pair in result.items() for part in pair),
            ],
        )
        self._fenced(answer)
        if answer == 2:
            self._enqueue_dependents(job)
        return ending.status

    def _enqueue_dependents(self, job: Job) -> None:
        # Rare, so RQ's own code does it: jobs that some RQ application made dependent on ours.
        rq_job = RQJob.fetch(job.id, connection=self._redis, serializer=JSONSerializer)
        Queue(job.queue, connection=self._redis, serializer=JSONSerializer).enqueue_dependents(rq_job)

    @property
    def _lease(self) -> int:
        return round(self._settings.lease)

    def _keys(self, execution: Execution) -> list[str]:
        job = execution.job
        return [
            *keys.lifecycle(job.id),
            keys.registry("wip", job.queue),
            keys.execution(job.id, execution.id),
            keys.executions(job.id),
            keys.worker_executions(execution.worker),
        ]

    @staticmethod
    def _fenced(answer: int) -> None:
        if answer == 0:
            raise LeaseLost


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
    )


def _attempt(worker: str, started_at: str, ended_at: str | None, error: dict[str, str] | None) -> str:
    # The number is put before it by the script, which counts.
    return dumps({"worker": worker, "started_at": started_at, "ended_at": ended_at, "error": error})[1:-1]
