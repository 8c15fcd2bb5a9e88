"""What a job changes in its process, put back before the next one: the work-horse is kept from job to job.

Compared first, so that it costs microseconds where nothing was changed. What import and setup have changed stays.
Context variables (decimal, numpy.errstate, a model's own) need none of this: a job runs in a copy of the context.
"""

from __future__ import annotations

import _locale
import _tracemalloc
import asyncio
import faulthandler
import gc
import logging
import multiprocessing
import os
import resource
import signal
import socket
import sys
import tempfile
import threading
import time
import warnings
from collections.abc import Callable
from copy import copy
from typing import Any, Protocol

from service.worker.calls import Seldom
from service.worker.left_calls import calls
from service.worker.left_hooks import Hooks, Torch
from service.worker.left_loggers import Loggers
from service.worker.left_seeds import Seeds

_SIGNALS = tuple(sorted(set(signal.valid_signals()) & set(range(1, 32))))  # without the real-time ones
_TIMERS = (signal.ITIMER_VIRTUAL, signal.ITIMER_PROF)
_LIMITS = (resource.RLIMIT_AS, resource.RLIMIT_CPU, resource.RLIMIT_NOFILE)
# Beneath the functions of `signal`, which make an enum of each number: they are called for each job.
_raw: Any = sys.modules["_signal"]
# As they are before their calls are counted: to ask, or to put back, is no change.
_sigmask, _setlocale, _set_wakeup_fd = _raw.pthread_sigmask, _locale.setlocale, _raw.set_wakeup_fd
_set_umask, _set_stack_size, _set_alarm = os.umask, threading.stack_size, signal.alarm
_ENVIRON = os.environ


class _Kept(Protocol):
    """One thing that jobs share: as it is `now`, and as it was `before`."""

    what: str
    before: Any

    def now(self) -> Any: ...
    def remember(self) -> None: ...
    def put_back(self) -> None: ...


class _Value:
    """One that can be read, compared, and set."""

    def __init__(self, what: str, now: Callable[[], Any], write: Callable[[Any], Any]) -> None:
        self.what = what
        self.now = now
        self.before: Any = None
        self._write = write

    def remember(self) -> None:
        self.before = copy(self.now())

    def put_back(self) -> None:
        self._write(copy(self.before))


class _Together:
    """Several: looked at together first, since that is done after each job."""

    def __init__(self, *kept: _Kept) -> None:
        self._kept = kept
        self._looks = [each.now for each in kept]
        self._before: list[Any] = []

    def remember(self) -> None:
        for each in self._kept:
            each.remember()
        self._before = [each.before for each in self._kept]

    def put_back(self) -> dict[str, str]:
        """Make all as it was; returns what could not be, and why."""
        try:
            if [look() for look in self._looks] == self._before:
                return {}
        except Exception:  # noqa: S110 -- a function that a model replaced: which one is found below
            pass
        stays = {}
        for each in self._kept:
            try:
                if each.now() != each.before:
                    each.put_back()
            except Exception as error:  # a hard limit that was lowered, a niceness
                stays[each.what] = f"{each.what}: {error or type(error).__name__}"
        self._before = [each.before for each in self._kept]  # one that a job has imported is known from now on
        return stays


class _EventLoops:
    """The event loop policy, and what it knows of the main thread: after asyncio.run() that has no loop any more."""

    what = "event loop policy"
    before: tuple[Any, Any, bool] = (None, None, False)

    def remember(self) -> None:
        self.before = self.now()
        if self.before[1:] == (None, False) and type(self.before[0]) is asyncio.DefaultEventLoopPolicy:
            self.before = (None, None, False)  # it is made anew when it is asked for

    def put_back(self) -> None:
        policy, loop, was_set = self.before
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # from Python 3.14 on
            asyncio.set_event_loop_policy(policy)
        if was_set:
            asyncio.set_event_loop(loop)
        elif policy is not None:
            policy._local = type(policy._local)()  # as if nothing had been set

    def now(self) -> tuple[Any, Any, bool]:
        policy = getattr(asyncio.events, "_event_loop_policy", None)  # to ask officially is to make one
        of_thread = getattr(policy, "_local", None)
        return policy, getattr(of_thread, "_loop", None), getattr(of_thread, "_set_called", False)


class ProcessState:
    """Remembers how the process was, and puts it back."""

    def __init__(self) -> None:
        self._process = _process()
        self._main_thread = _main_thread()
        self._seldom_changed = _seldom_changed()
        self._handlers = _handlers()
        self._seldom, self._seldom_in_main_thread = Seldom(calls), Seldom(calls)
        self._stays: dict[str, str] = {}
        self._umask = 0
        self._stack_size = 0

    def remember(self) -> None:
        """How it is now is how each job shall find it; to be called in the main thread."""
        self._umask = os.umask(0o077)
        os.umask(self._umask)
        self._stack_size = threading.stack_size()
        for each in (self._process, self._main_thread, self._seldom_changed, self._handlers):
            each.remember()

    def put_back(self, in_main_thread: bool) -> list[str]:
        """Make all as it was, and return what could not be, since it was remembered. Other threads can less."""
        faulthandler.cancel_dump_traceback_later()
        if self._seldom.due():
            _set_umask(self._umask)  # to ask for it is to set it, as with the two that follow
            _set_stack_size(self._stack_size)
            _set_alarm(0)
            self._stays.update(self._seldom_changed.put_back())
            self._seldom.looked()
        if in_main_thread:
            if self._seldom_in_main_thread.due():
                _set_wakeup_fd(-1)  # of a loop that was left: its number may be another file's by now
                self._stays.update(self._handlers.put_back())
                self._seldom_in_main_thread.looked()
            self._stays.update(self._main_thread.put_back())
        self._stays.update(self._process.put_back())
        return list(self._stays.values())


def _handlers() -> _Together:
    """What only the main thread can put back, and is seldom changed."""
    return _Together(
        _Value("signal handlers", lambda: list(map(_raw.getsignal, _SIGNALS)), _set_handlers),
        _Value("signal mask", lambda: _sigmask(signal.SIG_BLOCK, ()), _set_mask),
    )


def _main_thread() -> _Together:
    """What only the main thread can put back."""
    return _Together(
        _Value("tracing", lambda: (sys.gettrace(), sys.getprofile()), _set_tracing),
        _EventLoops(),
    )


def _seldom_changed() -> _Together:
    """What all threads share, and is seldom changed."""
    return _Together(
        _Value("timers", lambda: list(map(_raw.getitimer, _TIMERS)), _stop_timers),
        _Value("limits", lambda: list(map(resource.getrlimit, _LIMITS)), _set_limits),
        _Value("niceness", lambda: os.getpriority(0, 0), lambda niceness: os.setpriority(0, 0, niceness)),
        _Value("processors", _processors, lambda processors: os.sched_setaffinity(0, processors)),
        _Value("locale", lambda: _setlocale(_locale.LC_ALL), lambda name: _setlocale(_locale.LC_ALL, name)),
    )


def _process() -> _Together:
    """What all threads share."""
    return _Together(
        _Value("working directory", _folder, _set_folder),
        _Value("environment", _environment, _set_environment),
        _Value("logging.disable", lambda: logging.root.manager.disable, logging.disable),
        _Value("timeout of sockets", socket.getdefaulttimeout, socket.setdefaulttimeout),
        _Value("warnings", lambda: warnings.filters, _set_warnings),
        _Value("module path", lambda: [sys.path[:], sys.meta_path[:], sys.path_hooks[:]], _set_path),
        _Value("arguments", lambda: sys.argv, lambda arguments: setattr(sys, "argv", arguments)),
        _Value("recursion limit", sys.getrecursionlimit, sys.setrecursionlimit),
        _Value("digits of integers", sys.get_int_max_str_digits, sys.set_int_max_str_digits),
        _Value("switch interval", sys.getswitchinterval, sys.setswitchinterval),
        _Value("garbage collector", _collector, _set_collector),
        _Value("temporary directory", lambda: tempfile.tempdir, lambda path: setattr(tempfile, "tempdir", path)),
        _Value("start method", lambda: multiprocessing.get_start_method(True), _set_start_method),
        _Value("tracing of memory", _tracemalloc.is_tracing, lambda _: _tracemalloc.stop()),
        _Value("faulthandler", faulthandler.is_enabled, lambda _: faulthandler.enable(2, all_threads=False)),
        Hooks(),
        Torch(),
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


def _set_path(before: list[list[Any]]) -> None:
    sys.path, sys.meta_path, sys.path_hooks = [each[:] for each in before]


def _processors() -> Any:
    return os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else None  # Linux


def _collector() -> tuple[bool, int, tuple[int, int, int], list[Any]]:
    return gc.isenabled(), gc.get_debug(), gc.get_threshold(), gc.callbacks[:]


def _set_collector(before: tuple[bool, int, tuple[int, int, int], list[Any]]) -> None:
    (gc.enable if before[0] else gc.disable)()
    gc.set_debug(before[1])
    gc.set_threshold(*before[2])
    gc.callbacks[:] = before[3]


def _set_start_method(method: str | None) -> None:
    multiprocessing.set_start_method(method, force=True)


def _set_limits(limits: list[tuple[int, int]]) -> None:
    for which, limit in zip(_LIMITS, limits, strict=True):
        if resource.getrlimit(which) != limit:
            resource.setrlimit(which, limit)
