"""The relay's one connection to Redis: what is published arrives here, for all watchers of the process.

redis-py makes the connection (address, password, TLS); from then on we read it ourselves: its own pubsub
takes four times as long for a message.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Iterable
from typing import Any, cast

import hiredis
import redis.asyncio

from service.relay.trouble import Trouble
from service.store.pool import AsyncParser

QUIET = 5.0  # seconds without a word from Redis, then it is asked for one
DEAD = 10.0  # seconds without a word, then the connection is taken for lost
AGAIN, LONGEST_AGAIN = 0.2, 2.0  # seconds between two tries to connect, which grow while Redis refuses
_HARMLESS = (b"subscribe", b"unsubscribe")


class Subscription:
    """Channels of Redis, whatever becomes of the connection.

    `on_live(name)` is called each time that Redis confirms a channel, so again after a lost connection:
    what was published before may have been missed. `on_message(name, data)` follows; `on_lost()` is the end of it.
    """

    def __init__(
        self,
        url: str,
        trouble: Trouble,
        on_live: Callable[[bytes], None],
        on_message: Callable[[bytes, bytes], None],
        on_lost: Callable[[], None],
    ) -> None:
        self._url = url
        self._trouble = trouble
        self._on_live = on_live
        self._on_message = on_message
        self._on_lost = on_lost
        self._wanted: set[bytes] = set()
        self._changes: list[tuple[bytes, bytes]] = []
        self._writer: Any = None
        self._transport: asyncio.WriteTransport | None = None
        self._lost = asyncio.Event()
        self._heard = 0.0
        self._refused = False

    @property
    def connected(self) -> bool:
        return self._transport is not None

    def subscribe(self, name: bytes) -> None:
        """Want a channel. Nothing is said twice for one that is wanted already."""
        if name not in self._wanted:
            self._wanted.add(name)
            self._change(b"SUBSCRIBE", name)

    def unsubscribe(self, name: bytes) -> None:
        """Want it no more; for a name that is not wanted too: Redis may have been told of it before a loss."""
        self._wanted.discard(name)
        self._change(b"UNSUBSCRIBE", name)

    async def run(self) -> None:
        """Stay connected, until canceled, whatever Redis answers."""
        away, pause = False, AGAIN
        while True:
            try:
                await self._connect()
            except Exception as error:  # also of redis-py: what answers may be no Redis
                if not away:
                    self._trouble.note(logging.WARNING, f"the relay cannot reach Redis: {error}")
            else:
                if away:
                    self._trouble.note(logging.WARNING, "the relay has Redis back")
                await self._lost.wait()
                self._trouble.note(logging.WARNING, "the relay's connection to Redis is lost")
            pause = min(pause * 2, LONGEST_AGAIN) if self._refused else AGAIN
            away = True
            await asyncio.sleep(pause)

    async def _connect(self) -> None:
        pool = redis.asyncio.ConnectionPool.from_url(
            self._url,
            protocol=2,
            socket_connect_timeout=2,
            socket_timeout=2,
            health_check_interval=0,
            parser_class=AsyncParser,
        )
        connection: Any = pool.make_connection()  # type: ignore[no-untyped-call]
        await connection.connect()
        # redis-py 8.1, asyncio/connection.py: the only way to the bytes. Nothing is under way at this point.
        self._writer = connection._writer  # which closes the connection when it is forgotten
        transport = cast(asyncio.Transport, self._writer.transport)
        if transport.is_closing() or connection._reader.at_eof():
            raise ConnectionError("it closed the connection at once")  # which nobody would tell us later
        self._lost.clear()
        self._refused = False
        self._heard = time.monotonic()
        self._transport = transport
        self._changes.clear()
        transport.set_protocol(_Replies(self))
        connection._writer = connection._reader = None  # it must not close it
        if self._wanted:
            transport.write(_command(b"SUBSCRIBE", self._wanted))

    def look(self) -> None:
        """To be called each second: find out that Redis is gone without a word."""
        if self._transport is None:
            return
        silence = time.monotonic() - self._heard
        if silence > DEAD:
            self._transport.abort()
        elif silence > QUIET:
            self._transport.write(_command(b"PING", ()))

    def _change(self, command: bytes, name: bytes) -> None:
        if self._transport is None:
            return  # all that is wanted is asked for on connecting
        if not self._changes:
            asyncio.get_running_loop().call_soon(self._send_changes)
        self._changes.append((command, name))

    def _send_changes(self) -> None:
        # Many watchers come at once after a restart: one command for all that are alike, in the given order.
        changes, self._changes = self._changes, []
        names: list[bytes] = []
        for number, (command, name) in enumerate(changes):
            names.append(name)
            following = changes[number + 1][0] if number + 1 < len(changes) else b""
            if following != command and self._transport is not None:
                self._transport.write(_command(command, names))
                names = []

    def take(self, replies: Iterable[Any]) -> None:
        """Called by the connection."""
        self._heard = time.monotonic()
        for reply in replies:
            # No `match`: for a message it would take longer than all else here.
            if type(reply) is list and len(reply) == 3 and type(reply[1]) is bytes:
                if reply[0] == b"message":
                    self._on_message(reply[1], reply[2])
                elif reply[0] == b"subscribe" and reply[1] in self._wanted:
                    self._on_live(reply[1])
                elif reply[0] not in _HARMLESS:
                    self.refuse(reply)
            elif reply != b"PONG" and not (type(reply) is list and reply[:1] == [b"pong"]):
                # An error, or no Redis. It does not say of which channel: all are asked for again.
                self.refuse(reply)

    def refuse(self, error: Any) -> None:
        """Called with what Redis answers and should not: connect again, later."""
        self._refused = True
        self._trouble.note(logging.WARNING, f"the relay is refused by Redis: {str(error)[:200]}")
        if self._transport is not None:
            self._transport.abort()

    def lose(self) -> None:
        """Called by the connection."""
        self._transport = None
        self._lost.set()
        self._on_lost()


class _Replies(asyncio.Protocol):
    """Takes Redis's answers apart."""

    def __init__(self, subscription: Subscription) -> None:
        self._subscription = subscription
        self._reader = hiredis.Reader()

    def data_received(self, data: bytes) -> None:
        try:
            self._reader.feed(data)
            self._subscription.take(iter(self._reader.gets, False))
        except hiredis.HiredisError as error:  # it speaks something else
            self._subscription.refuse(error)

    def connection_lost(self, error: Exception | None) -> None:
        self._subscription.lose()


def _command(command: bytes, names: Iterable[bytes]) -> bytes:
    parts = [command, *names]
    return b"*%d\r\n%b" % (len(parts), b"".join(b"$%d\r\n%b\r\n" % (len(part), part) for part in parts))
