"""Lists of jobs: summaries, page by page, within a bound on the bytes of a page."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from typing import Any

import redis

from service.store import keys
from service.store.events import dumps
from service.store.job import SUMMARY, Job, UnreadableJob, latest_result, split
from service.store.jobs import JobGone, JobNotFound, Jobs
from service.store.scripts import Scripts

LARGE = frozenset({"input", "output"})
"""What a list shows on demand only."""
MOST_BYTES = 4 * 2**20
"""Of the inputs, outputs and summaries of one page; with more it is shorter."""
_LOOKED_AT = 2_000
_AT_ONCE = 100

Cursor = tuple[float, str]


@dataclass
class Listed:
    """A job of a list. `texts` are its input and output, JSON, as far as they were asked for and found room."""

    job: Job
    texts: dict[str, str | None] = field(default_factory=dict)
    late: bool = False
    """Whether it should have started by now."""

    def fits(self, room: int) -> bool:
        """Whether it is whole, and of no more bytes than this."""
        return None not in self.texts.values() and self._size <= room

    def cut(self, room: int) -> int:
        """Leave out what is larger than this; the bytes of the rest."""
        for name, text in self.texts.items():
            if text is not None and len(text) > room:
                self.texts[name] = None
        return self._size

    @property
    def _size(self) -> int:
        return sum(len(text or "") for text in self.texts.values()) + sum(map(len, self.job.fields.values()))

    @property
    def left_out(self) -> list[str]:
        """What found no room."""
        return [name for name, text in self.texts.items() if text is None]


class Listings:
    """All jobs, newest first."""

    def __init__(self, connection: redis.Redis, jobs: Jobs) -> None:
        self._redis = connection
        self._jobs = jobs
        self._scripts = Scripts(connection)

    def newest(
        self,
        model: str | None,
        statuses: Collection[str],
        limit: int,
        before: Cursor | None,
        include: Collection[str] = (),
    ) -> tuple[list[Listed], Cursor | None]:
        """Up to `limit` jobs, newest first, that were submitted before the cursor `before`, and the next cursor.

        Looks at 2,000 jobs at the most, and ends before MOST_BYTES, so a page may hold fewer than `limit` and still
        have a next cursor. A job for which a whole page is too small comes without what is `left_out`.
        """
        index = keys.jobs_of(model) if model else keys.JOBS
        found: list[Listed] = []
        room, looked = MOST_BYTES, 0
        while looked < _LOOKED_AT:
            page = self._page(index, before, _AT_ONCE if statuses else limit)
            if not page:
                return found, None
            for (job_id, time), row in zip(page, self._read(page, statuses, include, room), strict=False):
                looked += 1
                each = self._now(index, job_id, row)
                if each is not None and (not statuses or each.job.status in statuses):
                    if found and not each.fits(room):
                        return found, before
                    room -= each.cut(room)
                    found.append(each)
                before = time, job_id
                if len(found) == limit:
                    return found, before if self._page(index, before, 1) else None
        return found, before

    def _now(self, index: str, job_id: str, row: Listed | None) -> Listed | None:
        """A job that was read; one that has waited too long is ended: nobody else may, while no worker runs."""
        if row is None:
            self._redis.zrem(index, job_id)
        elif row.late:
            try:
                row.job = self._jobs.read(job_id)
            except (JobNotFound, JobGone):
                return None
        return row

    def _read(
        self, page: list[tuple[str, float]], statuses: Collection[str], include: Collection[str], room: int
    ) -> Iterator[Listed | None]:
        """Jobs as they are now, None for those that are gone; fewer if there is no room. One round trip."""
        job_ids = [job_id for job_id, _ in page]
        rows = self._scripts.summaries(
            keys=[key for each in job_ids for key in (keys.job(each), keys.results(each))],
            args=[
                room,
                *("1" if name in include else "" for name in ("input", "output")),
                f" {' '.join(statuses)} " if statuses else "",
                *SUMMARY,
                "",
                *job_ids,
            ],
        )
        # One after the other: a payload is larger when it is unpacked.
        return (_listed(job_id, row, include) for job_id, row in zip(job_ids, rows, strict=False))

    def _page(self, index: str, before: Cursor | None, limit: int) -> list[tuple[str, float]]:
        # Jobs of one moment are told apart by their id: the index sorts equal times by it.
        top = before[0] if before else "+inf"
        skipped = 0
        while True:
            page: Any = self._redis.zrevrangebyscore(index, top, "-inf", skipped, limit, withscores=True)
            rows = [(member.decode(errors="replace"), time) for member, time in page]
            left = [row for row in rows if before is None or (row[1], row[0]) < before]
            if left or len(rows) < limit:
                return left
            skipped += limit


def _listed(job_id: str, row: list[Any], include: Collection[str]) -> Listed | None:
    flat, payload, result, position, late = row
    if not flat:
        return None
    _, fields = split(flat)
    job = Job(job_id, fields, payload or b"", latest_result(result or []), position)
    listed = Listed(job, late=bool(late))
    if "input" in include:
        listed.texts["input"] = None if payload is None else _input(job)
    if "output" in include:
        listed.texts["output"] = None if result is None else dumps(job.output)
    job.result.pop("return_value", None)
    return listed


def _input(job: Job) -> str:
    try:
        return dumps(job.call()[1])
    except UnreadableJob:
        return "null"
