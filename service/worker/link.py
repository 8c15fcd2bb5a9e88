"""What a supervisor and its work-horse say to each other: JSON objects over a socketpair.

From the supervisor: {"setup": model} and {"run": job id, "model", "input"}.
From the work-horse: {"models", "broken"} once; {"ready"} or {"failed", "error"} after a setup;
{"begun": job id}, then {"events": [[type, JSON], ...], "meta"} while a job runs; then one of {"finished": JSON},
{"error": {type, message}, "traceback", "again", "after"}, {"interrupted": true}.
Besides that there is one signal: SIGUSR1 asks the work-horse to leave the running job.
"""

from __future__ import annotations

import json
import signal
import socket
import threading
from multiprocessing.connection import Connection
from typing import Any

INTERRUPT = signal.SIGUSR1

Message = dict[str, Any]


class LinkClosed(Exception):
    """The other side has ended."""


class Link:
    """One side of the link. Several threads may send, one receives."""

    def __init__(self, fd: int) -> None:
        self._connection = Connection(fd)
        self._sending = threading.Lock()
        self._muted = False

    def fileno(self) -> int:
        """For select."""
        return self._connection.fileno()

    def send(self, message: Message) -> None:
        """Send one message. Raises LinkClosed."""
        self.send_bytes(json.dumps(message).encode())

    def send_bytes(self, data: bytes) -> None:
        """Send one message that is encoded already. Raises LinkClosed."""
        try:
            with self._sending:
                if not self._muted:
                    self._connection.send_bytes(data)
        except (OSError, TypeError):  # TypeError: closed by another thread in the middle
            raise LinkClosed from None

    def receive(self) -> Message:
        """Wait for the next message. Raises LinkClosed."""
        try:
            message: Message = json.loads(self._connection.recv_bytes())
        except (EOFError, OSError):
            raise LinkClosed from None
        return message

    def waiting(self) -> bool:
        """Whether receive would return, or raise, at once."""
        try:
            return self._connection.poll(0)
        except OSError:
            return True

    def close(self) -> None:
        self._connection.close()

    def mute(self) -> None:
        """In a forked child: give the link up. Two processes that write to it would make it unreadable."""
        self._sending = threading.Lock()  # the parent's may have been held
        self._muted = True
        self._connection.close()


def pair() -> tuple[Link, socket.socket]:
    """A link for the supervisor, and the socket to hand to the work-horse."""
    ours, theirs = socket.socketpair()
    return Link(ours.detach()), theirs
