"""The recovery loop: returns what dead workers held, queues what is due, expires what waited too long.

One worker at a time holds it. It needs no more care than that: each step is one script that looks at
the job's status, execution and lease together, so a second holder would find nothing left to do.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import redis

from service.settings import Settings
from service.store import keys
from service.store.away import REDIS_IS_AWAY
from service.store.events import dumps
from service.store.executions import Executions, LeaseLost, held
from service.store.foreign import drop_foreign_members, set_foreign_keys_aside
from service.store.job import Job
from service.store.jobs import JobGone, JobNotFound, Jobs
from service.store.models import Models
from service.store.outcomes import Failed, Outcome, Released, Stopped
from service.store.scripts import Scripts, readable

log = logging.getLogger("service.recovery")

_PER_STEP = 200  # jobs in one round trip
_SECONDS = 0.5  # for what is due in one pass: the worker that holds the loop has jobs to look after
_SWEEP_SECONDS, _LONG_SWEEP_SECONDS = 0.02, 0.05
_JUMP = 1.0  # seconds by which Redis's clock and ours, which knows no steps, may come apart between two passes
_LOOK_AT_KEYS = 5.0  # seconds from one look at the types of the keys of all models to the next
_FORGET_INTERVAL = 5.0
_UNPLACED_FOR = 15  # seconds in which one of RQ's own workers may have a queued job in its hands only


class Recovery:
    """One worker's part in the recovery loop; `run` is one pass, to be called about once a second."""

    def __init__(self, connection: redis.Redis, settings: Settings, worker: str) -> None:
        self._redis = connection
        self._settings = settings
        self._worker = worker
        self._jobs = Jobs(connection, settings)
        self._executions = Executions(connection, settings)
        self._models = Models(connection, settings.model_ttl)
        self._scripts = Scripts(connection)
        self._indexes: Iterator[str] = iter(())
        self._swept = ("", 0)
        self._look_at_keys_of_models = -math.inf
        self._forgot_at = -math.inf
        self._trust = _Trust(settings.lease / 2)

    def run(self, redis_away_at: float = -math.inf) -> None:
        """Do what is due, if this worker holds the loop.

        `redis_away_at`: when Redis last did not answer, as time.monotonic().
        """
        holds, moment = self._hold()
        self._trust.look(moment, redis_away_at)
        if not holds:
            return
        self._trust.look_at_server(self._run_id())
        models = self._names_of_models()
        queues = [queue for model in models for queue in keys.queues_of(model)]
        ends_at = time.monotonic() + _SECONDS
        for queue, abandoned, due, too_late in self._look(queues, moment):
            if too_late:
                self._scripts.clamp(keys=[keys.registry("wip", queue)], args=too_late)
            if abandoned and self._trust.may_judge:
                self._take_all_back(queue, abandoned)
            if due:
                self._queue_scheduled(queue, moment, ends_at)
        self._expire_waiting(moment, ends_at)
        self._sweep(queues)
        if moment > self._forgot_at + _FORGET_INTERVAL:
            self._forgot_at = moment
            self._models.forget_old()

    def _names_of_models(self) -> list[str]:
        """Their names. What somebody else has made of keys that many jobs share is set aside."""
        set_foreign_keys_aside(self._redis, models=())  # first: what the models are is in such a key
        models = self._models.names()
        if time.monotonic() >= self._look_at_keys_of_models:  # there are many: not in each pass
            set_foreign_keys_aside(self._redis, models)
            self._look_at_keys_of_models = time.monotonic() + _LOOK_AT_KEYS
        return models

    def release(self) -> None:
        """Let another worker take over at once."""
        if self._redis.get(keys.RECOVERY) == self._worker.encode():
            self._redis.delete(keys.RECOVERY)

    def _hold(self) -> tuple[bool, float]:
        # Less than a lease: when this worker dies, another one holds the loop before its leases have passed.
        ttl = max(2, round(self._settings.lease / 3))
        holds, moment = self._scripts.hold(keys=[keys.RECOVERY], args=[self._worker, ttl])
        return bool(holds), float(moment)

    def _run_id(self) -> str:
        try:
            return str(self._redis.info("server").get("run_id", ""))
        except redis.exceptions.ResponseError:  # an ACL may keep it from us
            return ""

    def _look(self, queues: list[str], moment: float) -> Iterator[tuple[str, Any, Any, Any]]:
        """Of each queue: what is abandoned, what is due, and leases that no worker can have said."""
        latest = moment + self._settings.lease + 5
        with self._redis.pipeline(transaction=False) as pipeline:
            for queue in queues:
                pipeline.zrangebyscore(keys.registry("wip", queue), "-inf", moment, 0, _PER_STEP)
                pipeline.zrangebyscore(keys.registry("scheduled", queue), "-inf", moment, 0, 1)
                pipeline.zrangebyscore(keys.registry("wip", queue), latest, "+inf", 0, _PER_STEP)
                pipeline.zremrangebyscore(keys.registry("finished", queue), 0, moment)
                pipeline.zremrangebyscore(keys.registry("failed", queue), 0, moment)
            answers = iter(list(readable(pipeline.execute(raise_on_error=False))))
        for queue, abandoned, due, too_late, _, _ in zip(queues, *[answers] * 5, strict=True):
            yield queue, abandoned, due, too_late

    def _take_all_back(self, queue: str, members: Iterable[bytes]) -> None:
        wip = keys.registry("wip", queue)
        for member in drop_foreign_members(self._redis, wip, members):
            try:
                self._take_back(queue, member)
            except REDIS_IS_AWAY:
                raise
            except Exception:  # whatever is wrong with one record must not stop the recovery of others
                log.exception("a job of a dead worker cannot be read", extra={"member": member})
                self._redis.zrem(wip, member)

    def _take_back(self, queue: str, member: str) -> None:
        job_id, _, execution_id = member.partition(":")
        try:
            job = self._jobs.read(job_id)
        except (JobNotFound, JobGone):
            job = None
        if job is None or job.status != "started":
            self._redis.zrem(keys.registry("wip", queue), member)
            return
        execution = held(job, execution_id)
        waited = self._executions.waits(execution)
        verdict = _verdict(job, execution.worker, waited, self._executions.clock.rfc3339)
        try:
            status = self._executions.record(execution, verdict, lease_ended=True, begun=not waited)
        except LeaseLost:
            return
        log.warning(
            "a dead worker's job was taken back",
            extra={"job_id": job_id, "worker": execution.worker, "status": status},
        )

    def _queue_scheduled(self, queue: str, moment: float, ends_at: float) -> None:
        scheduled = keys.registry("scheduled", queue)

        def step(job_id: str, pipeline: Any) -> None:
            self._scripts.due(
                keys=[*keys.lifecycle(job_id), scheduled, keys.queue(queue)],
                args=[job_id, queue, self._settings.max_events, dumps({"queue": queue})],
                client=pipeline,
            )

        self._do_due(scheduled, moment, ends_at, step)

    def _expire_waiting(self, moment: float, ends_at: float) -> None:
        self._do_due(keys.START_DEADLINES, moment, ends_at, self._jobs.expire)

    def _do_due(self, key: str, moment: float, ends_at: float, step: Callable[[str, Any], object]) -> None:
        """Do a step for each job whose time in a sorted set has come, as far as there is time in this pass.

        A step takes its job out of the set; one that cannot is passed over until the next pass.
        """
        stuck = 0
        while True:
            members: Any = self._redis.zrangebyscore(key, "-inf", moment, stuck, _PER_STEP)
            job_ids = drop_foreign_members(self._redis, key, members)
            with self._redis.pipeline(transaction=False) as pipeline:
                for job_id in job_ids:
                    step(job_id, pipeline)
                answers = pipeline.execute(raise_on_error=False)
            list(readable(answers))
            stuck += sum(isinstance(answer, Exception) for answer in answers)
            if len(members) < _PER_STEP or time.monotonic() > ends_at:
                return

    def _sweep(self, queues: list[str]) -> None:
        """Look at some more entries of the indexes: jobs expire by themselves, their places in indexes do not.

        At more of them where many have gone, so that the indexes do not grow however many jobs come.
        """
        began = time.monotonic()
        while (share := self._sweep_some(queues)) is not None:
            if time.monotonic() - began > (_LONG_SWEEP_SECONDS if share > 0.1 else _SWEEP_SECONDS):
                return

    def _sweep_some(self, queues: list[str]) -> float | None:
        """Look at some entries of an index; the share of them that have gone, or None after the last index."""
        index, cursor = self._swept
        if cursor == 0:
            index = next(self._indexes, "")
            if not index:
                self._indexes = iter(
                    [keys.JOBS, *map(keys.jobs_of, self._models.names())]
                    + [keys.registry("canceled", queue) for queue in queues]
                )
                return None
        answer: Any = self._redis.zscan(index, cursor, count=_PER_STEP)
        cursor, entries = answer
        self._swept = (index, int(cursor))
        ids = drop_foreign_members(self._redis, index, (member for member, _ in entries))
        gone, *back = self._scripts.sweep(keys=[index], args=[self._settings.tombstone_ttl, _UNPLACED_FOR, *ids])
        if back:
            log.warning(
                "jobs that were in no list are put back", extra={"job_ids": ",".join(each.decode() for each in back)}
            )
        return gone / len(ids) if ids else 0.0


class _Trust:
    """Whether a lease that has passed means that its worker is dead.

    Not when workers could not renew: while Redis was away or has just been started, and when its clock took a step, or
    the machine slept, which looks the same. Whoever lives must first have had the time to renew.
    """

    def __init__(self, patience: float) -> None:
        self._patience = patience
        self._since = -math.inf
        self._seen: tuple[float, float] | None = None
        self._run_id = ""

    def look(self, moment: float, redis_away_at: float) -> None:
        """Redis says that it is this `moment`, in unix time."""
        here = time.monotonic()
        if self._seen is not None and abs((moment - self._seen[0]) - (here - self._seen[1])) > _JUMP:
            log.warning("Redis's clock has taken a step, or this machine slept: leases are judged a little later")
            self._since = here
        self._seen = moment, here
        self._since = max(self._since, redis_away_at)

    def look_at_server(self, run_id: str) -> None:
        """Which server it is; another one after a restart or a failover."""
        if run_id != self._run_id and self._run_id:
            self._since = time.monotonic()
        self._run_id = run_id

    @property
    def may_judge(self) -> bool:
        return time.monotonic() - self._since >= self._patience


def _verdict(job: Job, worker: str, waited: bool, moment: str) -> Outcome:
    if "cancel_requested_at" in job.fields:  # it died before it could stop the job; nobody wants it run again
        return Stopped("killed", moment)
    if waited:
        return Released()
    return Failed("lost", f"worker {worker} died while it ran the job", after=0)
