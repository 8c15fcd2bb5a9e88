"""A long poll: hold an answer until the job is done. Woken by the job's events, not by polling Redis."""

from __future__ import annotations

import time

from service.relay.loop import Relay, Signal, TooManyWaiters
from service.relay.watch import LOOK_AGAIN
from service.store.events import Event
from service.store.job import Job
from service.store.jobs import Jobs


def wait(jobs: Jobs, relay: Relay, job_id: str, seconds: float) -> Job:
    """The job as soon as it is done, or as it is after `seconds`; at once if too many wait already.

    Raises JobNotFound, JobGone, and redis errors.
    """
    deadline = time.monotonic() + seconds
    try:
        subscription = relay.watch(job_id)
    except TooManyWaiters:
        return jobs.read(job_id)
    with subscription:
        while True:
            # The first signal says that the subscription is live: what ends from then on is told.
            item = subscription.get(min(LOOK_AGAIN, max(0.0, deadline - time.monotonic())))
            if isinstance(item, Event) and not item.terminal and time.monotonic() < deadline:
                continue
            job = jobs.read(job_id)
            if job.done or item is Signal.CLOSING or time.monotonic() >= deadline:
                return job
