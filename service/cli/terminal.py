"""What a command tells the terminal, which may have been closed."""

from __future__ import annotations

import os
import signal
import sys
from typing import TextIO

SECOND_ASK = 0.6
"""Seconds between two signals to a worker, which takes two at once for one that was sent twice."""


def have_standard_streams() -> None:
    """Open what is closed of them: the next file would get its number, and what is written there would go into it."""
    for descriptor in range(3):
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # gets the lowest number that is free, which is this one
            os.set_inheritable(descriptor, True)
    for name, mode, descriptor in (("stdin", "r", 0), ("stdout", "w", 1), ("stderr", "w", 2)):
        if getattr(sys, name) is None:  # Python has found it closed
            setattr(sys, name, open(descriptor, mode, closefd=False))  # noqa: SIM115 -- for as long as we live


def say(text: str, to: TextIO | None = None) -> None:
    """Print a line, on standard error unless told otherwise; if nobody can read it any more, go on without."""
    stream = to or sys.stderr
    try:
        print(text, file=stream, flush=True)
    except OSError:  # a closed terminal, or a pipe that nobody reads: from now on it goes nowhere
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, stream.fileno())
        os.close(nowhere)


class Asked:
    """How often this process was asked to end: SIGINT and SIGTERM count once, a closed terminal (SIGHUP) as twice."""

    def __init__(self) -> None:
        """From now on these signals only count."""
        self.times = 0  # a number, not an Event: that may be held by the very code that a signal interrupts
        for signum in (signal.SIGINT, signal.SIGTERM):
            signal.signal(signum, self._count)
        if signal.getsignal(signal.SIGHUP) != signal.SIG_IGN:  # nohup: it is to outlive its terminal
            signal.signal(signal.SIGHUP, self._hang_up)

    def _count(self, *_: object) -> None:
        self.times += 1

    def _hang_up(self, *_: object) -> None:
        self.times += 2  # there is nobody who could ask again
