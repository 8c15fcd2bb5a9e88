"""Hands out the Lua scripts by name: lua/<name>.lua, with what they share before it."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import redis
from redis.commands.core import Script

FOLDER = Path(__file__).parent / "lua"


@cache
def source(name: str) -> str:
    """The text of a script."""
    return "".join((FOLDER / f"{each}.lua").read_text() for each in ("prelude", "webhook", name))


class Scripts:
    """The scripts of one client; `scripts.turn(keys=..., args=...)` runs lua/turn.lua in one round trip."""

    def __init__(self, connection: redis.Redis) -> None:
        self._connection = connection

    def __getattr__(self, name: str) -> Any:
        script = Script(self._connection, source(name))
        setattr(self, name, script)
        return script
