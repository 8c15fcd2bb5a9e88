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
        lineage.pid = os.getpid()
        signal.signal(INTERRUPT, signal.SIG_DFL)
        for do in each:
            do()

    os.register_at_fork(after_in_child=in_child)


def leave_if_forked(forks: int, error: BaseException | None = None) -> None:
    """End this process if it was forked since it counted so many `forks`; `error`: what the model raised in it.

    C code that forks does not count it, but has another process id.
    """
    if lineage.forks == forks and _getpid() == lineage.pid:
        return
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
