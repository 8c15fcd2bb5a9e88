"""What operators do to queues and to jobs that have failed: pause, resume, purge, requeue.

HTTP and the command line share it. A step about a job is one atomic script, which may be sent twice; steps about
many jobs are sent in chunks, between which Redis serves others.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Collection, Iterable
from typing import Any

import redis

from service.settings import Settings
from service.store import keys
from service.store.clock import now
from service.store.events import dumps
from service.store.jobs import JobGone, Jobs
from service.store.patience import renew
from service.store.scripts import Scripts

FAILED = frozenset({"failed"})
FAILED_OR_STOPPED = frozenset({"failed", "stopped"})

_PAGE = 10_000  # ids that are read at a time
_CHUNK = 200  # jobs in one round trip
_CHUNK_TIME = 2.0  # seconds for which Redis is waited for with each


class JobNotFailed(Exception):
    """Only a job that has failed or was stopped can be tried again; the argument is its status."""


class Operations:
    """What operators do; queues are given by their names."""

    def __init__(self, connection: redis.Redis, settings: Settings) -> None:
        self._redis: Any = connection
        self._settings = settings
        self._jobs = Jobs(connection, settings)
        self._scripts = Scripts(connection)

    def pause(self, queues: Collection[str]) -> None:
        """Have this service's workers take nothing from these queues: submits wait, what they have taken goes on."""
        self._redis.sadd(keys.PAUSED, *queues)

    def resume(self, queues: Collection[str]) -> None:
        """Have workers take from these queues again, at once."""
        with self._redis.pipeline(transaction=True) as pipeline:
            pipeline.srem(keys.PAUSED, *queues)
            for queue in queues:
                pipeline.publish(keys.WAKE, queue)
            pipeline.execute()

    def purge(self, queues: Iterable[str]) -> int:
        """Cancel all jobs that wait in these queues, or for their next try, and leave those that run; how many.

        Of a queue of more than 10,000 jobs from which workers take meanwhile, as many newer ones go as they take.
        """
        return sum(self._purge(queue) for queue in queues)

    def requeue(self, queues: Iterable[str], statuses: Collection[str] = FAILED) -> int:
        """Queue again all jobs in the failed registries of these queues that have one of these statuses; how many.

        One that fails again meanwhile is not queued a second time.
        """
        request = str(uuid.uuid4())
        return sum(self._requeue_failed(queue, request, statuses) for queue in queues)

    def retry(self, job_id: str, statuses: Collection[str] = FAILED_OR_STOPPED) -> None:
        """Queue one job again that has one of these statuses. Raises JobNotFound, JobGone, JobNotFailed."""
        job = self._jobs.read(job_id)
        answer = self._requeue(job_id, job.queue, job.fields.get("priority"), str(uuid.uuid4()), statuses)
        if answer == b"gone":
            raise JobGone(job_id)
        if answer != b"requeued":
            raise JobNotFailed(answer.decode())

    def _purge(self, queue: str) -> int:
        scheduled, waiting = keys.registry("scheduled", queue), keys.queue(queue)

        def step(ids: list[bytes]) -> tuple[int, int]:
            return sum(self._purge_some(queue, ids)), 0

        # First those of later: one whose time comes meanwhile is then found among those of now.
        later = _through(self._redis.zcard(scheduled), lambda *span: self._redis.zrange(scheduled, *span), step)
        return later + _through(self._redis.llen(waiting), lambda *span: self._redis.lrange(waiting, *span), step)

    def _purge_some(self, queue: str, ids: list[bytes]) -> list[int]:
        moment = now()
        with self._redis.pipeline(transaction=False) as pipeline:
            for each in ids:
                job_id = each.decode()
                self._scripts.purge(
                    keys=[
                        *keys.lifecycle(job_id),
                        keys.queue(queue),
                        keys.registry("scheduled", queue),
                        keys.registry("canceled", queue),
                        keys.START_DEADLINES,
                    ],
                    args=[
                        job_id,
                        moment.unix,
                        moment.rq,
                        moment.rfc3339,
                        self._settings.failure_ttl,
                        self._settings.tombstone_ttl,
                        self._settings.max_events,
                        dumps({"mode": "purged"}),
                    ],
                    client=pipeline,
                )
            answers: list[int] = pipeline.execute()
        return answers

    def _requeue_failed(self, queue: str, request: str, statuses: Collection[str]) -> int:
        failed, priority = keys.registry("failed", queue), keys.PRIORITIES[keys.place(queue)]

        def step(ids: list[bytes]) -> tuple[int, int]:
            with self._redis.pipeline(transaction=False) as pipeline:
                for each in ids:
                    self._requeue(each.decode(), queue, priority, request, statuses, pipeline)
                answers = pipeline.execute()
            done, gone = answers.count(b"requeued"), answers.count(b"gone")
            return done, len(answers) - done - gone

        return _through(self._redis.zcard(failed), lambda *span: self._redis.zrange(failed, *span), step)

    def _requeue(
        self,
        job_id: str,
        queue: str,
        priority: str | None,
        request: str,
        statuses: Collection[str],
        pipeline: Any = None,
    ) -> Any:
        return self._scripts.requeue(
            keys=[
                *keys.lifecycle(job_id),
                keys.queue(queue),
                *(keys.registry(name, queue) for name in ("finished", "failed", "canceled", "scheduled")),
                keys.START_DEADLINES,
            ],
            args=[
                job_id,
                request,
                now().rq,
                keys.WAKE,
                queue,
                self._settings.max_events,
                dumps({"queue": queue, "priority": priority}),
                *sorted(statuses),
            ],
            client=pipeline,
        )


def _through(most: int, read: Callable[[int, int], list[bytes]], step: Callable[[list[bytes]], tuple[int, int]]) -> int:
    """Go through the first `most` ids of a list, a chunk in a `step`; how many were done.

    `read` gives the ids from one place to another. A step says how many it has done and so taken out of the list,
    and how many it has left where they were.
    """
    done = left = looked = 0
    while looked < most:
        ids = read(left, left + min(_PAGE, most - looked) - 1)
        if not ids:
            break
        looked += len(ids)
        for first in range(0, len(ids), _CHUNK):
            did, stayed = step(ids[first : first + _CHUNK])
            renew(_CHUNK_TIME)
            done, left = done + did, left + stayed
    return done
