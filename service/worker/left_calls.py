"""Functions that change what is seldom changed of a process: their calls are counted (calls.py)."""

from __future__ import annotations

import _locale
import locale
import os
import resource
import signal
import sys
import threading
from types import ModuleType

from service.worker.calls import Calls

_CHANGE: tuple[tuple[ModuleType, tuple[str, ...]], ...] = (
    (os, ("umask", "nice", "setpriority", "sched_setaffinity")),
    (resource, ("setrlimit", "prlimit")),
    (sys.modules["_signal"], ("signal", "pthread_sigmask")),  # which those of `signal` call
    (signal, ("alarm", "setitimer", "set_wakeup_fd")),
    (locale, ("_setlocale",)),
    (_locale, ("setlocale",)),
    (threading, ("stack_size",)),
)


calls = Calls()
"""Of these."""


def count_calls() -> None:
    """Count them from now on: to be called before a model is imported, which may keep a reference to one."""
    for module, names in _CHANGE:
        for name in names:
            if (function := getattr(module, name, None)) is not None:  # other systems have not all of them
                setattr(module, name, calls.of(function))
