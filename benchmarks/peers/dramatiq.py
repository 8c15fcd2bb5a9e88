"""Dramatiq, with its result backend."""

from __future__ import annotations

import os

import dramatiq
import redis
from dramatiq.brokers.redis import RedisBroker
from dramatiq.results import Results
from dramatiq.results.backends import RedisBackend

URL = os.environ["BENCH_REDIS"]
backend = RedisBackend(url=f"{URL}/1")
broker = RedisBroker(url=f"{URL}/0")
broker.add_middleware(Results(backend=backend, store_results=True))
dramatiq.set_broker(broker)
results = redis.Redis.from_url(f"{URL}/1")


@dramatiq.actor
def add(x: int, y: int) -> int:
    return x + y


def submit(task: str, number: int) -> dramatiq.Message:
    return add.send(number, 1)


def submit_many(task: str, count: int) -> None:
    for number in range(count):
        submit(task, number)


def stored(message: dramatiq.Message) -> bool:
    return bool(results.exists(backend.build_message_key(message)))


def wait(message: dramatiq.Message) -> None:
    """BRPOPLPUSH."""
    message.get_result(block=True, timeout=60_000)
