"""A body in chunks (RFC 9112, section 7.1), decoded as it comes. It never waits for more."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from gunicorn.http.body import CHUNK_EXT_RE
from gunicorn.http.errors import (
    ChunkMissingTerminator,
    InvalidChunkExtension,
    InvalidChunkSize,
    InvalidHeader,
    LimitRequestHeaders,
)

MOST_LINE = 8190
"""Bytes of a line that says how long a chunk is."""
MOST_TRAILERS = 8190
"""Bytes of the fields that may follow the last chunk; they are checked and dropped."""
HEX = frozenset(b"0123456789abcdefABCDEF")


class TooLarge(Exception):
    """A body is larger than allowed."""


class Chunks:
    """The body of one request."""

    def __init__(self, most: int, check_trailers: Callable[[bytes], Any]) -> None:
        """Of at most so many bytes. `check_trailers` raises gunicorn's errors."""
        self._most = most
        self._check_trailers = check_trailers
        self._data = bytearray()
        self._left = 0  # bytes of the chunk that are still to come
        self._step: Callable[[bytearray], bool] = self._size

    def __len__(self) -> int:
        """Bytes that are here."""
        return len(self._data)

    def take(self, buffer: bytearray) -> bytearray | None:
        """The body, once it is whole. What was read of it is taken out of `buffer`.

        Raises TooLarge, and gunicorn's errors of chunks.
        """
        while self._step(buffer):
            if self._step == self._over:
                return self._data
        return None

    # --- the steps: whether they have got what they need, so that the next one's turn has come

    def _size(self, buffer: bytearray) -> bool:
        end = buffer.find(b"\r\n", 0, MOST_LINE + 2)
        if end < 0:
            if len(buffer) > MOST_LINE or b"\n" in buffer:
                raise InvalidChunkSize(bytes(buffer[:20]))
            return False
        self._left = _size_of(bytes(buffer[:end]))
        del buffer[: end + 2]
        if len(self._data) + self._left > self._most:
            raise TooLarge
        self._step = self._chunk if self._left else self._trailers
        return True

    def _chunk(self, buffer: bytearray) -> bool:
        piece = buffer[: self._left]
        self._data += piece
        self._left -= len(piece)
        del buffer[: len(piece)]
        if self._left:
            return False
        self._step = self._terminator
        return True

    def _terminator(self, buffer: bytearray) -> bool:
        if not b"\r\n".startswith(buffer[:2]):
            raise ChunkMissingTerminator(bytes(buffer[:2]))
        if len(buffer) < 2:
            return False
        del buffer[:2]
        self._step = self._size
        return True

    def _trailers(self, buffer: bytearray) -> bool:
        if buffer[:2] == b"\r\n":
            del buffer[:2]
            self._step = self._over
            return True
        end = buffer.find(b"\r\n\r\n")
        if (len(buffer) if end < 0 else end) > MOST_TRAILERS:
            raise LimitRequestHeaders("the fields after the last chunk are too large")
        if end < 0:
            if buffer.count(b"\n") != buffer.count(b"\r\n"):
                raise InvalidHeader("bare LF as line terminator")
            return False
        self._check_trailers(bytes(buffer[:end]))
        del buffer[: end + 4]
        self._step = self._over
        return True

    def _over(self, buffer: bytearray) -> bool:
        return False


def _size_of(line: bytes) -> int:
    size, *extension = line.split(b";", 1)
    if extension:
        size = size.rstrip(b" \t")
    if not 0 < len(size) <= 16 or not HEX.issuperset(size):
        raise InvalidChunkSize(size[:20])
    if extension and not CHUNK_EXT_RE.fullmatch(b";" + extension[0]):
        raise InvalidChunkExtension("invalid chunk extension")
    return int(size, 16)
