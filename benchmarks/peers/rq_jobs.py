"""RQ, and every worker that runs its jobs."""

from __future__ import annotations

import os

import redis
from embedding import embedder, sentence
from rq import Queue
from rq.job import Job

connection = redis.Redis.from_url(os.environ["BENCH_REDIS"])
queue = Queue(connection=connection)


def add(x: int, y: int) -> int:
    return x + y


def embed(text: str) -> list[float]:
    return embedder().one(text)


def submit(task: str, number: int) -> Job:
    return queue.enqueue(add, number, 1) if task == "add" else queue.enqueue(embed, sentence(number))


def submit_many(task: str, count: int) -> None:
    function, argument = (add, lambda number: (number, 1)) if task == "add" else (embed, lambda n: (sentence(n),))
    queue.enqueue_many([Queue.prepare_data(function, argument(number)) for number in range(count)])


def stored(job: Job) -> bool:
    return bool(connection.exists(f"rq:results:{job.id}"))


def wait(job: Job) -> None:
    """XREAD that blocks: RQ's own way."""
    assert job.latest_result(timeout=60) is not None
