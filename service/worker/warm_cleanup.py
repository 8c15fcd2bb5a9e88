"""What RQ's maintenance does, with no moment in which two processes do it to the same job."""

# mypy: allow-untyped-calls
# (most of RQ's methods carry no types)

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

from redis.exceptions import RedisError
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
from rq.utils import as_text

from service.process import die_with_parent
from service.store.scripts import source

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
        return [job_id for job_id in map(self.parse_job_id, self.claimed) if self._is_readable(job_id)]

    def _is_readable(self, job_id: str) -> bool:
        # RQ's loop would stop at it, now and each time after.
        try:
            self.job_class.fetch(job_id, connection=self.connection, serializer=self.serializer)
        except NoSuchJobError:
            return True
        except (ValueError, TypeError, KeyError):
            self.bury(job_id, self.get_queue())
            return False
        return True

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
    for kind in kinds:
        registry = kind(queue.name, connection=queue.connection, job_class=queue.job_class, serializer=queue.serializer)
        registry.cleanup(moment, exception_handlers=exception_handlers)
    for limits in RateLimitRegistry.all(queue.connection):
        limits.cleanup()
    worker_registration.clean_worker_registry(queue)
    returned = queue.connection.register_script(source("warm_intermediate"))(
        keys=[queue.intermediate_queue_key, queue.key], args=[queue.job_class.key_for(""), HAND_OVER]
    )
    for job_id in returned:
        log.warning("job %s was taken by a worker that died; it is queued again", as_text(job_id))


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
