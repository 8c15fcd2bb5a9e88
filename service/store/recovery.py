"""The recovery loop: returns what dead workers held, queues what is due, expires what waited too long.

One worker at a time holds it. It needs no more care than that: each step is one script that looks at
the job's status, execution and lease together, so a second holder would find nothing left to do.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Iterator
from typing import Any

import redis
from rq.defaults import RQ_KEY_PREFIX

from service.settings import Settings
from service.store import keys
from service.store.clock import now
from service.store.events import dumps
from service.store.executions import Executions, LeaseLost, held
from service.store.job import Job
from service.store.jobs import JobGone, JobNotFound, Jobs
from service.store.models import Models
from service.store.outcomes import Failed, Outcome, Released, Stopped
from service.store.scripts import Scripts

log = logging.getLogger("service.recovery")

_PER_PASS = 200
_SWEEP_SECONDS = 0.05  # of each pass: the worker that holds the loop has jobs to look after


class Recovery:
    """One worker's part in the recovery loop; `run` is one pass, to be called about once a second."""

    def __init__(self, connection: redis.Redis, settings: Settings, worker: str) -> None:
        self._redis = connection
        self._settings = settings
        self._worker = worker
        self._jobs = Jobs(connection, settings)
        self._executions = Executions(connection, settings)
        self._models = Models(connection)
        self._scripts = Scripts(connection)
        self._indexes: Iterator[str] = iter(())
        self._swept = ("", 0)

    def run(self, redis_away_at: float = -math.inf) -> None:
        """Do what is due, if this worker holds the loop.

        `redis_away_at`: when Redis last did not answer, as time.monotonic().
        """
        if not self._hold():
            return
        queues = [keys.queue_name(m, priority) for m in self._models.names() for priority in keys.PRIORITIES]
        moment = now().unix
        for queue, abandoned, due in self._look(queues, moment):
            if abandoned and self._leases_count(redis_away_at):
                for member in abandoned:
                    self._take_back(queue, member.decode(), moment)
            for job_id in due:
                self._queue_scheduled(queue, job_id.decode())
        self._expire_waiting(moment)
        self._sweep(queues)

    def release(self) -> None:
        """Let another worker take over at once."""
        if self._redis.get(keys.RECOVERY) == self._worker.encode():
            self._redis.delete(keys.RECOVERY)

    def _hold(self) -> bool:
        ttl = round(self._settings.lease)
        if self._redis.set(keys.RECOVERY, self._worker, nx=True, ex=ttl):
            return True
        return self._redis.get(keys.RECOVERY) == self._worker.encode() and bool(self._redis.expire(keys.RECOVERY, ttl))

    def _look(self, queues: list[str], moment: float) -> Iterator[tuple[str, list[bytes], list[bytes]]]:
        with self._redis.pipeline(transaction=False) as pipeline:
            for queue in queues:
                pipeline.zrangebyscore(keys.registry("wip", queue), 0, moment, 0, _PER_PASS)
                pipeline.zrangebyscore(keys.registry("scheduled", queue), 0, moment, 0, _PER_PASS)
                pipeline.zremrangebyscore(keys.registry("finished", queue), 0, moment)
                pipeline.zremrangebyscore(keys.registry("failed", queue), 0, moment)
            answers = iter(pipeline.execute())
        for queue, abandoned, due, _, _ in zip(queues, answers, answers, answers, answers, strict=True):
            yield queue, abandoned, due

    def _leases_count(self, redis_away_at: float) -> bool:
        """Not yet when Redis was away: who could not renew a lease meanwhile must first have had the time to."""
        if time.monotonic() - redis_away_at < self._settings.lease:
            return False
        return bool(self._redis.info("server")["uptime_in_seconds"] >= self._settings.lease)

    def _take_back(self, queue: str, member: str, moment: float) -> None:
        job_id, _, execution_id = member.partition(":")
        try:
            job = self._jobs.read(job_id)
        except (JobNotFound, JobGone):
            job = None
        if job is None or job.status != "started":
            self._redis.zrem(keys.registry("wip", queue), member)
            return
        try:
            execution = held(job, execution_id)
            verdict = _verdict(job, execution.worker, self._executions.waits(execution))
            status = self._executions.record(execution, verdict, lease_ended_by=moment)
        except LeaseLost:
            return
        except (ValueError, TypeError, KeyError, AttributeError, redis.exceptions.ResponseError):
            # Written by somebody else, in a shape of its own: it must not stop the recovery of others.
            log.exception("a held job cannot be read", extra={"job_id": job_id})
            self._redis.zrem(keys.registry("wip", queue), member)
            return
        log.warning(
            "a dead worker's job was taken back",
            extra={"job_id": job_id, "worker": execution.worker, "status": status},
        )

    def _queue_scheduled(self, queue: str, job_id: str) -> None:
        moment = now()
        self._scripts.due(
            keys=[*keys.lifecycle(job_id), keys.registry("scheduled", queue), keys.queue(queue)],
            args=[
                job_id,
                moment.unix,
                moment.rq,
                keys.WAKE,
                queue,
                self._settings.max_events,
                dumps({"queue": queue}),
            ],
        )

    def _expire_waiting(self, moment: float) -> None:
        overdue: Any = self._redis.zrangebyscore(keys.START_DEADLINES, 0, moment, 0, _PER_PASS)
        for job_id in overdue:
            try:
                self._jobs.expire(self._jobs.read(job_id.decode()))  # read may have done it already
            except (JobNotFound, JobGone):
                self._redis.zrem(keys.START_DEADLINES, job_id)

    def _sweep(self, queues: list[str]) -> None:
        """Look at some more entries of the indexes: jobs expire by themselves, their places in indexes do not.

        At more of them where many have gone, so that the indexes do not grow however many jobs come.
        """
        ends_at = time.monotonic() + _SWEEP_SECONDS
        while self._sweep_some(queues) and time.monotonic() < ends_at:
            pass

    def _sweep_some(self, queues: list[str]) -> bool:
        """Look at some entries of an index; whether so many have gone that it is worth going on."""
        index, cursor = self._swept
        if cursor == 0:
            index = next(self._indexes, "")
            if not index:
                self._indexes = iter(
                    [keys.JOBS, *map(keys.jobs_of, self._models.names())]
                    + [keys.registry("canceled", queue) for queue in queues]
                )
                return False
        answer: Any = self._redis.zscan(index, cursor, count=_PER_PASS)
        cursor, entries = answer
        self._swept = (index, int(cursor))
        ids = [job_id for job_id, _ in entries]
        gone: int = self._scripts.sweep(keys=[index], args=[RQ_KEY_PREFIX, self._settings.tombstone_ttl, *ids])
        return gone * 10 >= len(ids) > 0 or cursor == 0


def _verdict(job: Job, worker: str, waited: bool) -> Outcome:
    if "cancel_requested_at" in job.fields:  # it died before it could stop the job; nobody wants it run again
        return Stopped("killed", now().rfc3339)
    if waited:
        return Released()
    return Failed("lost", f"worker {worker} died while it ran the job", after=0)
