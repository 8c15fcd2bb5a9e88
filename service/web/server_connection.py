"""A client's connection, which nobody waits for: what has come of its requests, what has not gone of its answers."""

from __future__ import annotations

import contextlib
import fcntl
import socket
import struct
import termios
import threading
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from service.web.server_requests import RequestReader

READ = 64 * 1024
"""Bytes that are read at a time."""
SHORT = 64 * 1024
"""Bytes of an answer that are sent in one piece; of one that is made piece by piece, those that are made ahead."""
LINGER, LONGEST_LINGER = 2.0, 30.0
"""Seconds for which a client may send nothing, and may send, after its last answer: closed at once, with bytes that
nobody has read, it might never get it. RFC 9112, section 9.6."""


@dataclass(frozen=True)
class Limits:
    """What clients may do. Durations are seconds, sizes are bytes."""

    head: float
    body: float
    body_rate: float
    body_bytes: int
    send: float
    keepalive: float


class Answer:
    """What gunicorn's response is still to be given."""

    __slots__ = ("_close", "_pieces", "_response", "over")

    def __init__(self, response: Any, body: Any) -> None:
        self._response = response
        self._pieces: Iterator[bytes] = iter(body)
        self._close = getattr(body, "close", None)
        self.over = False

    def go_on(self, conn: Connection) -> None:
        """Make so many pieces that there is something to send, or all."""
        for piece in self._pieces:
            self._response.write(piece)
            if conn.unsent >= SHORT:
                return
        self._response.close()
        self.over = True
        conn.keep = not self._response.should_close()
        self.close()

    def close(self) -> None:
        """There will be no more pieces."""
        if self._close is not None:
            close, self._close = self._close, None
            close()


class Connection:
    """To gunicorn's response, and whoever asks for `gunicorn.socket`, it is the client's socket."""

    __slots__ = (
        *(
            "_in_kernel",
            "_out",
            "answer",
            "body_began",
            "client",
            "counted",
            "deadline",
            "ended",
            "failed",
            "head_began",
            "is_armed",
        ),
        *("keep", "lingers", "lock", "request", "requests", "server", "sock", "unsent"),
    )

    def __init__(self, sock: socket.socket, client: Any, server: Any, requests: RequestReader, now: float) -> None:
        sock.setblocking(False)
        self.sock: socket.socket | None = sock
        self.client = client
        self.server = server
        self.requests = requests
        self.request: Any = None  # one that is whole and not answered
        self.answer: Answer | None = None
        self.failed: BaseException | None = None  # why the app could not answer
        self.keep = True
        self.ended = False  # the client sends no more
        self.lingers = 0.0  # until when at the latest
        self.unsent = 0
        self._in_kernel = 0  # bytes that it has taken, and the client had not when this waiting began
        self._out: deque[bytes | memoryview] = deque()
        self.lock = threading.Lock()  # held to let it wait, and to take it away from waiting
        self.is_armed = False
        self.counted = 0
        self.deadline = 0.0
        self.head_began = now
        self.body_began = 0.0

    # --- what comes -------------------------------------------------------------------------------

    def receive(self) -> bool:
        """Take what has come; False if nothing has. Raises OSError if the connection is gone."""
        assert self.sock is not None
        try:
            data = self.sock.recv(READ)
        except BlockingIOError:
            return False
        if data:
            self.requests.feed(data)
        else:
            self.ended = True
        return True

    def discard(self) -> None:
        """Take what comes after the last answer, and forget it."""
        assert self.sock is not None
        try:
            self.ended = not self.sock.recv(READ)
        except BlockingIOError:
            return

    # --- what goes --------------------------------------------------------------------------------

    def sendall(self, data: bytes) -> None:
        """Have it sent, with what else is to be sent at the moment."""
        if data:
            self._out.append(data)
            self.unsent += len(data)

    def send(self, data: bytes) -> int:
        """Have it sent, all of it."""
        self.sendall(data)
        return len(data)

    def flush(self) -> bool:
        """Send what the kernel takes at once; whether that was all. Raises OSError if the connection is gone."""
        assert self.sock is not None
        out = self._out
        if len(out) > 1 and self.unsent <= SHORT:
            # In one piece: each send gives way to the other threads, and wakes the client.
            joined = b"".join(out)
            out.clear()
            out.append(joined)
        while out:
            try:
                sent = self.sock.send(out[0])
            except BlockingIOError:
                return False
            self.unsent -= sent
            if sent == len(out[0]):
                out.popleft()
            else:
                out[0] = memoryview(out[0])[sent:]
        return True

    def say_continue(self) -> None:
        """Tell a client that waits for it, once, to go on with its body. RFC 9110, section 10.1.1."""
        request = self.requests.request
        if request is not None and request._expected_100_continue:
            request._expected_100_continue = False
            self.sendall(b"HTTP/1.1 100 Continue\r\n\r\n")
            self.flush()

    def hand_over(self) -> socket.socket:
        """The socket, for somebody else to go on with, who finds out by itself if the client has gone."""
        assert self.sock is not None
        with contextlib.suppress(OSError):
            if not self.flush():  # what comes next would stand in the middle of what is not sent
                self.sock.shutdown(socket.SHUT_RDWR)
        sock, self.sock = self.sock, None
        return sock

    # --- how long it may wait ---------------------------------------------------------------------

    @property
    def is_idle(self) -> bool:
        """Whether nothing is begun on it, so that it can be closed without loss."""
        return not self.unsent and not self.requests.begun

    @property
    def pending(self) -> int:
        """Bytes that it keeps while it waits."""
        return self.unsent + len(self.requests)

    def next_one(self) -> None:
        """The answer is given; the next request may come."""
        self.request = self.answer = None
        self.head_began = self.body_began = 0.0

    def wait_from(self, now: float, limits: Limits) -> None:
        """Set the deadline of its waiting, which begins."""
        if self.lingers or self.unsent:
            self._in_kernel = self._unread()
        if self.lingers:
            self.deadline = min(now + LINGER, self.lingers)
        elif self.unsent:
            self.deadline = now + limits.send
        elif self.requests.request is not None:
            self.body_began = self.body_began or now
            self.deadline = self.body_began + limits.body + len(self.requests) / limits.body_rate
        elif self.head_began or self.requests.begun:
            self.head_began = self.head_began or now
            self.deadline = self.head_began + limits.head
        else:
            self.deadline = now + limits.keepalive

    def reads_on(self) -> bool:
        """Whether the client has read since this waiting began: the kernel tells only when it has room for much."""
        return self._unread() < self._in_kernel

    def _unread(self) -> int:
        assert self.sock is not None
        count: int = struct.unpack("i", fcntl.ioctl(self.sock, termios.TIOCOUTQ, bytes(4)))[0]  # SIOCOUTQ, tcp(7)
        return count

    def linger(self, now: float) -> None:
        """All is said: let the client read it. Raises OSError if the connection is gone."""
        assert self.sock is not None
        self.sock.shutdown(socket.SHUT_WR)
        self.lingers = now + LONGEST_LINGER
        self.requests.forget()

    def close(self) -> None:
        """End it at once."""
        if self.answer is not None:
            self.answer.close()
        self.request = self.answer = None  # each knows this connection: a circle, with all of an answer in it
        self._out.clear()
        if self.sock is not None:
            self.sock.close()
