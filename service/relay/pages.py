"""What a watcher reads: a snapshot of the job, what its log has after a cursor, or word that some of it is gone."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import redis

from service.store.events import BEGINNING, LARGEST_INLINE_OUTPUT, Event, dumps, order, outputs, told
from service.store.job import Job, urls
from service.store.jobs import Jobs

LENGTH = 200  # events


@dataclass(frozen=True)
class Page:
    """Events in order, the cursor to go on from, whether the log has more already, and whether that is the end."""

    events: list[Event]
    cursor: str
    more: bool
    over: bool


class Pages:
    """Reads them; every method is one or a few round trips, and may be called in any thread."""

    def __init__(self, connection: redis.Redis, jobs: Jobs) -> None:
        self._redis = connection
        self._jobs = jobs

    def first(self, job_id: str) -> Page:
        """A snapshot: the job as it is; its id is the cursor to go on from. Raises JobNotFound, JobGone."""
        job = self._jobs.read(job_id)
        if job.untold:
            self._jobs.tell(job)
            job = self._jobs.read(job_id)
        return Page([self._snapshot(job)], job.cursor, more=False, over=job.done)

    def after(self, job_id: str, cursor: str, length: int = LENGTH) -> Page:
        """The next events after a cursor; a `gap` and a snapshot if some of them are gone from the log.

        Raises JobNotFound, JobGone.
        """
        followed = self._jobs.follow(job_id, cursor, length)
        if followed.job.untold:
            self._jobs.tell(self._jobs.read(job_id))
            followed = self._jobs.follow(job_id, cursor, length)
        job, events = followed.job, followed.events
        if _is_lost(cursor, job.cursor, followed.first):
            job = self._jobs.read(job_id)
            first = followed.first.id if followed.first else None
            gap = told(cursor, job_id, "gap", {"after": cursor, "first": first, "last": job.cursor})
            return Page([gap, self._snapshot(job)], job.cursor, more=False, over=job.done)
        last = events[-1].id if events else cursor
        more = order(last) < order(job.cursor)
        return Page(events, last, more, over=job.done and not more)

    def _snapshot(self, job: Job) -> Event:
        data: dict[str, Any] = job.to_json(output=not job.has_large_output)
        # Of a job that is over, `output` has them all.
        data["outputs"] = []
        if job.status == "started":
            data["outputs"] = outputs(self._redis, job.id, job.cursor, LARGEST_INLINE_OUTPUT)
        left_out = _leave_out_what_is_large(data)
        if data["outputs"] is None:
            left_out.append("outputs")
        if job.has_large_output or "output" in left_out:
            data["result_url"] = urls(job.id)["result"]
            left_out = ["output", *(name for name in left_out if name != "output")]
        return told(job.cursor, job.id, "snapshot", {**data, "left_out": left_out} if left_out else data)


def _leave_out_what_is_large(data: dict[str, Any]) -> list[str]:
    """Put null for each member that is over 64 KiB of JSON, and name those."""
    if len(dumps(data)) <= LARGEST_INLINE_OUTPUT:  # as nearly all are
        return []
    large = [name for name, value in data.items() if len(dumps(value)) > LARGEST_INLINE_OUTPUT]
    data.update(dict.fromkeys(large))
    return large


def _is_lost(cursor: str, last: str, first: Event | None) -> bool:
    """Whether events after the cursor are missing from the log, which goes from `first` to `last`."""
    if order(cursor) > order(last):  # Redis was restored from an older state
        return True
    if first is None:
        return False
    if cursor == BEGINNING:
        return first.readable and first.type != "queued"  # with which every log begins
    return order(cursor) < first.order
