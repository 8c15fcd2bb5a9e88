"""A Redis that kills a process at a chosen write: before it is made, or when it was made and not yet answered."""

from __future__ import annotations

import os
import signal
import socket
import struct
import threading
from contextlib import suppress
from dataclasses import dataclass, field
from hashlib import sha1
from pathlib import Path

import redis

from service.store.keys import Channels
from service.store.scripts import source


def script(name: str, connection: redis.Redis | None = None) -> bytes:
    """What the request of a script has in it, in the database of a connection, or in the first."""
    text = source(name, Channels(connection).prefix) if connection is not None else source(name)
    return sha1(text.encode(), usedforsecurity=False).hexdigest().encode()


@dataclass
class Trap:
    """Kills the process that makes the request with all of `needles` in it."""

    needles: tuple[bytes, ...]
    before: bool
    """Before Redis gets the request; else after it has answered, and the answer is lost."""
    answered: bytes = b""
    """What the answer must have in it; only without `before`."""
    sprung: threading.Event = field(default_factory=threading.Event)
    pid: int = 0

    def kill(self, pid: int) -> None:
        """Kill a process."""
        self.pid = pid
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
        self.sprung.set()


class Deadly:
    """A proxy before Redis with one trap at a time."""

    def __init__(self, path: Path, redis_path: str) -> None:
        self.url = f"unix://{path}"
        self.trap: Trap | None = None
        self._redis_path = redis_path
        self._server = socket.socket(socket.AF_UNIX)
        self._server.bind(str(path))
        self._server.listen(64)
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        """Take no more connections."""
        with suppress(OSError):
            self._server.shutdown(socket.SHUT_RDWR)
        self._server.close()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._server.accept()
            except OSError:
                return
            _Connection(self, client, self._redis_path)


class _Connection:
    """One connection of a process to Redis."""

    def __init__(self, proxy: Deadly, client: socket.socket, redis_path: str) -> None:
        self._proxy = proxy
        self._client = client
        credentials = client.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
        self._pid: int = struct.unpack("3i", credentials)[0]
        self._redis = socket.socket(socket.AF_UNIX)
        self._redis.connect(redis_path)
        self._asked = b""  # since the last answer
        for each in (self._ask, self._answer):
            threading.Thread(target=each, daemon=True).start()

    def _caught(self, before: bool) -> Trap | None:
        trap = self._proxy.trap
        if trap is None or trap.before != before or trap.sprung.is_set():
            return None
        return trap if all(needle in self._asked for needle in trap.needles) else None

    def _ask(self) -> None:
        with suppress(OSError):
            while request := self._client.recv(1 << 20):
                self._asked += request
                if trap := self._caught(before=True):
                    trap.kill(self._pid)
                    break
                self._redis.sendall(request)
        with suppress(OSError):
            self._redis.shutdown(socket.SHUT_RDWR)

    def _answer(self) -> None:
        with suppress(OSError):
            while answer := self._redis.recv(1 << 20):
                trap = self._caught(before=False)
                # A script that Redis does not know has done nothing: it is sent again with its text.
                if trap and trap.answered in answer and not answer.startswith(b"-NOSCRIPT"):
                    trap.kill(self._pid)
                    break
                if not answer.startswith(b"-NOSCRIPT"):  # what follows is the same request, with the text for the name
                    self._asked = b""
                self._client.sendall(answer)
        with suppress(OSError):
            self._client.shutdown(socket.SHUT_RDWR)
        self._client.close()
        self._redis.close()
