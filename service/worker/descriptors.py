"""Descriptors 1 and 2 of a work-horse: what C code and child processes write there is told of the job that runs.

Both are pipes, read by a thread here. A pipe does not say who wrote, so what comes is told of the only job that runs;
with several on the event loop, while a model is loaded, and while a thread runs on that an earlier job has left, it
goes to the worker's own output alone, as all does.
"""

from __future__ import annotations

import codecs
import contextlib
import ctypes
import fcntl
import os
import select
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any, Protocol

from service.output import Outlet
from service.worker.children import Newcomers

SOURCES = (("stdout", "info"), ("stderr", "warning"))
"""The name and the level of what is written to descriptors 1 and 2."""

PIPE_SIZE = 2**20  # bytes; where that is not allowed it stays at 64 KiB
_SET_SIZE = 1031  # F_SETPIPE_SZ, fcntl.h of Linux
_ONE_READ = 64 * 1024
_SETTLE = 0.2  # seconds that what has been written may take to be read
_LOOK = 0.0002
_LINE_BUFFERED = 1  # _IOLBF, stdio.h


def prepare(reader: int) -> None:
    """Make the reading end of a new pipe what is needed here."""
    os.set_blocking(reader, False)
    with contextlib.suppress(OSError):
        fcntl.fcntl(reader, _SET_SIZE, PIPE_SIZE)


class Job(Protocol):
    """Whoever is told what is written."""

    def write(self, source: str, text: str, level: str = "info") -> None: ...


class Descriptors:
    """Knows whose the pipes are now; changes them for others when a job has closed or kept them."""

    def __init__(self, readers: Sequence[int], outlets: Sequence[Outlet]) -> None:
        """`readers`: the ends of the pipes that are descriptors 1 and 2. `outlets`: the worker's own output."""
        self._outlets = outlets
        self._lock = threading.Lock()
        self._main_thread = threading.get_ident()
        self._in_main: tuple[Job | None, ...] = ()
        self._on_loop: list[Job | None] = []
        self.shared = False
        """Whether somebody writes here who is no job that runs."""
        self._flush_c = _c_stdout()
        self._children = Newcomers()
        self._take(readers)

    def begins(self, job: Job | None) -> None:
        """A job begins in this thread, or (None) what is no job's."""
        with self._lock:
            if threading.get_ident() == self._main_thread:
                # Replaced, not added: an interruption may have left out the end of the one before.
                self._in_main = (job,)
            else:
                self._on_loop.append(job)
            self._pass_on()

    def ends(self, job: Job | None) -> None:
        """It has ended: what was written until now is its, nothing later is."""
        with self._lock:
            if threading.get_ident() == self._main_thread:
                self._in_main = ()
            elif job in self._on_loop:
                self._on_loop.remove(job)
            self._pass_on()

    def close_in_child(self) -> None:
        """In a forked child, which is one of those that write."""
        self._pair.close()

    def _pass_on(self) -> None:
        only = None
        if len(self._in_main) + len(self._on_loop) == 1 and not self.shared:
            only = self._in_main[0] if self._in_main else self._on_loop[0]
        if only is self._pair.job:
            return
        self._settle()
        # Children that are here before a job write to the pipes that they were given, which are nobody's then.
        if only is not None and self._children.came():
            self._renew()
        self._pair.job = only

    def _settle(self) -> None:
        """Have all read that was written so far."""
        if self._pair.job is not None:
            self._flush_c()
        if not self._poll.poll(0) and not self._pair.busy:
            return
        until, fine = 0.0, True
        while (seen := self._poll.poll(0)) or self._pair.busy:
            fine = fine and all(event == select.POLLIN for _, event in seen)
            until = until or time.monotonic() + _SETTLE
            if time.monotonic() > until or not (fine or self._pair.busy or any(e & select.POLLIN for _, e in seen)):
                self._renew()
                return
            time.sleep(_LOOK)

    def _renew(self) -> None:
        """New pipes: one was closed or put elsewhere, or somebody who was left behind writes on and on."""
        self._pair.job = None
        pipes: list[tuple[int, int]] = []
        try:
            while (taken := os.open(os.devnull, os.O_RDWR)) <= 2:
                pass  # else the new pipes could get the numbers that they are to be put on
            os.close(taken)
            for _ in SOURCES:
                pipes.append(os.pipe())
                prepare(pipes[-1][0])
            self._take([reader for reader, _ in pipes])
        except (OSError, RuntimeError):  # no descriptors or threads are left: these stay as they are
            for end in (end for pipe in pipes for end in pipe):
                os.close(end)
            return
        for number, (_, writer) in enumerate(pipes, start=1):
            os.dup2(writer, number)
            os.close(writer)

    def _take(self, readers: Sequence[int]) -> None:
        poll = select.poll()
        for reader in readers:
            poll.register(reader, select.POLLIN)
        for number in (1, 2):
            poll.register(number, 0)  # says so if it is closed
        self._pair, self._poll = _Pair(readers, self._outlets), poll


class _Pair:
    """Two pipes and the thread that reads them, until nobody can write to them any more."""

    def __init__(self, readers: Sequence[int], outlets: Sequence[Outlet]) -> None:
        self.job: Job | None = None
        """Whose it is what is read now."""
        self.busy = False
        """Whether something that was read is not told yet; set before it is read."""
        self._open = {
            reader: (codecs.getincrementaldecoder("utf-8")("replace"), outlet, *source)
            for reader, outlet, source in zip(readers, outlets, SOURCES, strict=True)
        }
        threading.Thread(target=self._run, name="descriptors 1 and 2", daemon=True).start()

    def close(self) -> None:
        """Let go of the pipes."""
        for reader in list(self._open):
            self._open.pop(reader)
            with contextlib.suppress(OSError):
                os.close(reader)

    def _run(self) -> None:
        poll = select.poll()
        for reader in self._open:
            poll.register(reader, select.POLLIN)
        while self._open:
            for reader, _ in poll.poll():
                self.busy = True
                if not self._read(reader):
                    poll.unregister(reader)
                    self._open.pop(reader)
                    os.close(reader)
                self.busy = False

    def _read(self, reader: int) -> bool:
        """Read once; False if there will be no more."""
        decoder, outlet, source, level = self._open[reader]
        try:
            data = os.read(reader, _ONE_READ)
        except BlockingIOError:
            return True
        except OSError:  # a model has closed it
            return False
        outlet.write(data)
        if self.job is not None:
            with contextlib.suppress(Exception):  # the link is closed: this process ends
                self.job.write(source, decoder.decode(data), level)
        return bool(data)


def _c_stdout() -> Callable[[], Any]:
    """Make C's stdout send each line when it is whole; returns what sends the rest."""
    try:
        library = ctypes.CDLL(None)
        stream = ctypes.c_void_p.in_dll(library, "stdout")
        library.setvbuf(stream, None, _LINE_BUFFERED, ctypes.c_size_t(0))
    except (OSError, ValueError, AttributeError):  # another C library
        return lambda: None
    flush = library.fflush
    flush.argtypes = [ctypes.c_void_p]
    return lambda: flush(stream)
