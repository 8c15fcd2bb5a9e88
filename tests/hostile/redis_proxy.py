"""A proxy before Redis that passes on what is said, or is slow, or answers in Redis's place with an error."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any


class RedisProxy:
    """Listens on a unix socket; what it does is changed by `delayed`, `refusing` and `cut` while it runs."""

    def __init__(self, path: Path, redis_path: str) -> None:
        self.url = f"unix://{path}"
        self.asked = 0
        """Requests that were answered in Redis's place."""
        self._path, self._redis_path = path, redis_path
        self._delay = 0.0
        self._answer: Callable[[list[bytes]], bytes | None] = lambda words: None
        self._open: set[asyncio.StreamWriter] = set()
        self._silent: set[asyncio.StreamWriter] = set()
        self._loop = asyncio.new_event_loop()
        self._server: asyncio.Server | None = None
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        self._call(self._listen())

    def close(self) -> None:
        """End all connections, and take no more."""
        assert self._server is not None
        self._loop.call_soon_threadsafe(self._server.close)
        self.cut()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        for task in asyncio.all_tasks(self._loop):
            task.cancel()
            with suppress(asyncio.CancelledError, OSError):
                self._loop.run_until_complete(task)
        self._loop.close()

    @contextmanager
    def delayed(self, seconds: float) -> Iterator[None]:
        """Within it each answer comes so much later."""
        self._delay = seconds
        try:
            yield
        finally:
            self._delay = 0.0

    @contextmanager
    def refusing(self, answer: Callable[[list[bytes]], bytes | None]) -> Iterator[None]:
        """Within it requests are answered by `answer`, given the words of a command; None: by Redis."""
        before, self._answer = self._answer, answer
        try:
            yield
        finally:
            self._answer = before

    def cut(self) -> None:
        """End all connections that are open now."""

        async def cut() -> None:
            for writer in list(self._open):
                writer.transport.abort()

        self._call(cut())

    def silence(self) -> None:
        """Pass on nothing more on the connections that are open now, as a firewall does that has forgotten them."""

        async def silence() -> None:
            self._silent |= self._open

        self._call(silence())

    def _call(self, coroutine: Coroutine[Any, Any, None]) -> None:
        asyncio.run_coroutine_threadsafe(coroutine, self._loop).result(timeout=30)

    async def _listen(self) -> None:
        self._server = await asyncio.start_unix_server(self._serve, str(self._path), backlog=1024)

    async def _serve(self, client: asyncio.StreamReader, to_client: asyncio.StreamWriter) -> None:
        to_redis: asyncio.StreamWriter | None = None
        try:
            redis, to_redis = await asyncio.open_unix_connection(self._redis_path)
            self._open |= {to_client, to_redis}
            answers = asyncio.create_task(self._answers(redis, to_client))
            try:
                await self._asks(client, to_client, to_redis)
            finally:
                answers.cancel()
        except (OSError, asyncio.IncompleteReadError, ValueError):
            pass  # one of the two has gone
        finally:
            for writer in filter(None, (to_client, to_redis)):
                self._open.discard(writer)
                self._silent.discard(writer)
                writer.transport.abort()

    async def _asks(
        self, client: asyncio.StreamReader, to_client: asyncio.StreamWriter, to_redis: asyncio.StreamWriter
    ) -> None:
        while True:
            raw, words = await _command(client)
            if to_client in self._silent:
                continue
            # What was asked before is answered before, as a pipeline wants it: near enough, for an error.
            if (answer := self._answer(words)) is not None:
                self.asked += 1
                to_client.write(answer)
            else:
                to_redis.write(raw)

    async def _answers(self, redis: asyncio.StreamReader, to_client: asyncio.StreamWriter) -> None:
        with suppress(OSError):
            while data := await redis.read(1 << 16):
                if self._delay:
                    await asyncio.sleep(self._delay)
                if to_client not in self._silent:
                    to_client.write(data)
        to_client.transport.abort()


async def _command(reader: asyncio.StreamReader) -> tuple[bytes, list[bytes]]:
    """One command: its bytes and its words. Source: RESP, arrays of bulk strings."""
    head = await reader.readuntil(b"\r\n")
    parts, words = [head], []
    for _ in range(int(head[1:])):
        size = await reader.readuntil(b"\r\n")
        word = await reader.readexactly(int(size[1:]) + 2)
        parts += [size, word]
        words.append(word[:-2])
    return b"".join(parts), words
