"""Requests out of the bytes of a connection as they come: gunicorn's parser, which never has to wait for more.

gunicorn 27.0, http/parser.py, reads from the socket until the head is whole, and the app until the body is: a thread
waits for the client. Here the parser is given a head that is whole, and the app a body that is.
"""

from __future__ import annotations

import re
from io import BytesIO
from typing import Any

from gunicorn.http.body import LengthReader
from gunicorn.http.errors import (
    InvalidHeader,
    InvalidRequestLine,
    LimitRequestHeaders,
    LimitRequestLine,
    UnsupportedTransferCoding,
)
from gunicorn.http.message import Request
from gunicorn.http.unreader import Unreader

from service.web.server_chunks import Chunks, TooLarge

MOST_LINE = 8190
"""Bytes of a request line; gunicorn takes no more."""
MOST_HEAD = 32 * 1024
"""Bytes of a head."""

_NOT_IN_A_LINE = re.compile(rb"[^\x20-\x7e]")


class _Head(Unreader):  # type: ignore[misc]  # gunicorn has no types
    """The bytes of one head, as gunicorn's parser wants to read them."""

    def __init__(self, head: bytes) -> None:
        super().__init__()
        self.buf.write(head)

    def chunk(self, size_hint: int | None = None) -> bytes:
        """There are no more."""
        return b""


class _Length:
    """A body of known length."""

    def __init__(self, length: int) -> None:
        self._length = length

    def __len__(self) -> int:
        """Bytes that are here, outside of the buffer."""
        return 0

    def take(self, buffer: bytearray) -> bytes | None:
        """The body, once it is whole."""
        if len(buffer) < self._length:
            return None
        body = bytes(buffer[: self._length])
        del buffer[: self._length]
        return body


class RequestReader:
    """The requests of one connection, one after the other."""

    __slots__ = ("_body", "_buffer", "_cfg", "_client", "_most_body", "_searched", "request")

    def __init__(self, cfg: Any, client: Any, most_body: int) -> None:
        self._cfg = cfg
        self._client = client
        self._most_body = most_body
        self._buffer = bytearray()
        self._searched = 0
        self._body: Chunks | _Length | None = None
        self.request: Any = None
        """The request whose head is whole and whose body is not."""

    def __len__(self) -> int:
        """Bytes of requests that are not whole."""
        return len(self._buffer) + (len(self._body) if self._body else 0)

    @property
    def begun(self) -> bool:
        """Whether there is a part of a request."""
        return bool(self._buffer) or self.request is not None

    def feed(self, data: bytes) -> None:
        """These bytes came."""
        self._buffer += data

    def forget(self) -> None:
        """Nothing more is read."""
        self._buffer.clear()
        self.request = self._body = None

    def next(self) -> Any:
        """gunicorn's request with all of its body, once it is whole; else None.

        Raises TooLarge, and gunicorn's errors, as soon as they can be known; then nothing more can be read.
        """
        if self.request is None:
            if not self._buffer or not self._head_is_whole():
                return None
            self._body = self._body_of(self.request)
        assert self._body is not None
        body = self._body.take(self._buffer)
        if body is None:
            return None
        if isinstance(self._body, Chunks):  # from here on it is one of known length, as RFC 9112, 7.1.3, has it
            fields = [field for field in self.request.headers if field[0] != "TRANSFER-ENCODING"]
            self.request.headers = [*fields, ("CONTENT-LENGTH", str(len(body)))]
        request, self.request, self._body = self.request, None, None
        request.body = BytesIO(body)
        return request

    def _head_is_whole(self) -> bool:
        buffer = self._buffer
        end = buffer.find(b"\r\n\r\n", self._searched)
        if end < 0 or end > MOST_HEAD:
            self._check_half()
            self._searched = max(0, len(buffer) - 3)
            return False
        head = bytes(buffer[: end + 4])
        del buffer[: end + 4]
        self._searched = 0
        self.request = Request(self._cfg, _Head(head), self._client)
        if not all(value.isascii() for name, value in self.request.headers if name == "HOST"):
            raise InvalidHeader("HOST")  # no name of a host has other characters: it would fail further in
        return True

    def _check_half(self) -> None:
        """Raise what is wrong already with a head that is not whole, or is too large."""
        line, found, _ = self._buffer[: MOST_LINE + 4].removeprefix(b"\r\n").partition(b"\r\n")
        if len(line) > MOST_LINE:
            raise LimitRequestLine(f"the request line is longer than {MOST_LINE} bytes")
        if not self._searched or not found:
            self._check_line(bytes(line if found else line.removesuffix(b"\r")))
        if len(self._buffer) > MOST_HEAD:
            raise LimitRequestHeaders(f"the head is larger than {MOST_HEAD} bytes")
        if self._buffer.count(b"\n", self._searched) != self._buffer.count(b"\r\n", max(0, self._searched - 1)):
            raise InvalidHeader("bare LF as line terminator")

    @staticmethod
    def _check_line(line: bytes) -> None:
        if _NOT_IN_A_LINE.search(line):
            raise InvalidRequestLine(line[:100].decode("latin-1"))

    def _body_of(self, request: Any) -> Chunks | _Length:
        codings = [value for name, value in request.headers if name == "TRANSFER-ENCODING"]
        if not codings:
            reader = request.body.reader
            length = reader.length if isinstance(reader, LengthReader) else 0
            if length > self._most_body:
                raise TooLarge
            return _Length(length)
        if [coding.strip(" \t").lower() for coding in codings] != ["chunked"]:
            raise UnsupportedTransferCoding(", ".join(codings))
        return Chunks(self._most_body, lambda trailers: request.parse_headers(trailers, from_trailer=True))
