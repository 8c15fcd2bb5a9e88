"""Connections without a client library, which may say anything, or half of it."""

from __future__ import annotations

import json
import os
import socket
import struct
from base64 import b64encode
from pathlib import Path
from typing import Any

from tests.deployment import Api, children

TEXT, BINARY, CLOSE, PING, PONG = 0x1, 0x2, 0x8, 0x9, 0xA


def connected(api: Api, receive_buffer: int = 0) -> socket.socket:
    """A connection to the service; with a small `receive_buffer` little fits into the kernel's."""
    plain = socket.socket()
    plain.settimeout(30)
    if receive_buffer:
        plain.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
    plain.connect(("127.0.0.1", api.port))
    return plain


def asked(api: Api, path: str, method: str = "GET", body: Any = None, **headers: str) -> socket.socket:
    """A connection on which a request was sent; an underscore in a header's name is a dash."""
    plain = connected(api)
    content = b"" if body is None else json.dumps(body).encode()
    fields = {"Host": "x", "Content-Type": "application/json", "Content-Length": str(len(content)), **headers}
    lines = "".join(f"{name.replace('_', '-')}: {value}\r\n" for name, value in fields.items())
    plain.sendall(f"{method} {path} HTTP/1.1\r\n{lines}\r\n".encode() + content)
    return plain


def answer(plain: socket.socket) -> tuple[int, bytes]:
    """The status and the body of an answer that ends with its connection."""
    received = b""
    with plain:
        while data := plain.recv(65536):
            received += data
    head, _, body = received.partition(b"\r\n\r\n")
    return int(head.split()[1]), body


def upgraded(api: Api, path: str, receive_buffer: int = 0) -> socket.socket:
    """A connection that has become a WebSocket."""
    plain = connected(api, receive_buffer)
    key = b64encode(os.urandom(16)).decode()
    fields = f"Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Key: {key}\r\nSec-WebSocket-Version: 13\r\n"
    plain.sendall(f"GET {path} HTTP/1.1\r\nHost: x\r\n{fields}\r\n".encode())
    head = b""
    while not head.endswith(b"\r\n\r\n"):
        head += plain.recv(1)
    assert b" 101 " in head, head
    return plain


def masked(opcode: int, data: bytes = b"", final: bool = True, length: int | None = None) -> bytes:
    """A client's frame, with a mask of zeros; it may say a length that it does not have."""
    size = len(data) if length is None else length
    head = bytes([opcode | (0x80 if final else 0)])
    if size < 126:
        head += bytes([0x80 | size])
    elif size < 0x10000:
        head += struct.pack("!BH", 0x80 | 126, size)
    else:
        head += struct.pack("!BQ", 0x80 | 127, size)
    return head + bytes(4) + data


def frames(plain: socket.socket) -> Any:
    """The frames that a server sends, as (opcode, data), to the end of the connection, which is closed then."""
    with plain:
        yield from _frames(plain)


def _frames(plain: socket.socket) -> Any:
    while head := _read(plain, 2):
        size = head[1] & 0x7F
        if size == 126:
            (size,) = struct.unpack("!H", _read(plain, 2))
        elif size == 127:
            (size,) = struct.unpack("!Q", _read(plain, 8))
        yield head[0] & 0x0F, _read(plain, size)


def _read(plain: socket.socket, size: int) -> bytes:
    """Just so many bytes, and no more: the rest is for who comes next. Fewer at the end of the connection."""
    data = b""
    while len(data) < size and (more := plain.recv(size - len(data))):
        data += more
    return data


def told(plain: socket.socket, count: int) -> list[Any]:
    """The next events that a WebSocket is sent."""
    texts = (data for opcode, data in _frames(plain) if opcode == TEXT)
    return [json.loads(next(texts)) for _ in range(count)]


def close_code(plain: socket.socket) -> int:
    """The code with which the server closes a WebSocket; what comes before it is passed over."""
    for opcode, data in frames(plain):
        if opcode == CLOSE:
            return int.from_bytes(data[:2], "big")
    raise AssertionError("the connection ended without a close")


def web_pid(api: Api) -> int:
    """The process that answers: the one child of the server's main process."""
    (pid,) = children(api.process.pid)  # type: ignore[attr-defined]
    return pid


def memory(pid: int) -> int:
    """The bytes that a process holds."""
    pages = Path(f"/proc/{pid}/statm").read_text().split()[1]
    return int(pages) * os.sysconf("SC_PAGE_SIZE")
