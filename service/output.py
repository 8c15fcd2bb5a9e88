"""A process's own output, which nobody has to read: what does not go at once is dropped and counted."""

from __future__ import annotations

import os
import select
import stat
from collections.abc import Callable
from functools import partial

_AT_ONCE = 4096  # bytes, PIPE_BUF: a pipe that has room takes so many whole


class Outlet:
    """Writes to a descriptor without ever waiting, and without an error, whatever has become of its reader.

    Several threads may write. There is no lock, which a forked child would inherit.
    """

    def __init__(self, fileno: int) -> None:
        self.isatty = os.isatty(fileno)
        self._send = _way_to(fileno)
        self._dropped = 0
        self.hide: Callable[[str], str] | None = None
        """What puts a mask in place of what nobody may read."""

    def write(self, data: bytes) -> None:
        """Write whole lines, or drop them; the next that go are preceded by one that says how many were dropped."""
        if (hide := self.hide) is not None:
            data = hide(data.decode(errors="surrogateescape")).encode(errors="surrogateescape")
        if dropped := self._dropped:
            if not self._sent(b"\n[%d lines were not written here: nobody read them]\n" % dropped):
                self._dropped += data.count(b"\n") or 1
                return
            self._dropped -= dropped
        if not self._sent(data):
            self._dropped += data.count(b"\n") or 1

    def write_text(self, text: str) -> None:
        """Write text, as UTF-8; what has no form in it is escaped."""
        self.write(text.encode(errors="backslashreplace"))

    def turn_to(self, fileno: int) -> None:
        """In a forked child: write to this descriptor, as other processes do."""
        self._send, self._dropped = partial(os.write, fileno), 0

    def _sent(self, data: bytes) -> bool:
        rest = memoryview(data)
        try:
            while rest:
                rest = rest[self._send(rest[:_AT_ONCE]) :]
        except BlockingIOError:
            return False
        except OSError as error:  # closed, or its reader is gone: nobody is there to miss it
            if error.errno is None:  # a TimeoutError, say, that a model's handler of a signal has raised
                raise
        return True


class LogStream:
    """For logging.StreamHandler: a stream that is an Outlet."""

    def __init__(self, fileno: int) -> None:
        self._outlet = Outlet(fileno)

    def write(self, text: str) -> None:
        self._outlet.write_text(text)

    def flush(self) -> None:
        """Nothing is held back."""


def _way_to(fileno: int) -> Callable[[memoryview], int]:
    """How to write to a descriptor without waiting. Raises BlockingIOError when that cannot be done now."""
    try:
        kind = os.fstat(fileno).st_mode
    except OSError:
        return partial(os.write, fileno)  # closed: each write is an error
    if stat.S_ISREG(kind):
        return partial(os.write, fileno)  # a file never waits for a reader
    try:
        # Opened anew: O_NONBLOCK on the one that we were given would hold for all that share it, a shell too.
        return partial(os.write, os.open(f"/proc/self/fd/{fileno}", os.O_WRONLY | os.O_NONBLOCK | os.O_NOCTTY))
    except OSError:  # a socket, as systemd gives its services, or another system
        return _when_ready(fileno)


def _when_ready(fileno: int) -> Callable[[memoryview], int]:
    poll = select.poll()
    poll.register(fileno, select.POLLOUT)

    def send(data: memoryview) -> int:
        if not poll.poll(0):
            raise BlockingIOError
        return os.write(fileno, data)

    return send
