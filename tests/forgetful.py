"""A Redis some of whose answers are lost, as when a connection breaks at the wrong moment."""

from __future__ import annotations

import random
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path


class Forgetful:
    """A proxy before Redis that passes every request on, and loses some answers to scripts and transactions."""

    def __init__(self, path: Path, redis_path: str) -> None:
        self.url = f"unix://{path}"
        self.lost = 0
        self.share = 0.0
        """How many of them, at random."""
        self.loses_next = False
        """Whether the next one is lost, whatever `share` is."""
        self._random = random.Random(1)
        self._redis_path = redis_path
        self._server = socket.socket(socket.AF_UNIX)
        self._server.bind(str(path))
        self._server.listen(64)
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        self._server.shutdown(socket.SHUT_RDWR)
        self._server.close()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._server.accept()
            except OSError:
                return
            server = socket.socket(socket.AF_UNIX)
            server.connect(self._redis_path)
            loses = threading.Event()
            threading.Thread(target=self._ask, args=(client, server, loses), daemon=True).start()
            threading.Thread(target=self._answer, args=(client, server, loses), daemon=True).start()

    def _ask(self, client: socket.socket, server: socket.socket, loses: threading.Event) -> None:
        with suppress(OSError):
            while request := client.recv(1 << 20):
                writes = b"\r\nEVAL" in request or b"EXEC\r" in request
                if writes and (self.loses_next or self._random.random() < self.share):
                    loses.set()
                server.sendall(request)
        with suppress(OSError):
            server.shutdown(socket.SHUT_RDWR)

    def _answer(self, client: socket.socket, server: socket.socket, loses: threading.Event) -> None:
        with suppress(OSError):
            while answer := server.recv(1 << 20):
                if answer.startswith(b"-NOSCRIPT"):  # nothing has been done
                    loses.clear()
                if loses.is_set():
                    self.loses_next = False
                    self.lost += 1
                    break
                client.sendall(answer)
        with suppress(OSError):
            client.shutdown(socket.SHUT_RDWR)
        client.close()
        server.close()


@contextmanager
def losing(proxy: Forgetful) -> Iterator[None]:
    """Within it the answer to one script is lost."""
    proxy.loses_next, before = True, proxy.lost
    yield
    assert proxy.lost == before + 1
