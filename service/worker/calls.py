"""Counts the calls of functions that change something, so that what they change need not be read after each job."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable
from functools import wraps
from typing import Any

NOW_AND_THEN = 0.5
"""Seconds after which is looked whatever was called: C code may change it by itself."""


class Calls:
    """How many there have been, in all threads."""

    def __init__(self) -> None:
        self.number = 0
        self.counted = False
        """Whether they are counted at all."""
        self._numbers = itertools.count(1)  # of C: two threads never get the same

    def note(self) -> None:
        """There has been one."""
        self.number = next(self._numbers)

    def of(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """The function, whose calls are counted from now on; when they are over, so that none is overlooked."""
        self.counted = True

        @wraps(function)
        def call(*arguments: Any, **options: Any) -> Any:
            try:
                return function(*arguments, **options)
            finally:
                self.note()

        return call


class Seldom:
    """Whether it is time to look at what some calls change."""

    def __init__(self, calls: Calls) -> None:
        self._calls = calls
        self._asked = self._seen = -1
        self._look_at = 0.0

    def due(self) -> bool:
        """Whether there were some since all was as it should be, or it is long ago."""
        self._asked = self._calls.number
        return self._asked != self._seen or time.monotonic() >= self._look_at or not self._calls.counted

    def looked(self) -> None:
        """All was as it should be when that was asked, or is now."""
        self._seen, self._look_at = self._asked, time.monotonic() + NOW_AND_THEN
