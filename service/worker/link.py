"""What a supervisor and its work-horse say to each other: JSON in frames over sockets and pipes.

There are two lanes. The main lane begins with {"webhooks": [secrets, allowed]}, which no environment shows to models,
and then carries units, one after another: {"unit": n, "setup": model}, {"unit": n, "unload": model} or
{"unit": n, "model": model, "jobs": [[number, input, facts], ...]}, where facts are those of service/job.py. For each
unit there is a token in a pipe, which the work-horse takes before it begins; a token that the supervisor takes
back is a unit that never began. The async lane carries {"model", "jobs"} and {"cancel": number}.

From the work-horse: {"models", "broken"} once; {"ready"} or {"failed", "error"} after a setup, {"unloaded"};
about a job {"job": number} with one of "begun", "events" [[type, JSON], ...] (and "meta"), "finished" JSON,
"error" {type, message} (and "traceback", "again", "after"), "interrupted". And {"left": [what, ...], "for_good"}:
what jobs have left in the process that cannot be put back, and whether it has stayed for a while.

SIGUSR1 asks the work-horse to leave the unit whose number is in the pipe of interruptions; a page of memory
(stop_page.py) says so too, to threads of the model.
"""

from __future__ import annotations

import fcntl
import os
import select
import signal
import socket
import struct
import termios
import threading
from array import array
from collections.abc import Iterator
from typing import Any

from service.own_json import dumps_any, loads

INTERRUPT = signal.SIGUSR1

Message = dict[str, Any]

_HEADER = struct.Struct("!I")
_NUMBER = struct.Struct("!Q")
_MOST_AT_ONCE = 4096 // _NUMBER.size  # PIPE_BUF of Linux: so many are written whole, or not at all
_ONE_READ = 256 * 1024
_WHOLE = 16 * 1024  # bytes; a Unix socket takes a message of less than half its buffer whole, or not at all


class LinkClosed(Exception):
    """The other side has ended."""


class Unreadable(LinkClosed):
    """The other side has said what cannot be read: it is no longer of use."""


class Link:
    """One side of a lane's socket. Several threads may send, one receives."""

    def __init__(self, own: socket.socket, longest: int = 2**32) -> None:
        """`longest`: bytes of the longest message that is believed to be one."""
        self._socket = own
        self._longest = longest
        self._received = bytearray()
        self._unsent = bytearray()
        self._sending = threading.Lock()
        self._muted = False
        self._room = select.poll()
        self._room.register(own, select.POLLOUT)

    def fileno(self) -> int:
        """For select."""
        return self._socket.fileno()

    def send(self, *messages: Message) -> None:
        """Send messages, one after the other, however long the other side takes to read them. Raises LinkClosed."""
        data = b"".join(map(_frame, messages))
        try:
            with self._sending:
                if not self._muted:
                    self._send_whole(data)
        except OSError as error:
            if error.errno is None:  # a TimeoutError, say, that a model's handler of a signal has raised
                raise
            raise LinkClosed from None

    def _send_whole(self, data: bytes) -> None:
        # A model's handler of a signal may raise at any moment: never between the halves of a message.
        while len(data) <= _WHOLE:
            try:
                self._socket.send(data, socket.MSG_DONTWAIT)
                return
            except BlockingIOError:
                self._room.poll()
        before = signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
        try:
            self._socket.sendall(data)
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)

    def post(self, *messages: Message) -> None:
        """Send messages without waiting: what the other side does not take yet goes with a later `flush`."""
        for message in messages:
            self._unsent += _frame(message)
        self.flush()

    def flush(self) -> bool:
        """Send on what is left of posted messages; whether all has gone. One that has died says so when it is heard."""
        while self._unsent:
            try:
                sent = self._socket.send(memoryview(self._unsent)[:_ONE_READ], socket.MSG_DONTWAIT)
            except BlockingIOError:
                return False
            except OSError:
                self._unsent.clear()
                return True
            del self._unsent[:sent]
        return True

    def receive(self) -> Message:
        """Wait for the next message. Raises LinkClosed, Unreadable."""
        while (message := self._next()) is None:
            self._read(0)
        return message

    def messages(self) -> Iterator[Message]:
        """All messages that have come, without waiting.

        Raises LinkClosed once there are no more and will be none, Unreadable at what is none.
        """
        while True:
            while (message := self._next()) is not None:
                yield message
            try:
                self._read(socket.MSG_DONTWAIT)
            except BlockingIOError:
                return

    def close(self) -> None:
        self._socket.close()

    def mute(self) -> None:
        """In a forked child: give the link up. Two processes that write to it would make it unreadable."""
        self._sending = threading.Lock()  # the parent's may have been held
        self._muted = True
        self._socket.close()

    def _read(self, flags: int) -> None:
        try:
            data = self._socket.recv(_ONE_READ, flags)
        except BlockingIOError:
            raise
        except OSError:
            data = b""
        if not data:
            raise LinkClosed
        self._received += data

    def _next(self) -> Message | None:
        if len(self._received) < _HEADER.size:
            return None
        end = _HEADER.size + _HEADER.unpack_from(self._received)[0]
        if end > self._longest:
            raise Unreadable
        if len(self._received) < end:
            return None
        try:
            message = loads(bytes(memoryview(self._received)[_HEADER.size : end]).decode())
        except (ValueError, RecursionError):
            raise Unreadable from None
        if not isinstance(message, dict):
            raise Unreadable
        del self._received[:end]
        return message


class Numbers:
    """A pipe of numbers, each read by one reader only. The work-horse has the reading end, the supervisor both."""

    def __init__(self, reader: int, writer: int | None = None) -> None:
        self.reader = reader
        self._writer = writer
        self._poll = select.poll()
        self._poll.register(reader, select.POLLIN)

    @classmethod
    def pipe(cls) -> Numbers:
        """A new one; neither end ever blocks."""
        reader, writer = os.pipe()
        os.set_blocking(reader, False)
        os.set_blocking(writer, False)
        return cls(reader, writer)

    def put(self, *numbers: int) -> None:
        assert self._writer is not None
        for first in range(0, len(numbers), _MOST_AT_ONCE):
            os.write(self._writer, b"".join(map(_NUMBER.pack, numbers[first : first + _MOST_AT_ONCE])))

    def get(self) -> int:
        """Wait for the next number. Raises LinkClosed."""
        while (number := self.take()) is None:
            self._poll.poll()
        return number

    @property
    def count(self) -> int:
        """How many have been put and not been taken."""
        size = array("i", [0])
        fcntl.ioctl(self.reader, termios.FIONREAD, size)
        return size[0] // _NUMBER.size

    def wait(self, seconds: float) -> bool:
        """Whether there is a number, or none will ever be; within so many seconds."""
        return bool(self._poll.poll(seconds * 1000))

    def take(self) -> int | None:
        """The next number; None if there is none now. Raises LinkClosed."""
        try:
            data = os.read(self.reader, _NUMBER.size)
        except BlockingIOError:
            return None
        if not data:
            raise LinkClosed
        if len(data) != _NUMBER.size:  # somebody else has read from it
            raise Unreadable
        number: int = _NUMBER.unpack(data)[0]
        return number

    def close(self) -> None:
        """Let go of it. A second time does nothing: the number may be another file's by then."""
        ends, self.reader, self._writer = (self.reader, self._writer), -1, None
        for end in ends:
            if end is not None and end >= 0:
                os.close(end)


def _frame(message: Message) -> bytes:
    data = dumps_any(message).encode()
    return _HEADER.pack(len(data)) + data
