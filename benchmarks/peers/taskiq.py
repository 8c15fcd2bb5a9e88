"""Taskiq: its broker on a list, its results in Redis; the task async, as its documentation has it."""

from __future__ import annotations

import asyncio
import os

import redis
from taskiq import AsyncTaskiqTask
from taskiq_redis import ListQueueBroker, RedisAsyncResultBackend

URL = os.environ["BENCH_REDIS"]
broker = ListQueueBroker(f"{URL}/0").with_result_backend(RedisAsyncResultBackend(f"{URL}/1"))
results = redis.Redis.from_url(f"{URL}/1")
loop = asyncio.Runner()


@broker.task
async def add(x: int, y: int) -> int:
    return x + y


def submit(task: str, number: int) -> AsyncTaskiqTask[int]:
    return loop.run(add.kiq(number, 1))


def submit_many(task: str, count: int) -> None:
    async def all_of_them() -> None:
        for number in range(count):
            await add.kiq(number, 1)

    loop.run(all_of_them())


def stored(task: AsyncTaskiqTask[int]) -> bool:
    return bool(results.exists(task.task_id))


def wait(task: AsyncTaskiqTask[int]) -> None:
    """It looks every 0.2 s."""
    loop.run(task.wait_result(timeout=60))
