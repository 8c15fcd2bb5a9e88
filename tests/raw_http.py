"""A client that sends what it is told, in the pieces that it is told, and reads answers from the bytes."""

from __future__ import annotations

import json
import socket
import struct
from contextlib import suppress
from dataclasses import dataclass
from typing import Any


@dataclass
class Answer:
    """One answer; header names in lower case."""

    status: int
    headers: dict[str, str]
    body: bytes

    def json(self) -> Any:
        return json.loads(self.body)

    def problem(self, status: int) -> Any:
        """The problem that it must be; its connection ends."""
        assert self.status == status, self
        assert self.headers["content-type"] == "application/problem+json"
        assert self.headers["connection"] == "close"
        assert self.headers["x-request-id"]
        problem = self.json()
        assert problem["status"] == status
        assert problem["type"].startswith("/problems/")
        assert problem["title"]
        assert problem["detail"]
        return problem


class Raw(socket.socket):
    """A connection to a service on this machine."""

    def __init__(self, port: int, receives: int = 0) -> None:
        """`receives`: bytes that the kernel takes for a client that does not read; 0: as many as it likes."""
        super().__init__()
        if receives:
            self.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receives)
        self.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.settimeout(30)
        self.connect(("127.0.0.1", port))
        self._ahead = b""

    def answer(self, head_only: bool = False) -> Answer:
        """The next answer that is not `100 Continue`'s kind; fails if the connection ends before it is whole."""
        while b"\r\n\r\n" not in self._ahead:
            self._more()
        head, _, self._ahead = self._ahead.partition(b"\r\n\r\n")
        first, *lines = head.decode("latin-1").split("\r\n")
        headers = {name.lower(): value for name, value in (line.split(": ", 1) for line in lines)}
        length = 0 if head_only else int(headers.get("content-length", 0))
        while len(self._ahead) < length:
            self._more()
        body, self._ahead = self._ahead[:length], self._ahead[length:]
        return Answer(int(first.split()[1]), headers, body)

    def _more(self) -> None:
        data = self.recv(1 << 20)
        assert data, f"the connection ended after {self._ahead[:200]!r}"
        self._ahead += data

    def has_ended(self) -> bool:
        """Wait until the server ends the connection; False if it sends something instead, or nothing for long."""
        try:
            return not self._ahead and self.recv(1) == b""
        except ConnectionResetError:
            return True
        except TimeoutError:
            return False

    def half_close(self) -> None:
        """Say that nothing more is sent."""
        self.shutdown(socket.SHUT_WR)

    def reset(self) -> None:
        """Go without a word: the server gets a reset."""
        with suppress(OSError):
            self.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.close()


def request(method: str, path: str, body: bytes = b"", **headers: str) -> bytes:
    """A whole request of JSON."""
    fields = {"Host": "localhost", **{name.replace("_", "-"): value for name, value in headers.items()}}
    if body:
        fields |= {"Content-Type": "application/json", "Content-Length": str(len(body))}
    lines = "".join(f"{name}: {value}\r\n" for name, value in fields.items())
    return f"{method} {path} HTTP/1.1\r\n{lines}\r\n".encode("latin-1") + body


def in_chunks(method: str, path: str, *chunks: bytes, end: bytes = b"0\r\n\r\n") -> bytes:
    """A whole request whose body comes in chunks."""
    head = (
        f"{method} {path} HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n"
    )
    return head.encode() + b"".join(b"%x\r\n%s\r\n" % (len(chunk), chunk) for chunk in chunks) + end
