"""What a job starts speaks for that job: threads and pools carry the context of the code that gave them their work.

Python carries context variables into tasks and `asyncio.to_thread`, but not into threads. A thread that outlives its
job keeps the job's context, and so never speaks for the next one.
"""

from __future__ import annotations

import _thread
import sys
import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextvars import Context, copy_context
from functools import wraps
from multiprocessing.pool import ThreadPool
from typing import Any

from service.worker.calls import Calls
from service.worker.forks import leave_if_forked, lineage

_Function = Callable[..., Any]
_contexts: dict[int, Context] = {}
"""What each thread runs in now, by its ident: a pool's has one after another."""


thread_starts = Calls()
"""By Python code, of `threading` and of `_thread`."""


def context_of(thread: threading.Thread) -> Context | None:
    """The context of the work that a thread was handed; None of one that was not."""
    return _contexts.get(thread.ident or 0)


def carry_contexts() -> None:
    """From now on, in this process, work that is handed to a thread runs in a copy of its giver's context."""
    threading.Thread.start = _started(thread_starts.of(threading.Thread.start))  # type: ignore[method-assign]
    for name in ("start_new_thread", "start_new"):  # threading has its own reference to it
        setattr(_thread, name, _giving(thread_starts.of(getattr(_thread, name)), 0, "function"))
    ThreadPoolExecutor.submit = _giving(ThreadPoolExecutor.submit, 1, "fn")  # type: ignore[method-assign]
    Future.add_done_callback = _giving(Future.add_done_callback, 1, "fn")  # type: ignore[method-assign]
    for name in ("apply_async", "_map_async", "imap", "imap_unordered"):  # all others of a pool call one of these
        setattr(ThreadPool, name, _giving(getattr(ThreadPool, name), 1, "func"))


def _started(start: _Function) -> _Function:
    @wraps(start)
    def start_in_context(thread: threading.Thread, *arguments: Any, **options: Any) -> None:
        context, run = copy_context(), thread.run
        thread.started_in = sys._getframe(1).f_code.co_filename  # type: ignore[attr-defined]

        def run_in_context() -> None:
            thread.__dict__.pop("run")  # else thread and function would keep each other in memory
            _run(context, run)

        thread.run = run_in_context  # type: ignore[method-assign]
        try:
            start(thread, *arguments, **options)
        except BaseException:  # it has been started before, or there can be no more threads
            thread.__dict__.pop("run", None)
            raise

    return start_in_context


def _giving(method: _Function, place: int, keyword: str) -> _Function:
    """The method with the function that it takes, at a place or by a keyword, made to run in the caller's context."""

    @wraps(method)
    def give(*arguments: Any, **options: Any) -> Any:
        if callable(options.get(keyword)):
            options[keyword] = _Carried(options[keyword])
        elif len(arguments) > place and callable(arguments[place]):
            arguments = (*arguments[:place], _Carried(arguments[place]), *arguments[place + 1 :])
        return method(*arguments, **options)

    return give


def _run(context: Context, function: _Function, *arguments: Any, **options: Any) -> Any:
    forks, ident = lineage.forks, threading.get_ident()
    before = _contexts.get(ident)
    _contexts[ident] = context
    try:
        result = context.run(function, *arguments, **options)
    except BaseException as error:
        leave_if_forked(forks, error)
        raise
    finally:
        if before is None:
            _contexts.pop(ident, None)
        else:
            _contexts[ident] = before
    leave_if_forked(forks)
    return result


class _Carried:
    """A function that runs in the context in which this was made, in several threads at once if need be."""

    def __init__(self, function: _Function) -> None:
        self._function = function
        self._context = copy_context()

    def __call__(self, *arguments: Any, **options: Any) -> Any:
        return _run(self._context.copy(), self._function, *arguments, **options)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._function, name)
