"""Huey, its worker waiting with BRPOP."""

from __future__ import annotations

import os
from typing import Any

from huey import RedisHuey

queue = RedisHuey("bench", url=os.environ["BENCH_REDIS"], blocking=True, results=True, immediate=False)


@queue.task()
def add(x: int, y: int) -> int:
    return x + y


def submit(task: str, number: int) -> Any:
    return add(number, 1)


def submit_many(task: str, count: int) -> None:
    for number in range(count):
        submit(task, number)


def stored(result: Any) -> bool:
    return bool(queue.storage.has_data_for_key(result.id))


def wait(result: Any) -> None:
    """It looks after 0.1 s, then less and less often."""
    result.get(blocking=True, timeout=60)
