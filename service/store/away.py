"""Redis that is away for a while: how that shows, and how to wait for it."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

import redis

T = TypeVar("T")

REDIS_IS_AWAY = (
    redis.exceptions.ConnectionError,  # BusyLoadingError, while it reads its file, is one
    redis.exceptions.TimeoutError,
    redis.exceptions.ReadOnlyError,
    redis.exceptions.OutOfMemoryError,
)
"""What a command raises while Redis cannot do its work; it will pass."""


def is_away(error: Exception) -> bool:
    """Whether Redis is not there, or has no memory for a write, and what was asked must be asked again."""
    if isinstance(error, REDIS_IS_AWAY):
        return True
    return isinstance(error, redis.exceptions.ResponseError) and "OOM" in str(error)  # as a script tells it


def persistently(
    step: Callable[[], T], give_up: Callable[[Exception], None] | None = None, pause: float = 0.1, longest: float = 1.0
) -> T:
    """Call `step` until Redis answers it, and return its value. `give_up` may raise between two tries."""
    while True:
        try:
            return step()
        except Exception as error:
            if not is_away(error):
                raise
            if give_up is not None:
                give_up(error)
            time.sleep(pause)
            pause = min(pause * 2, longest)
