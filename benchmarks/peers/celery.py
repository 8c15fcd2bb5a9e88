"""Celery: prefork, everything else as it comes."""

from __future__ import annotations

import os

import redis
from celery import Celery
from celery.result import AsyncResult
from embedding import embedder, sentence

URL = os.environ["BENCH_REDIS"]
app = Celery("bench", broker=f"{URL}/0", backend=f"{URL}/1")
results = redis.Redis.from_url(f"{URL}/1")


@app.task
def add(x: int, y: int) -> int:
    return x + y


@app.task
def embed(text: str) -> list[float]:
    return embedder().one(text)


def submit(task: str, number: int) -> AsyncResult:
    return add.delay(number, 1) if task == "add" else embed.delay(sentence(number))


def submit_many(task: str, count: int) -> None:
    for number in range(count):
        submit(task, number)


def stored(result: AsyncResult) -> bool:
    return bool(results.exists(f"celery-task-meta-{result.id}"))


def wait(result: AsyncResult) -> None:
    """Told by a subscription to the result's channel."""
    result.get(timeout=60)
