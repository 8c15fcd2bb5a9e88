"""A proxy before Redis that passes on what is said, or is slow, or answers in Redis's place with an error."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import hiredis

DISCARD = b"*1\r\n$7\r\nDISCARD\r\n"


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
            talk = _Talk(self, client, to_client, redis, to_redis)
            answers = asyncio.create_task(talk.answers())
            try:
                await talk.asks()
            finally:
                answers.cancel()
        except (OSError, hiredis.HiredisError):
            pass  # one of the two has gone
        finally:
            for writer in filter(None, (to_client, to_redis)):
                self._open.discard(writer)
                self._silent.discard(writer)
                writer.transport.abort()


class _Talk:
    """What is said on one connection."""

    def __init__(
        self,
        proxy: RedisProxy,
        client: asyncio.StreamReader,
        to_client: asyncio.StreamWriter,
        redis: asyncio.StreamReader,
        to_redis: asyncio.StreamWriter,
    ) -> None:
        self._proxy = proxy
        self._client, self._to_client = client, to_client
        self._redis, self._to_redis = redis, to_redis
        self._replies = hiredis.Reader()  # only to count them
        self._open_requests = 0
        self._answered = asyncio.Event()
        self._in_transaction = self._is_refused = False
        self._dropped = 0
        """Bytes of Redis that the client does not get."""

    async def asks(self) -> None:
        """Pass on requests, or answer them, in their order."""
        requests = hiredis.Reader()  # a command is an array of strings, as an answer may be
        while data := await self._client.read(1 << 16):
            requests.feed(data)
            while (words := requests.gets()) is not False:
                if self._to_client not in self._proxy._silent:
                    await self._ask(words)

    async def _ask(self, words: list[bytes]) -> None:
        name = words[0].upper()
        answer = None if name in (b"MULTI", b"EXEC", b"DISCARD") else self._proxy._answer(words)
        discards = name == b"EXEC" and self._is_refused
        if discards:
            answer = b"-EXECABORT Transaction discarded because of previous errors.\r\n"
        self._in_transaction = name == b"MULTI" or (self._in_transaction and name not in (b"EXEC", b"DISCARD"))
        self._is_refused = self._in_transaction and (self._is_refused or answer is not None)
        if answer is None:
            self._open_requests += 1
            self._to_redis.write(hiredis.pack_command(tuple(words)))
        else:
            await self._answer(answer, discards)

    async def _answer(self, answer: bytes, discards: bool) -> None:
        while self._open_requests > 0:
            self._answered.clear()
            await self._answered.wait()
        if discards:
            self._dropped = len(b"+OK\r\n")
            self._to_redis.write(DISCARD)
        self._proxy.asked += 1
        self._to_client.write(answer)

    async def answers(self) -> None:
        """Pass on what Redis says."""
        with suppress(OSError):
            while data := await self._redis.read(1 << 16):
                if self._proxy._delay:
                    await asyncio.sleep(self._proxy._delay)
                data, self._dropped = data[self._dropped :], max(0, self._dropped - len(data))
                self._count(data)
                if self._to_client not in self._proxy._silent:
                    self._to_client.write(data)
        self._to_client.transport.abort()

    def _count(self, data: bytes) -> None:
        self._replies.feed(data)
        while self._replies.gets() is not False:
            self._open_requests -= 1
            self._answered.set()
