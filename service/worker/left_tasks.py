"""What jobs have left on the event loop: a timer is cancelled; a task that does not heed that it is cancelled stays."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable
from typing import Any
from weakref import WeakKeyDictionary

_PATIENCE = 0.5
"""Seconds in which a task that was cancelled may end in its own way."""


class LeftTasks:
    """Tasks that were cancelled with their job."""

    def __init__(self, is_a_models: Callable[[Callable[..., Any]], bool]) -> None:
        """`is_a_models`: whether a function is one of a model file."""
        self._is_a_models = is_a_models
        self._until: WeakKeyDictionary[asyncio.Task[Any], float] = WeakKeyDictionary()

    def add(self, tasks: Iterable[asyncio.Task[Any]]) -> None:
        """Their job is over."""
        self._until.update(dict.fromkeys(tasks, time.monotonic() + _PATIENCE))

    def cancel_timers(self, loop: asyncio.AbstractEventLoop) -> None:
        """Those of a model, in the loop's thread, when no job runs there. What waits within a task goes on."""
        for timer in list(getattr(loop, "_scheduled", ())):
            if self._is_a_models(timer._callback):
                timer.cancel()

    def look(self) -> list[str]:
        """Name those that run on."""
        if not self._until:
            return []
        now = time.monotonic()
        return [
            f"task {task.get_name()}" for task, until in list(self._until.items()) if not task.done() and now > until
        ]
