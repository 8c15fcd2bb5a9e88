"""Callers that never pause: each sends its next request as soon as the last one is answered."""

from __future__ import annotations

import re
import selectors
import socket
import time
from types import TracebackType

from measure import NotMeasured

BODY = b'{"input": {"x": 1, "y": 2}}'
STALLED = 30.0  # seconds without any answer
_LENGTH = re.compile(rb"\r\ncontent-length: *([0-9]+)\r\n", re.IGNORECASE)


class Load:
    """A number of connections to one server, kept alive; one thread serves them all. Use it in a `with`."""

    def __init__(self, port: int, path: str, connections: int) -> None:
        head = f"POST {path} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nContent-Type: application/json\r\n"
        self._before = f"{head}Content-Length: {len(BODY)}\r\nIdempotency-Key: ".encode()
        self._after = b"\r\n\r\n" + BODY
        self._selector = selectors.EpollSelector()
        self._asked: dict[int, float] = {}
        """When the request was sent that a connection waits for, by its file."""
        self._partial: dict[int, bytes] = {}
        self.sent = 0
        self.taken: list[float] = []
        """Seconds that each answered request took."""
        self._sockets = [self._connected(port) for _ in range(connections)]

    def __enter__(self) -> Load:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._selector.close()
        for each in self._sockets:
            each.close()

    def run(self, seconds: float) -> float:
        """Go on for so long; the seconds it really took. Raises NotMeasured at an answer that is not 202."""
        began = now = time.monotonic()
        for each in self._sockets:
            if each.fileno() not in self._asked:
                self._ask(each)
        while now - began < seconds:
            for each in self._ready():
                self._answered(each)
                if each.fileno() not in self._asked:
                    self._ask(each)
            now = time.monotonic()
        return now - began

    def finish(self) -> None:
        """Wait for the answers that are still missing; no new request is sent. Raises NotMeasured."""
        while self._asked:
            for each in self._ready():
                self._answered(each)

    def _connected(self, port: int) -> socket.socket:
        sock = socket.create_connection(("127.0.0.1", port), timeout=10)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._selector.register(sock, selectors.EVENT_READ)
        return sock

    def _ready(self) -> list[socket.socket]:
        ready = [key.fileobj for key, _ in self._selector.select(STALLED)]
        if not ready:
            raise NotMeasured(f"no answer within {STALLED:.0f} s")
        return ready  # type: ignore[return-value]  # all are sockets

    def _ask(self, sock: socket.socket) -> None:
        self.sent += 1
        self._asked[sock.fileno()] = time.monotonic()
        sock.send(b"%s%032x%s" % (self._before, self.sent, self._after))

    def _answered(self, sock: socket.socket) -> None:
        """Read; whoever sends the head and the body apart may not be done."""
        file = sock.fileno()
        data = sock.recv(65536)
        whole = self._partial.pop(file, b"") + data
        if not data or not whole.startswith(b"HTTP/1.1 202"[: len(whole)]):
            raise NotMeasured(f"an answer is not 202: {whole[:300]!r}")
        end = whole.find(b"\r\n\r\n")
        length = _LENGTH.search(whole) if end >= 0 else None
        if length is None or len(whole) < end + 4 + int(length[1]):
            self._partial[file] = whole
            return
        self.taken.append(time.monotonic() - self._asked.pop(file))
