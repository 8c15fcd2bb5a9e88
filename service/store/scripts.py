"""Hands out the Lua scripts by name: lua/<name>.lua, with what they share before it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import hiredis
import redis
from redis.commands.core import Script

from service.namespace import RQ, SERVICE
from service.store.keys import Channels
from service.store.patience import limit

FOLDER = Path(__file__).parent / "lua"

LARGE = 2**16
"""Bytes that a socket takes at once: to send more may take its time."""


@cache
def source(name: str, channels: str = SERVICE) -> str:
    """The text of a script; `channels` is what the names of channels begin with."""
    prefixes = f'local RQ, SERVICE, CHANNELS = "{RQ}", "{SERVICE}", "{channels}"\n'
    return prefixes + "".join((FOLDER / f"{each}.lua").read_text() for each in ("prelude", "webhook", name))


class Scripts:
    """The scripts of one client; `scripts.turn(keys=..., args=...)` runs lua/turn.lua in one round trip.

    `direct`: send them as DirectScript does; by default for a plain client of Redis, which no pipeline and no fake is.
    """

    def __init__(self, connection: redis.Redis, direct: bool | None = None) -> None:
        self._connection = connection
        self._channels = Channels(connection).prefix
        self._direct = type(connection) is redis.Redis if direct is None else direct

    def __getattr__(self, name: str) -> Any:
        script: Any = Script(self._connection, source(name, self._channels))
        if self._direct:
            script = DirectScript(script, self._connection.connection_pool)
        setattr(self, name, script)
        return script


class DirectScript:
    """A script that is sent as redis-py 8.1 sends a command, with its connection's tries, and without its other ado.

    That took longer than the rest of a submit in the store: client.py _execute_command counts each command for
    observers, connection.py HiredisRespSerializer.pack looks at each argument, and its pools have locks and look
    whether there is something to read.
    """

    def __init__(self, script: Script, pool: Any) -> None:
        self._script = script
        self._pool = pool
        self._take = getattr(pool, "take", pool.get_connection)  # an application's pool may be redis-py's

    def __call__(self, keys: Sequence[Any] = (), args: Sequence[Any] = (), client: Any = None) -> Any:
        """Its answer, as bytes. Raises RedisError."""
        if client is not None:
            return self._script(keys=keys, args=args, client=client)
        request = [hiredis.pack_command(("EVALSHA", self._script.sha, len(keys), *keys, *args))]
        connection = self._take()

        def ask() -> Any:
            if len(request[0]) > LARGE:
                limit(connection._sock, connection.socket_timeout)
            connection.send_packed_command(request)
            try:
                return connection.read_response(disable_decoding=True)
            except redis.exceptions.NoScriptError:
                # With its text, which Redis keeps: to load it first would leave a moment to forget it again.
                connection.send_command("EVAL", self._script.script, len(keys), *keys, *args)
            return connection.read_response(disable_decoding=True)

        try:
            return connection.retry.call_with_retry(ask, lambda _: connection.disconnect())
        except redis.exceptions.ResponseError:
            raise
        except BaseException:  # a signal's: its answer must not be taken for the next one's
            connection.disconnect()
            raise
        finally:
            self._pool.release(connection)


def readable(answers: Iterable[Any]) -> Iterator[Any]:
    """The answers of a pipeline; None for a key that somebody has made something else of: it must not hide the others.

    Raises what else Redis has answered instead.
    """
    for answer in answers:
        if isinstance(answer, Exception) and not str(answer).startswith("WRONGTYPE"):
            raise answer
        yield None if isinstance(answer, Exception) else answer
