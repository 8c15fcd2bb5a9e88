"""Our connections to Redis: they keep to a limit of time (patience.py) and know what a refusal is (refusal.py).

Read from redis-py 8.1: connection.py.
"""

# mypy: allow-untyped-calls
# (redis-py's connections carry no types)

from __future__ import annotations

import os
import threading
from functools import cache
from typing import Any

import redis
from redis._parsers import _AsyncHiredisParser, _HiredisParser
from redis.utils import SENTINEL

from service.store.patience import Patience, limit, time_left, waiting
from service.store.refusal import refusal

ELSEWHERE = frozenset({"READONLY", "MASTERDOWN", "MOVED"})
"""Codes of a Redis that is not, or no longer, the one to write to."""
SHORTEST = 0.001
"""Seconds; 0 would mean that a socket does not wait at all, which is another thing."""


class Bounded:
    """What each of our connections can do, whatever it is made over: to be put before one of redis-py's."""

    _socket_timeout: float | None
    _socket_connect_timeout: float | None

    @property
    def socket_timeout(self) -> float | None:
        """Seconds for one send or read, as a connection is made."""
        return _shorter(self._socket_timeout)

    @socket_timeout.setter
    def socket_timeout(self, value: float | None) -> None:
        self._socket_timeout = value

    @property
    def socket_connect_timeout(self) -> float | None:
        """Seconds for each address of the host."""
        return _shorter(self._socket_connect_timeout)

    @socket_connect_timeout.setter
    def socket_connect_timeout(self, value: float | None) -> None:
        self._socket_connect_timeout = value


def _shorter(timeout: float | None) -> float | None:
    try:
        left = time_left()
    except redis.exceptions.TimeoutError:  # redis-py would not close the socket that it has just made
        left = SHORTEST
    if left is None or timeout is None:
        return timeout
    return min(timeout, left)


class Parser(_HiredisParser):
    """Reads replies: each piece within the time that is left, so that one that comes in drops is not waited for."""

    elsewhere = False
    """Whether this Redis has said that it is not the one to write to: its address may lead to another by now."""

    def parse_error(self, response: str) -> Any:  # type: ignore[override]  # a class method there, called as ours is
        """The exception that a reply becomes."""
        refused = refusal(response)
        if refused is not None and refused.code in ELSEWHERE:
            self.elsewhere = True
        return refused or super().parse_error(response)

    def on_disconnect(self) -> None:
        """The connection is closed."""
        self.elsewhere = False
        super().on_disconnect()

    def read_from_socket(self, timeout: Any = SENTINEL, raise_on_timeout: bool = True) -> Any:
        """As redis-py's. `timeout` is a subscription's, which waits for as long as it likes."""
        if timeout is SENTINEL:
            limit(self._sock, self._socket_timeout)
        return super().read_from_socket(timeout, raise_on_timeout)


class AsyncParser(_AsyncHiredisParser):
    """Reads replies for asyncio, whose connections have limits of their own."""

    __slots__ = ()

    @classmethod
    def parse_error(cls, response: str) -> Any:
        """The exception that a reply becomes."""
        return refusal(response) or super().parse_error(response)


@cache
def bounded(kind: Any) -> Any:
    """One of redis-py's classes of connections (TCP, TLS, Unix socket) with our limits."""
    return kind if issubclass(kind, Bounded) else type(f"Bounded{kind.__name__}", (Bounded, kind), {})


class Pool(redis.ConnectionPool):
    """The connections of a client. A thread that finds all of them in use waits until one is free.

    redis-py's own pools count for observers and lock at each step. Here taking one from the list and putting it back
    are single steps, which no other thread sees half done.
    """

    _available_connections: list[Any]
    _in_use_connections: set[Any]

    def __init__(self, patience: Patience, connection_class: Any = redis.Connection, **options: Any) -> None:
        self._patience = patience
        options.update(retry=patience, parser_class=Parser)
        super().__init__(bounded(connection_class), **options)

    def reset(self) -> None:
        """Forget all connections: this process is new."""
        self._freed = threading.Condition(threading.Lock())
        self._waiting = 0
        super().reset()

    def take(self) -> Any:
        """A connection as it is: it may have been lost, and is then made anew when it is used. `release` must follow.

        Raises TimeoutError if none is free in time.
        """
        if self.pid != os.getpid():
            self._checkpid()
        try:
            connection = self._available_connections.pop()
        except IndexError:
            connection = self._another()
        self._in_use_connections.add(connection)
        return connection

    def get_connection(self, command_name: Any = None, *keys: Any, **options: Any) -> Any:
        """A connection that is made, and on which nothing is left to be read: for redis-py's own commands."""
        connection = self.take()
        try:
            if connection.is_connected and not _is_fresh(connection):
                connection.disconnect()
            if not connection.is_connected:
                connection.connect()
        except BaseException:
            self.release(connection)
            raise
        return connection

    def release(self, connection: Any) -> None:
        """Give a connection back."""
        try:
            self._in_use_connections.remove(connection)
        except KeyError:  # it was given back before
            return
        if connection._parser.elsewhere:
            # A Redis that was demoted keeps its connections open: with them, one would write to it for ever.
            connection.disconnect()
            self.disconnect(inuse_connections=False)
        if connection.should_reconnect():
            connection.disconnect()
        self._available_connections.append(connection)
        if self._waiting:
            with self._freed:
                self._freed.notify()

    def disconnect(self, inuse_connections: bool = True) -> None:
        """Close all connections, or those that nobody uses."""
        self._checkpid()
        used = list(self._in_use_connections) if inuse_connections else []
        for connection in [*self._available_connections, *used]:
            connection.disconnect()

    def _another(self) -> Any:
        with waiting(self._patience.seconds) as seconds, self._freed:
            self._waiting += 1  # before it looks: who gives one back after that says so
            try:
                if not self._freed.wait_for(self._is_one, min(seconds, threading.TIMEOUT_MAX)):
                    raise redis.exceptions.TimeoutError("no connection to Redis has become free in time")
                return self._found
            finally:
                self._waiting -= 1

    def _is_one(self) -> bool:
        try:
            self._found = self._available_connections.pop()
        except IndexError:
            if self._created_connections >= self.max_connections:
                return False
            self._found = self.make_connection()
        return True


def _is_fresh(connection: Any) -> bool:
    try:
        return not connection.can_read()
    except (redis.exceptions.RedisError, OSError):  # it was closed
        return False
