"""Callers that speak to the service's port byte by byte, as no library does."""

from __future__ import annotations

import socket
import struct
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from tests.deployment import Api


def request(path: str, method: str = "GET", body: bytes = b"", **headers: str) -> bytes:
    """A whole request; `_` in the name of a header stands for `-`."""
    lines = [f"{method} {path} HTTP/1.1", "Host: x"]
    lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
    if body and "Transfer_Encoding" not in headers:
        lines.append(f"Content-Length: {len(body)}")
    return "\r\n".join([*lines, "", ""]).encode("latin-1") + body


def opened(api: Api, data: bytes = b"") -> socket.socket:
    """A connection on which this was sent."""
    connection = socket.create_connection(("127.0.0.1", api.port), timeout=20)
    if data:
        connection.sendall(data)
    return connection


@contextmanager
def crowd(api: Api, count: int, data: bytes, receive_buffer: int = 0) -> Iterator[list[socket.socket]]:
    """So many connections that sent this and wait; they are ended at the end."""
    connections = []
    try:
        for _ in range(count):
            connection = socket.socket()
            connection.settimeout(20)
            if receive_buffer:
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
            connection.connect(("127.0.0.1", api.port))
            connections.append(connection)
            with suppress(OSError):  # the service may have had enough of it
                connection.sendall(data)
        yield connections
    finally:
        for connection in connections:
            connection.close()


def answer(api: Api, data: bytes, within: float = 20.0) -> bytes:
    """All that is answered to this, to the end of the connection, or to the end of one answer that says its length."""
    with opened(api, data) as connection:
        return read_answer(connection, within)


def read_answer(connection: socket.socket, within: float = 20.0) -> bytes:
    """One answer, whole; or what has come when the connection ends."""
    got, deadline = b"", time.monotonic() + within
    while not _whole(got):
        connection.settimeout(max(0.01, deadline - time.monotonic()))
        try:
            more = connection.recv(1 << 16)
        except ConnectionError:
            break
        if not more:
            break
        got += more
    return got


def _whole(got: bytes) -> bool:
    head, end, body = got.partition(b"\r\n\r\n")
    if not end:
        return False
    lines = dict(line.lower().split(b":", 1) for line in head.split(b"\r\n")[1:] if b":" in line)
    return b"content-length" in lines and len(body) >= int(lines[b"content-length"])


def status(got: bytes) -> int:
    """The status of an answer; 0 if there is none."""
    return int(got.split(b" ", 2)[1]) if got.startswith(b"HTTP/1.") else 0


def reset(connection: socket.socket) -> None:
    """End a connection at once, with a reset."""
    with suppress(OSError):
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    connection.close()
