"""Receivers of webhooks for tests: servers on this machine that do with a connection what the test says."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress

Talk = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


class Receiver:
    """A server, what was sent to it, and how many connections it has seen begin and end."""

    def __init__(self, talk: Talk) -> None:
        self._talk = talk
        self.port = 0
        self.connections = 0
        self.requests: list[bytes] = []
        self._open: set[asyncio.Task[None]] = set()
        self.ended = asyncio.Event()
        """The other side has ended a connection."""

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/hook"

    async def take(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        self._open.add(task := asyncio.current_task())
        try:
            with suppress(ConnectionError, asyncio.IncompleteReadError):
                head = await reader.readuntil(b"\r\n\r\n")
                length = int(head.lower().partition(b"content-length: ")[2].split(b"\r\n")[0])
                self.requests.append(head + await reader.readexactly(length))
                await self._talk(reader, writer)
            with suppress(ConnectionError):
                await reader.read()
            self.ended.set()
        finally:
            self._open.discard(task)
            writer.transport.abort()

    async def asked(self, times: int, within: float = 60.0) -> None:
        """Wait until so many requests have come."""
        async with asyncio.timeout(within):
            while len(self.requests) < times:
                await asyncio.sleep(0)

    async def left(self, within: float = 60.0) -> None:
        """Wait until the other side has ended all connections."""
        async with asyncio.timeout(within):
            await asyncio.sleep(0)
            while self._open:
                await asyncio.wait(self._open)

    async def close(self) -> None:
        """End what is open."""
        await asyncio.sleep(0)  # a connection that was just taken has no task before
        while self._open:
            for task in self._open:
                task.cancel()
            await asyncio.wait(self._open)
        await asyncio.sleep(0)  # a transport that was told to close does it in the loop's next round


@asynccontextmanager
async def receiver(talk: Talk, tls: ssl.SSLContext | None = None) -> AsyncIterator[Receiver]:
    """A receiver that listens on 127.0.0.1; it reads a request and then talks as told."""
    each = Receiver(talk)
    server = await asyncio.start_server(each.take, "127.0.0.1", 0, ssl=tls)
    each.port = server.sockets[0].getsockname()[1]
    try:
        async with server:
            yield each
    finally:
        await each.close()


def answers(data: bytes) -> Talk:
    """Write this and close."""

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(data)
        await writer.drain()
        writer.write_eof() if writer.can_write_eof() else writer.close()

    return talk


def repeats(first: bytes, then: bytes, pause: float = 0.0, most: int = 10**10) -> Talk:
    """Write `first`, and then the same again and again, until the connection ends or so many bytes are written."""

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(first)
        for _ in range(most // len(then)):
            writer.write(then)
            await writer.drain()
            await asyncio.sleep(pause)

    return talk


async def hangs(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Say nothing."""
