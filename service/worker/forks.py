"""Forked children of a work-horse: they are the model's, speak for no job, and never come back into our code.

A fork copies locks as other threads held them, the link to the supervisor and, on the event loop, the other jobs.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable

from service.tracebacks import last_line, traceback_of
from service.worker.link import INTERRUPT

_getpid = os.getpid  # a model may patch it


class _Lineage:
    """Where this process stands."""

    forks = 0
    """How many forks lie between the work-horse and it."""
    pid = os.getpid()
    """Its own."""


lineage = _Lineage()


def silence_children(*each: Callable[[], None]) -> None:
    """Have every child that is forked from now on count as one, and then do each of these."""

    def in_child() -> None:
        lineage.forks += 1
        lineage.pid = _getpid()
        signal.signal(INTERRUPT, signal.SIG_DFL)
        for do in each:
            do()

    os.register_at_fork(after_in_child=in_child)


def leave_if_forked(forks: int, error: BaseException | None = None) -> None:
    """End this process if it was forked since it counted so many `forks`; `error`: what the model raised in it.

    C code that forks does not count it, but has another process id.
    """
    if lineage.forks != forks or _getpid() != lineage.pid:
        end_child(error)


class parent_alone:
    """Nobody but the process that has begun the block gets out of it: for one that does not count its forks."""

    def __enter__(self) -> None:
        self._pid = _getpid()

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if _getpid() != self._pid:
            end_child(error)


def end_child(error: BaseException | None = None) -> None:
    """End this process, which is a forked one; `error`: what the model raised in it."""
    code: object = 1
    try:
        if isinstance(error, SystemExit):
            code = error.code or 0
            words = "" if isinstance(code, int) else str(code)
        elif error is not None:
            words = traceback_of(error) or last_line(error)
        else:
            words = "a forked child returned from the model: it was ended. It should call os._exit itself."
        if words:
            sys.stderr.write(words.rstrip("\n") + "\n")
        sys.stdout.flush()
        sys.stderr.flush()
    finally:
        os._exit(code if isinstance(code, int) else 1)
