"""What one watcher sees of a job: a snapshot, every event of its log, then those that follow, each once."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import redis

from service.relay.loop import Relay, Signal, Subscription
from service.store import events
from service.store.clock import now
from service.store.events import BEGINNING, TERMINAL, Event, dumps, order
from service.store.job import Job
from service.store.jobs import Jobs

LIVE_WITHIN = 5.0
HEARTBEAT = 1.0
LOOK_AGAIN = 5.0  # how often a job is looked at for a status that changed without an event


class Closing(Exception):
    """This process ends; the watcher should come back and go on from its cursor."""


class RelayNotLive(Exception):
    """Redis did not confirm the subscription in time."""


class Watch:
    """One watcher of one job; iterate over it. It ends after the job's terminal event."""

    def __init__(self, connection: redis.Redis, jobs: Jobs, relay: Relay, job_id: str, after: str | None) -> None:
        self._redis = connection
        self._jobs = jobs
        self._relay = relay
        self._job_id = job_id
        self._snapshot_first = after is None
        self._cursor = after or BEGINNING
        self._over = False

    def __iter__(self) -> Iterator[Event | None]:
        """Yield events; None at least each second while there is none, so that the watcher can be looked after.

        Without `after` a snapshot of the job comes first: its id is the cursor that what follows goes on
        from. Raises JobNotFound, JobGone, TooManyWaiters, Closing, RelayNotLive, and redis errors.
        """
        with self._relay.watch(self._job_id) as subscription:
            _until_live(subscription)
            job = self._jobs.read(self._job_id)
            if self._snapshot_first:
                yield _snapshot(job)
            yield from self._replay()
            looked_at = time.monotonic()
            while not self._over:
                item = subscription.get(HEARTBEAT)
                if item is Signal.CLOSING:
                    raise Closing
                if item is Signal.READ_LOG:
                    yield from self._replay()
                elif isinstance(item, Event):
                    yield from self._live(item)
                else:
                    yield None
                    if time.monotonic() - looked_at >= LOOK_AGAIN:
                        looked_at = time.monotonic()
                        yield from self._replay()

    def _live(self, event: Event) -> Iterator[Event]:
        if order(event.id) <= order(self._cursor):  # the replay had it already
            return
        self._cursor, self._over = event.id, event.terminal
        yield event

    def _replay(self) -> Iterator[Event]:
        """What the log has after the cursor; and whether that is all there will be."""
        while page := events.read(self._redis, self._job_id, self._cursor):
            for event in page:
                self._cursor = event.id
                yield event
        job = self._jobs.read(self._job_id)
        # A terminal event in the log is not enough: `rq requeue` gives a failed job more of them.
        if job.done and order(job.cursor) <= order(self._cursor):
            self._over = True
            if job.last_event not in TERMINAL:  # ended without an event, by a stock RQ worker or RQ's maintenance
                yield Event(self._cursor, job.id, job.status, dumps(_end(job)), now().rfc3339)


def _end(job: Job) -> dict[str, Any]:
    return {"output": job.output} if job.status == "finished" else {"error": job.error}


def _until_live(subscription: Subscription) -> None:
    signal = subscription.get(LIVE_WITHIN)
    if signal is Signal.CLOSING:
        raise Closing
    if signal is None:
        raise RelayNotLive


def _snapshot(job: Job) -> Event:
    return Event(BEGINNING, job.id, "snapshot", dumps(job.to_json()), now().rfc3339)
