"""Functions that change what is seldom changed of a process: their calls are counted, so that all of that need not be
read after each job. What C code changes by itself is found now and then.
"""

from __future__ import annotations

import _locale
import locale
import os
import resource
import signal
import sys
import threading
import time
from collections.abc import Callable
from functools import wraps
from types import ModuleType
from typing import Any

NOW_AND_THEN = 0.5
"""Seconds after which is looked whatever was called."""

_CHANGE: tuple[tuple[ModuleType, tuple[str, ...]], ...] = (
    (os, ("umask", "nice", "setpriority", "sched_setaffinity")),
    (resource, ("setrlimit", "prlimit")),
    (sys.modules["_signal"], ("signal", "pthread_sigmask")),  # which those of `signal` call
    (signal, ("alarm", "setitimer", "set_wakeup_fd")),
    (locale, ("_setlocale",)),
    (_locale, ("setlocale",)),
    (threading, ("stack_size",)),
)


class _Calls:
    """How many there have been."""

    number = 0
    counted = False


_calls = _Calls()


def count_calls() -> None:
    """Count them from now on: to be called before a model is imported, which may keep a reference to one."""
    _calls.counted = True
    for module, names in _CHANGE:
        for name in names:
            if (function := getattr(module, name, None)) is not None:  # other systems have not all of them
                setattr(module, name, _counted(function))


def _counted(function: Callable[..., Any]) -> Callable[..., Any]:
    @wraps(function)
    def call(*arguments: Any, **options: Any) -> Any:
        _calls.number += 1
        return function(*arguments, **options)

    return call


class Seldom:
    """Whether it is time to look."""

    def __init__(self) -> None:
        self._seen = -1
        self._look_at = 0.0

    def due(self) -> bool:
        return _calls.number != self._seen or time.monotonic() >= self._look_at or not _calls.counted

    def looked(self) -> None:
        """All is as it was."""
        self._seen, self._look_at = _calls.number, time.monotonic() + NOW_AND_THEN
