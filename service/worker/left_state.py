"""What a job changes in its process, put back before the next one: the work-horse is kept from job to job.

Compared first, so that it costs microseconds where nothing was changed. What import and setup have changed stays.
Context variables (decimal, numpy.errstate, a model's own) need none of this: a job runs in a copy of the context.
"""

from __future__ import annotations

import asyncio
import gc
import logging
import multiprocessing
import os
import resource
import signal
import socket
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from copy import copy
from typing import Any, Protocol

from service.worker.left_json import Json
from service.worker.left_loggers import Loggers
from service.worker.left_seeds import Seeds

_SIGNALS = tuple(sorted(set(signal.valid_signals()) & set(range(1, 32))))  # without the real-time ones
_TIMERS = (signal.ITIMER_VIRTUAL, signal.ITIMER_PROF)
_LIMITS = (resource.RLIMIT_AS, resource.RLIMIT_CPU, resource.RLIMIT_NOFILE)
# Beneath the functions of `signal`, which make an enum of each number: they are called for each job.
_raw: Any = sys.modules["_signal"]
_ENVIRON = os.environ


class _Kept(Protocol):
    """One thing that jobs share."""

    what: str

    def remember(self) -> None: ...
    def changed(self) -> bool: ...
    def put_back(self) -> None: ...


class _Value:
    """One that can be read, compared, and set."""

    def __init__(self, what: str, read: Callable[[], Any], write: Callable[[Any], Any]) -> None:
        self.what = what
        self._read = read
        self._write = write
        self._before: Any = None

    def remember(self) -> None:
        self._before = copy(self._read())

    def changed(self) -> bool:
        return bool(self._read() != self._before)

    def put_back(self) -> None:
        self._write(copy(self._before))


class _EventLoops:
    """The event loop policy, and what it knows of the main thread: after asyncio.run() that has no loop any more."""

    what = "event loop policy"

    def remember(self) -> None:
        self._before = self._now()
        if self._before[1:] == (None, False) and type(self._before[0]) is asyncio.DefaultEventLoopPolicy:
            self._before = (None, None, False)  # it is made anew when it is asked for

    def changed(self) -> bool:
        return self._now() != self._before

    def put_back(self) -> None:
        policy, loop, was_set = self._before
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # from Python 3.14 on
            asyncio.set_event_loop_policy(policy)
        if was_set:
            asyncio.set_event_loop(loop)
        elif policy is not None:
            policy._local = type(policy._local)()  # as if nothing had been set

    def _now(self) -> tuple[Any, Any, bool]:
        policy = getattr(asyncio.events, "_event_loop_policy", None)  # to ask officially is to make one
        of_thread = getattr(policy, "_local", None)
        return policy, getattr(of_thread, "_loop", None), getattr(of_thread, "_set_called", False)


class ProcessState:
    """Remembers how the process was, and puts it back."""

    def __init__(self) -> None:
        self._process = _process()
        self._main_thread = _main_thread()
        self._stays: dict[str, str] = {}
        self._umask = 0

    def remember(self) -> None:
        """How it is now is how each job shall find it; to be called in the main thread."""
        self._umask = os.umask(0o077)
        os.umask(self._umask)
        for each in (*self._process, *self._main_thread):
            each.remember()

    def put_back(self, in_main_thread: bool) -> list[str]:
        """Make all as it was, and return what could not be, since it was remembered. Other threads can less."""
        os.umask(self._umask)  # to ask for it is to set it, and the alarm too
        signal.alarm(0)
        if in_main_thread:
            self._put_back(self._main_thread)
        self._put_back(self._process)
        return list(self._stays.values())

    def _put_back(self, all_kept: tuple[_Kept, ...]) -> None:
        for each in all_kept:
            try:
                if each.changed():
                    each.put_back()
            except Exception as error:  # a hard limit that was lowered, a niceness, a function that a model replaced
                self._stays[each.what] = f"{each.what}: {error or type(error).__name__}"


def _main_thread() -> tuple[_Kept, ...]:
    """What only the main thread can put back."""
    return (
        _Value("signal handlers", lambda: list(map(_raw.getsignal, _SIGNALS)), _set_handlers),
        _Value("signal mask", lambda: _raw.pthread_sigmask(signal.SIG_BLOCK, ()), _set_mask),
        _Value("tracing", lambda: (sys.gettrace(), sys.getprofile()), _set_tracing),
        _EventLoops(),
    )


def _process() -> tuple[_Kept, ...]:
    """What all threads share."""
    return (
        _Value("timers", lambda: list(map(_raw.getitimer, _TIMERS)), _stop_timers),
        _Value("working directory", _folder, _set_folder),
        _Value("environment", _environment, _set_environment),
        _Value("logging.disable", lambda: logging.root.manager.disable, logging.disable),
        _Value("timeout of sockets", socket.getdefaulttimeout, socket.setdefaulttimeout),
        _Value("warnings", lambda: warnings.filters, _set_warnings),
        _Value("module path", lambda: sys.path, lambda path: setattr(sys, "path", path)),
        _Value("arguments", lambda: sys.argv, lambda arguments: setattr(sys, "argv", arguments)),
        _Value("recursion limit", sys.getrecursionlimit, sys.setrecursionlimit),
        _Value("switch interval", sys.getswitchinterval, sys.setswitchinterval),
        _Value("garbage collector", lambda: (gc.isenabled(), gc.get_threshold()), _set_collector),
        _Value("temporary directory", lambda: tempfile.tempdir, lambda path: setattr(tempfile, "tempdir", path)),
        _Value("start method", lambda: multiprocessing.get_start_method(True), _set_start_method),
        _Value("limits", lambda: list(map(resource.getrlimit, _LIMITS)), _set_limits),
        _Value("niceness", lambda: os.getpriority(0, 0), lambda niceness: os.setpriority(0, 0, niceness)),
        Json(),
        Loggers(),
        Seeds(),
    )


def _set_handlers(handlers: list[Any]) -> None:
    for signum, handler in zip(_SIGNALS, handlers, strict=True):
        if _raw.getsignal(signum) is not handler:
            signal.signal(signum, handler)


def _set_mask(signals: set[int]) -> None:
    signal.pthread_sigmask(signal.SIG_SETMASK, signals)


def _set_tracing(before: tuple[Any, Any]) -> None:
    sys.settrace(before[0])
    sys.setprofile(before[1])


def _stop_timers(_: Any) -> None:
    for timer in _TIMERS:
        signal.setitimer(timer, 0)


def _folder() -> str | None:
    try:
        return os.getcwd()
    except OSError:  # it was removed
        return None


def _set_folder(folder: str | None) -> None:
    try:
        os.chdir(folder or "/")
    except OSError:  # that one was removed too: any that exists is better
        os.chdir("/")


def _environment() -> Any:
    # As it is kept, in bytes: 20 times quicker.
    return _ENVIRON._data if os.environ is _ENVIRON else None  # type: ignore[attr-defined]


def _set_environment(before: dict[Any, Any]) -> None:
    os.environ = _ENVIRON  # noqa: B003 -- a job may have put another object there; this one also tells C code
    wanted = {os.fsdecode(name): os.fsdecode(value) for name, value in before.items()}
    for name in set(os.environ) - set(wanted):
        del os.environ[name]
    os.environ.update(wanted)
    time.tzset()  # TZ may be among them


def _set_warnings(filters: list[Any]) -> None:
    warnings.resetwarnings()  # says to those who have cached their verdict that there are others
    warnings.filters[:] = filters  # type: ignore[index]


def _set_collector(before: tuple[bool, tuple[int, int, int]]) -> None:
    (gc.enable if before[0] else gc.disable)()
    gc.set_threshold(*before[1])


def _set_start_method(method: str | None) -> None:
    multiprocessing.set_start_method(method, force=True)


def _set_limits(limits: list[tuple[int, int]]) -> None:
    for which, limit in zip(_LIMITS, limits, strict=True):
        if resource.getrlimit(which) != limit:
            resource.setrlimit(which, limit)
