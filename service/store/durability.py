"""Whether a Redis keeps what it is given: settings of its own that would break the promise that accepted is kept."""

from __future__ import annotations

from typing import Any

import redis

from service.store import keys
from service.store.refusal import NotNow
from service.store.scripts import Scripts

PROBE_TTL = 60
"""Seconds for which what was written as a probe is kept."""


def warnings(connection: redis.Redis) -> list[str]:
    """What this Redis may lose and why, a sentence each; none if it is set well. Raises RedisError.

    Source: redis.io, "Redis persistence" and "Key eviction".
    """
    try:
        persistence: Any = connection.info("persistence")
        memory: Any = connection.info("memory")
    except NotNow as refused:
        if refused.code != "NOPERM":
            raise
        return ["our user of Redis may not use INFO: whether what is accepted may be lost cannot be said; add +info"]
    found = []
    policy = str(memory.get("maxmemory_policy", "noeviction"))
    if policy != "noeviction":
        found.append(f"maxmemory-policy is {policy}: when memory is short Redis drops jobs; set it to noeviction")
    if not int(persistence.get("aof_enabled", 0)):
        found.append(
            "appendonly is no: if Redis is killed, what was accepted since its last snapshot is lost; set it to yes"
        )
    elif persistence.get("aof_last_write_status", "ok") != "ok":
        found.append("the append-only file cannot be written: is the disk full?")
    elif _setting(connection, "appendfsync") == "no":
        found.append("appendfsync is no: if the machine dies, the last 30 s are lost; set it to everysec")
    return found


def take_a_write(connection: redis.Redis) -> None:
    """Write what nobody reads, as our scripts do. Raises RedisError: only so it is seen that Redis refuses that."""
    Scripts(connection).probe(keys=[keys.PROBE], args=[PROBE_TTL])


def _setting(connection: redis.Redis, name: str) -> str:
    try:
        return str(connection.config_get(name).get(name, ""))
    except redis.exceptions.ResponseError:  # managed ones hide it
        return ""
