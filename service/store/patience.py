"""How long Redis is waited for: one limit for all that a request has to do with it, and none waits in vain twice.

redis-py limits each step (a connection, a send, each read, each try), and the steps add up. Here a thread that
answers a request says how long it has; else each command has its own time.
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import redis
from redis.backoff import ExponentialWithJitterBackoff
from redis.retry import Retry

T = TypeVar("T")

BRIEF = 0.25
"""Seconds for which a Redis is waited for that was waited for in vain just now."""
PROBE_INTERVAL = 1.0
"""Seconds after which it is waited for fully once more: it may only be slow."""


class _Thread(threading.local):
    left: float | None = None
    """Seconds for which this thread may still wait for Redis; None: each command has its own time."""
    until: float | None = None
    """When the command that is under way must be over, as time.monotonic()."""


_thread = _Thread()


def begin(seconds: float) -> None:
    """All that this thread has to do with Redis until `end` may take so long; only waiting for Redis counts."""
    _thread.left = seconds


def end() -> None:
    """This thread has no limit of its own any more."""
    _thread.left = None


@contextmanager
def within(seconds: float) -> Iterator[None]:
    """Between `begin` and `end`."""
    begin(seconds)
    try:
        yield
    finally:
        end()


def renew(seconds: float) -> None:
    """A step of a long work is done, so Redis answers: what follows may take so long. For threads with a limit."""
    if _thread.left is not None:
        _thread.left = max(_thread.left, seconds)


@contextmanager
def waiting(seconds: float) -> Iterator[float]:
    """Count what is waited for meanwhile; yields for how long that may be, `seconds` in a thread without a limit."""
    left, began = _thread.left, time.monotonic()
    try:
        yield seconds if left is None else left
    finally:
        if left is not None:
            _thread.left = left - (time.monotonic() - began)


def time_left() -> float | None:
    """Seconds that are left to the command under way; None without one. Raises TimeoutError if there are none."""
    until = _thread.until
    if until is None:
        return None
    left = until - time.monotonic()
    if left <= 0:
        raise redis.exceptions.TimeoutError("Redis has not answered in time")
    return None if left == math.inf else left


def limit(sock: Any, timeout: float | None) -> None:
    """Give a socket its `timeout`, or what is left if that is less. Raises TimeoutError if nothing is left."""
    left = time_left()
    if left is None or (timeout is not None and left > timeout):
        left = timeout
    if left is None or sock is None:
        return
    # Only if it is far off: settimeout asks the system, and gives way to other threads.
    if not left * 0.9 <= (sock.gettimeout() or 0) <= left * 1.1:
        sock.settimeout(left)


class Patience(Retry):
    """How long and how often the commands of a pool's connections, which share it, are tried.

    Once a command was waited for in vain, others fail at once, but for one at a time that tries whether Redis is back:
    so a Redis that hangs holds no more threads than met it first.
    """

    def __init__(self, seconds: float, tries: int) -> None:
        """`seconds` is infinite where the sockets' own timeouts are all the limit there is."""
        super().__init__(ExponentialWithJitterBackoff(base=0.02, cap=0.5), tries)
        self.seconds = seconds
        self._silent = False
        self._probing = threading.Lock()
        self._wait_fully_at = 0.0

    def __deepcopy__(self, memo: dict[int, Any]) -> Patience:
        return self  # redis-py copies it for each connection, whose own may be changed

    def call_with_retry(
        self,
        do: Callable[[], T],
        fail: Callable[..., Any],
        is_retryable: Callable[[Exception], bool] | None = None,
        with_failure_count: bool = False,
    ) -> T:
        """`do` it, again if it fails and there is time. Raises what it raises, and TimeoutError."""
        if _thread.until is not None:  # a part of a command, which is tried again as a whole
            return self._try(0, do, fail, is_retryable, with_failure_count)
        if not self._silent:
            return self._within(self.seconds, do, fail, is_retryable, with_failure_count)
        if not self._probing.acquire(blocking=False):
            raise redis.exceptions.TimeoutError("Redis did not answer a moment ago")
        try:
            most = self.seconds if time.monotonic() >= self._wait_fully_at else BRIEF
            return self._within(most, do, fail, is_retryable, with_failure_count)
        finally:
            self._probing.release()

    def _within(self, most: float, do: Callable[[], T], *how: Any) -> T:
        thread, began = _thread, time.monotonic()
        left = thread.left
        most = most if left is None or left > most else left
        if most <= 0:
            raise redis.exceptions.TimeoutError("Redis has not answered in time")
        thread.until = began + most
        try:
            value = self._try(self._retries, do, *how)
        except redis.exceptions.TimeoutError:
            self._went_silent(time.monotonic() - began)
            raise
        finally:
            thread.until = None
            if left is not None:
                thread.left = left - (time.monotonic() - began)
        if self._silent:
            self._silent = False
        return value

    def _try(
        self,
        tries: int,
        do: Callable[[], T],
        fail: Callable[..., Any],
        is_retryable: Callable[[Exception], bool] | None,
        with_failure_count: bool,
    ) -> T:
        failures = 0
        while True:
            try:
                return do()
            except self._supported_errors as error:
                if is_retryable and not is_retryable(error):
                    raise
                failures += 1
                fail(error, failures) if with_failure_count else fail(error)
                pause = self._backoff.compute(failures)
                if failures > tries or not _lasts(pause):
                    raise
            time.sleep(pause)

    def _went_silent(self, waited: float) -> None:
        if waited >= BRIEF and self.seconds != math.inf:  # else its thread had no time left
            self._silent, self._wait_fully_at = True, time.monotonic() + PROBE_INTERVAL


def _lasts(pause: float) -> bool:
    return _thread.until is None or _thread.until > time.monotonic() + pause
