"""What may block is done in a few threads; those who wait for it are told when Redis hangs."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, TypeVar

T = TypeVar("T")

THREADS = 4
HANGS_AFTER = 5.0  # seconds in which no thread comes back, although some are asked; then Redis is taken to hang
ASLEEP = 2.0  # seconds between two looks after which it was this process that did not run


class NotLive(Exception):
    """Redis does not answer, or is not listened to."""


class Readers:
    """The threads. Its methods are called on the relay's loop."""

    def __init__(self) -> None:
        self._threads = ThreadPoolExecutor(THREADS, "relay-read")
        self._waiting: dict[asyncio.Future[Any], Future[Any]] = {}
        self._moved = 0.0
        self._looked = 0.0

    def call(self, step: Callable[..., T], *arguments: Any) -> asyncio.Future[T]:
        """Do something in a thread. What it raises is raised here; NotLive if no thread comes back."""
        loop = asyncio.get_running_loop()
        future: asyncio.Future[T] = loop.create_future()
        if not self._waiting:
            self._moved = time.monotonic()
        job = self._waiting[future] = self._threads.submit(step, *arguments)

        def done(job: Future[T]) -> None:
            with contextlib.suppress(RuntimeError):  # the loop has ended
                loop.call_soon_threadsafe(self._done, future, job)

        job.add_done_callback(done)
        future.add_done_callback(self._forget)
        return future

    def look(self, now: float) -> None:
        """To be called each second: find out that Redis hangs, and tell those who wait for it."""
        if now - self._looked > ASLEEP:
            self._moved = now
        self._looked = now
        if self._waiting and now - self._moved > HANGS_AFTER:
            for future in list(self._waiting):
                if not future.done():
                    future.set_exception(NotLive("Redis hangs"))

    def _done(self, future: asyncio.Future[T], job: Future[T]) -> None:
        self._moved = time.monotonic()
        if future.done() or job.cancelled():
            return
        if (error := job.exception()) is not None:
            future.set_exception(error)
        else:
            future.set_result(job.result())

    def _forget(self, future: asyncio.Future[Any]) -> None:
        # Nobody waits for it any more; if it has not begun it need not.
        self._waiting.pop(future).cancel()
