"""Between a warm worker and its work-horse: the fork, the pipe, and a page of memory that both see.

The pipe carries what must be answered: "run jobs", "that is done". The page says which job runs now. The
horse writes it for each job and wakes nobody; the worker looks when it wants to know.
"""

from __future__ import annotations

import json
import mmap
import os
import struct
import sys
import time
import zlib
from collections.abc import Callable
from multiprocessing import Pipe
from multiprocessing.connection import Connection, wait
from typing import Any, NamedTuple

from service.process import die_with_parent

HEADER = struct.Struct("<II")  # length and checksum of the record
COUNTER = struct.Struct("<Q")
RUNNING, PAUSED, COUNTED, COUNT, RECORD = 0, 1, 2, 8, 16  # offsets in the page
MOST = 4096 - RECORD - HEADER.size

Message = dict[str, Any]


class Running(NamedTuple):
    """The job that a horse has begun last. `deadline` is time.monotonic(), the same clock in all processes."""

    execution_id: str
    job_id: str
    origin: str
    timeout: float
    deadline: float
    killable: bool = True  # it runs; else it has ended, and only its outcome is being written


class Page:
    """A page of memory that the horse writes and the worker reads; one flag goes the other way."""

    def __init__(self) -> None:
        self._memory = mmap.mmap(-1, 4096)

    def begin(self, running: Running) -> None:
        """The horse begins a job, or has more time for it."""
        self._memory[RUNNING] = self._memory[COUNTED] = 0
        # Far longer ids than anybody uses are cut: such a job can be timed out, but not be found by its id.
        text = f"{running.execution_id}\n{running.timeout}\n{running.deadline}\n{running.job_id[:2000]}\n"
        record = (text + running.origin[:1000]).encode()[:MOST]
        whole = HEADER.pack(len(record), zlib.crc32(record)) + record
        self._memory[RECORD : RECORD + len(whole)] = whole
        self._memory[RUNNING] = 1

    def end(self) -> None:
        """The job has ended; its outcome is not in Redis yet."""
        self._memory[RUNNING] = 0

    def read(self) -> Running | None:
        """The job that was begun last. None if there was none, or the horse died while it wrote its name."""
        for _ in range(100):
            killable = self._memory[RUNNING] == 1
            length, checksum = HEADER.unpack_from(self._memory, RECORD)
            record = self._memory[RECORD + HEADER.size : RECORD + HEADER.size + min(length, MOST)]
            # No lock that a dying horse could keep: a record that is read while it is written has a wrong sum.
            if length and zlib.crc32(record) == checksum and killable == (self._memory[RUNNING] == 1):
                execution_id, timeout, deadline, job_id, origin = record.decode(errors="replace").split("\n", 4)
                return Running(execution_id, job_id, origin, float(timeout), float(deadline), killable)
            if not length:
                return None
        return None

    @property
    def blank(self) -> bool:
        """Whether no job of this round was begun."""
        return int(HEADER.unpack_from(self._memory, RECORD)[0]) == 0

    def clear(self) -> None:
        """A new round of jobs begins: none of it has been begun or counted, and nobody asks for a pause."""
        self._memory[:] = bytes(len(self._memory))

    def count(self) -> None:
        """One more job of this round is done."""
        COUNTER.pack_into(self._memory, COUNT, self.done + 1)
        self._memory[COUNTED] = 1

    @property
    def done(self) -> int:
        """How many jobs of this round are done."""
        return int(COUNTER.unpack_from(self._memory, COUNT)[0])

    @property
    def counted(self) -> bool:
        """Whether the job that was begun last is counted as done."""
        return self._memory[COUNTED] == 1

    def pause(self) -> None:
        """The worker asks the horse to take no further job."""
        self._memory[PAUSED] = 1

    @property
    def paused(self) -> bool:
        return self._memory[PAUSED] == 1


class Horse:
    """A work-horse as its worker sees it. It leads a process group of its own and dies with its worker."""

    def __init__(self, main: Callable[[Connection, Page], None]) -> None:
        self.page = Page()
        self._pipe, theirs = Pipe()
        worker = os.getpid()
        self.pid = os.fork()
        if self.pid == 0:
            _live(worker, self._pipe, lambda: main(theirs, self.page))
        # Both sides do it: whoever kills the group may come before the horse has run at all.
        os.setpgid(self.pid, self.pid)
        theirs.close()
        # The pipe alone does not tell of the horse's end: processes that a job has left behind hold it open.
        self._life = os.pidfd_open(self.pid) if sys.platform == "linux" else None

    def send(self, message: Message) -> None:
        self._pipe.send_bytes(json.dumps(message).encode())

    def receive(self, seconds: float) -> Message | None:
        """The horse's answer, None if it has none after so many seconds. Raises EOFError once it has died."""
        ready = wait([self._pipe] if self._life is None else [self._pipe, self._life], max(seconds, 0))
        if self._pipe in ready:
            try:
                answer: Message = json.loads(self._pipe.recv_bytes())
                return answer
            except OSError as error:
                raise EOFError from error
        if ready:
            raise EOFError
        return None

    def has_stopped(self, within: float = 0.2) -> bool:
        """Whether the horse, to which SIGSTOP was sent, stands still or has died."""
        deadline = time.monotonic() + within
        options = os.WSTOPPED | os.WEXITED | os.WNOWAIT | os.WNOHANG
        while time.monotonic() < deadline:
            try:
                if os.waitid(os.P_PID, self.pid, options):
                    return True
            except ChildProcessError:
                return True
            time.sleep(0.0005)
        return False

    def close(self) -> None:
        """Let go of a horse that has died."""
        self._pipe.close()
        if self._life is not None:
            os.close(self._life)


def _live(worker: int, its_end: Connection, main: Callable[[], None]) -> None:
    """The whole life of the child: it never returns into the code that has forked it."""
    code = 1
    try:
        os.setpgrp()
        die_with_parent()
        its_end.close()
        if os.getppid() == worker:
            main()
        code = 0
    finally:
        os._exit(code)
