"""The service, as its web process submits and waits."""

from __future__ import annotations

import os
from typing import Any

import redis
from embedding import sentence
from redis.client import Pipeline

from service.settings import Settings
from service.store import keys
from service.store.events import parse_message
from service.store.jobs import Jobs, Submission

AT_ONCE = 500

connection = redis.Redis.from_url(os.environ["BENCH_REDIS"])
settings = Settings()
jobs = Jobs(connection, settings)


class _Unanswered(Pipeline):
    """False: Jobs.submit, which expects the queue's length, sees that there is no answer yet."""

    def __bool__(self) -> bool:
        return False


def in_bulk(submissions: list[Submission]) -> list[str]:
    """The ids of these jobs, in the same order. As Jobs.submit one by one, with fewer round trips."""
    ids: list[str] = []
    with _Unanswered(connection.connection_pool, connection.response_callbacks, False, None) as pipeline:
        bulk = Jobs(pipeline, settings)
        for start in range(0, len(submissions), AT_ONCE):
            ids += [bulk.submit(each).id for each in submissions[start : start + AT_ONCE]]
            pipeline.execute()
    return ids


def submit(task: str, number: int) -> str:
    return jobs.submit(_submission(task, number)).id


def submit_many(task: str, count: int) -> None:
    in_bulk([_submission(task, number) for number in range(count)])


def stored(job_id: str) -> bool:
    return bool(connection.exists(f"rq:results:{job_id}"))


def wait(job_id: str) -> None:
    """Told by the job's events, as whoever waits over HTTP."""
    with connection.pubsub() as events:
        events.subscribe(keys.events(job_id))
        events.get_message(timeout=60)  # from its confirmation on nothing is missed
        while not jobs.read(job_id).done:
            message = events.get_message(timeout=60)
            assert message is not None
            if parse_message(job_id, message["data"]).terminal:
                return


def _submission(task: str, number: int) -> Submission:
    value: dict[str, Any] = {"x": number, "y": 1} if task == "add" else {"text": sentence(number)}
    return Submission(model=task, version="", input=value, timeout=300)
