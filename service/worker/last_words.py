"""The pipes that are descriptors 1 and 2 of a work-horse, as its supervisor has them.

The work-horse reads them itself (descriptors.py). The supervisor reads what is left when it has died, such as the
reason that a C library gave, and helps when it cannot read: C code that holds Python's lock and fills the pipe.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import struct
import termios
from functools import lru_cache

from service.output import Outlet
from service.secret_fields import NOTHING_SECRET, Mask
from service.worker.descriptors import PIPE_SIZE, SOURCES, prepare

_GET_SIZE = 1032  # F_GETPIPE_SZ, fcntl.h of Linux
_ONE_READ = 64 * 1024

Line = tuple[str, str, str]
"""Source, level and text."""


class LastWords:
    """Two pipes, from the start of a work-horse to its burial."""

    def __init__(self) -> None:
        pipes = [os.pipe(), os.pipe()]
        self._readers = [reader for reader, _ in pipes]
        self.stdout, self.stderr = (writer for _, writer in pipes)
        self._own = [_duplicate(number) for number in (1, 2)]
        for reader in self._readers:
            prepare(reader)

    @property
    def given(self) -> list[int]:
        """For the work-horse: the ends to read, then this process's own standard output and error."""
        return [*self._readers, *self._own]

    def started(self) -> None:
        """The work-horse has what it needs: let go of its ends."""
        for fileno in (self.stdout, self.stderr, *self._own):
            os.close(fileno)

    def relieve(self) -> None:
        """Read what the work-horse does not: its C code must not wait for ever for room."""
        for place, reader in enumerate(self._readers):
            if _unread(reader) > _capacity(reader) // 2:
                _own_outlet(place + 1).write(_read(reader))

    def rest(self, hide: Mask = NOTHING_SECRET) -> list[Line]:
        """What is left of them when it has died; it goes to our own output, too, without what is to `hide`."""
        lines = []
        for place, ((source, level), reader) in enumerate(zip(SOURCES, self._readers, strict=True)):
            data = _read(reader)
            if not data:
                continue
            text = data.decode(errors="replace")
            _own_outlet(place + 1).write_text(hide(text))
            lines += [(source, level, line) for line in text.splitlines() if line.strip()]
        return lines

    def close(self) -> None:
        for reader in self._readers:
            os.close(reader)


def _read(reader: int) -> bytes:
    """At most what fits into it: children that were left may write on."""
    data = bytearray()
    with contextlib.suppress(BlockingIOError):
        while len(data) < PIPE_SIZE and (more := os.read(reader, _ONE_READ)):
            data += more
    return bytes(data)


def _unread(reader: int) -> int:
    count: int = struct.unpack("i", fcntl.ioctl(reader, termios.FIONREAD, bytes(4)))[0]
    return count


def _capacity(reader: int) -> int:
    try:
        return fcntl.fcntl(reader, _GET_SIZE)
    except OSError:
        return _ONE_READ


def _duplicate(number: int) -> int:
    try:
        return os.dup(number)
    except OSError:  # this process was started without it
        return os.open(os.devnull, os.O_WRONLY)


@lru_cache
def _own_outlet(number: int) -> Outlet:
    return Outlet(number)
