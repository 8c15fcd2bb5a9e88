"""What RQ's maintenance does, with no moment in which two processes do it to the same job."""

# mypy: allow-untyped-calls
# (most of RQ's methods carry no types)

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import partial
from typing import Any

from redis.exceptions import RedisError, ResponseError
from rq import worker_registration
from rq.exceptions import NoSuchJobError
from rq.queue import Queue
from rq.rate_limit import RateLimitRegistry
from rq.registry import (
    DeferredJobRegistry,
    FailedJobRegistry,
    FinishedJobRegistry,
    ReadyJobRegistry,
    StartedJobRegistry,
)
from rq.scheduler import RQScheduler

from service.process import die_with_parent
from service.store.away import is_away
from service.store.scripts import source
from service.worker.warm_limits import within_limits

CLAIM = 300  # seconds until a job that a cleaner claimed, and died over, is found abandoned again
CLAIMED_AT_ONCE = 100
HAND_OVER = 60  # seconds between taking a job and starting it, after which RQ too takes its worker for dead

log = logging.getLogger("rq.worker")


class ClaimedJobs(StartedJobRegistry):
    """RQ's registry of started jobs; each abandoned one is handled by the process that has claimed it."""

    claimed: list[Any]
    bury: Callable[..., None]

    def get_expired_job_ids(self, timestamp: float | None = None) -> list[str]:
        # By Redis's clock, whatever RQ asks for: the leases are of other hosts.
        self.claimed = self.connection.register_script(source("warm_claim"))(
            keys=[self.key], args=[CLAIM, CLAIMED_AT_ONCE]
        )
        return [job_id for job_id in map(self._readable, self.claimed) if job_id]

    def _readable(self, member: Any) -> str | None:
        # RQ's loop would stop at one that is not, now and each time after.
        try:
            job_id = self.parse_job_id(member)
        except ValueError:
            log.warning("%s: %r is no job; it is dropped", self.key, member)
            return None
        try:
            job = self.job_class.fetch(job_id, connection=self.connection, serializer=self.serializer)
        except NoSuchJobError:
            return job_id
        except (ValueError, TypeError, KeyError, OverflowError, ResponseError):
            self.bury(job_id, self.get_queue())
            return None
        if within_limits(job):
            return job_id
        self.bury(job_id, self.get_queue())
        return None

    def cleanup(self, timestamp: float | None = None, exception_handlers: list[Any] | None = None) -> None:
        while True:
            # Of all leases that ended before this RQ removes the entries: those too that were not claimed and judged.
            super().cleanup(0.0, exception_handlers)
            if not self.claimed:
                return
            self.connection.zrem(self.key, *self.claimed)


def clean_queue(queue: Queue, exception_handlers: list[Any], bury: Callable[..., None]) -> None:
    """Sweep the registries of a queue, its workers and its intermediate list; `bury` what cannot be read."""
    ClaimedJobs.bury = staticmethod(bury)
    moment = queue.connection.time()[0]  # what other hosts have written is not compared with this one's clock
    kinds = (FinishedJobRegistry, ClaimedJobs, FailedJobRegistry, DeferredJobRegistry, ReadyJobRegistry)
    registries = [
        kind(queue.name, connection=queue.connection, job_class=queue.job_class, serializer=queue.serializer)
        for kind in kinds
    ]
    steps: list[Callable[[], object]] = [
        *(partial(each.cleanup, moment, exception_handlers=exception_handlers) for each in registries),
        lambda: _clean_rate_limits(queue),
        lambda: worker_registration.clean_worker_registry(queue),
        lambda: _give_back_untouched(queue),
    ]
    for step in steps:
        try:
            step()
        except Exception as error:  # what one step cannot read keeps no other from its work
            if is_away(error):
                raise
            log.exception("cleaning queue %s failed", queue.name)


def _clean_rate_limits(queue: Queue) -> None:
    for limits in RateLimitRegistry.all(queue.connection):
        limits.cleanup()


def _give_back_untouched(queue: Queue) -> None:
    returned = queue.connection.register_script(source("warm_intermediate"))(
        keys=[queue.intermediate_queue_key, queue.key], args=[queue.job_class.key_for(""), HAND_OVER]
    )
    for job_id in returned:
        log.warning("job %s was taken by a worker that died; it is queued again", job_id.decode(errors="replace"))


class MortalScheduler(RQScheduler):
    """RQ's scheduler, which releases its locks and ends when its worker is gone."""

    def work(self) -> None:
        die_with_parent(15)  # SIGTERM, which it handles
        super().work()


def keep_alive(scheduler: RQScheduler | None) -> None:
    """Start the scheduler if it died, or if nobody has its locks any more."""
    process = scheduler._process if scheduler else None
    if scheduler is None or (process is not None and process.is_alive()):
        return
    try:
        scheduler.acquire_locks(auto_start=True)
    except RedisError:
        log.warning("the scheduler's lock can't be asked for now")
