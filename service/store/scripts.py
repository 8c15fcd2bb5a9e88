"""Hands out the Lua scripts by name: lua/<name>.lua, with what they share before it."""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import hiredis
import redis
from redis.commands.core import Script

from service.namespace import RQ, SERVICE
from service.store.keys import Channels

FOLDER = Path(__file__).parent / "lua"


@cache
def source(name: str, channels: str = SERVICE) -> str:
    """The text of a script; `channels` is what the names of channels begin with."""
    prefixes = f'local RQ, SERVICE, CHANNELS = "{RQ}", "{SERVICE}", "{channels}"\n'
    return prefixes + "".join((FOLDER / f"{each}.lua").read_text() for each in ("prelude", "webhook", name))


class Scripts:
    """The scripts of one client; `scripts.turn(keys=..., args=...)` runs lua/turn.lua in one round trip."""

    def __init__(self, connection: redis.Redis) -> None:
        self._connection = connection
        self._channels = Channels(connection).prefix
        # Connections of these scripts, for whichever thread comes next; by process: a child must not use its parent's.
        self._free: dict[int, list[Any]] = defaultdict(list)

    def __getattr__(self, name: str) -> Any:
        script: Any = Script(self._connection, source(name, self._channels))
        if type(self._connection) is redis.Redis:  # no pipeline, and no fake
            script = _Direct(script, self._connection, self._free)
        setattr(self, name, script)
        return script


class _Direct:
    """A script that is sent as redis-py 8.1 sends a command, with its retries, and without its other ado.

    That took longer than the rest of a submit in the store: client.py _execute_command counts each command for
    observers, connection.py HiredisRespSerializer.pack looks at each argument, and a pool has locks and looks whether
    there is something to read. Connections are taken from the pool and kept here: each is looked at when it is used.
    """

    def __init__(self, script: Script, connection: redis.Redis, free: dict[int, list[Any]]) -> None:
        self._script = script
        self._pool = connection.connection_pool
        self._free = free

    def __call__(self, keys: Sequence[Any] = (), args: Sequence[Any] = (), client: Any = None) -> Any:
        """Its answer. Raises RedisError."""
        if client is not None:
            return self._script(keys=keys, args=args, client=client)
        request = [hiredis.pack_command(("EVALSHA", self._script.sha, len(keys), *keys, *args))]
        free = self._free[os.getpid()]
        try:
            connection = free.pop()
        except IndexError:
            connection = self._pool.get_connection()

        def ask() -> Any:
            connection.send_packed_command(request)
            return connection.read_response()

        try:
            return connection.retry.call_with_retry(ask, lambda _: connection.disconnect())
        except redis.exceptions.NoScriptError:
            pass
        finally:
            free.append(connection)
        return self._script(keys=keys, args=args)  # which loads it


def readable(answers: Iterable[Any]) -> Iterator[Any]:
    """The answers of a pipeline; None for a key that somebody has made something else of: it must not hide the others.

    Raises what else Redis has answered instead.
    """
    for answer in answers:
        if isinstance(answer, Exception) and not str(answer).startswith("WRONGTYPE"):
            raise answer
        yield None if isinstance(answer, Exception) else answer
