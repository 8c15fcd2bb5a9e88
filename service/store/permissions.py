"""What our user of Redis must be allowed to do, tried when a process starts: Lua has no rollback, so a script that is
refused in its middle leaves half of what it does.

Everything is queued in a transaction that is discarded: Redis looks at the permissions, and does nothing.
Source: redis.io, "ACL"; the replies as Redis 6.2 to 7.4 and Valkey 9.1 give them.
"""

# mypy: allow-untyped-calls
# (redis-py's connections carry no types)

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

import redis

from service.store import keys

ON_KEYS: dict[str, tuple[str, ...]] = {
    **dict.fromkeys(("DEL", "EXISTS", "PERSIST", "TTL", "TYPE", "GET", "HGETALL", "HKEYS", "LLEN", "LPOP"), ()),
    **dict.fromkeys(("SCARD", "SMEMBERS", "WATCH", "XLEN", "ZCARD"), ()),
    **dict.fromkeys(("HDEL", "HEXISTS", "HGET", "HMGET", "LPOS", "LPUSH", "RPUSH", "SADD", "SET"), ("x",)),
    "LINDEX": ("0",),
    "RENAME": (keys.job("probe"),),
    **dict.fromkeys(("SISMEMBER", "SREM", "ZREM", "ZSCORE"), ("x",)),
    **dict.fromkeys(("HSET", "HSETNX"), ("x", "x")),
    **dict.fromkeys(("HINCRBY", "HINCRBYFLOAT"), ("x", "1")),
    **dict.fromkeys(("LRANGE", "ZRANGE", "ZRANGEBYSCORE", "ZREMRANGEBYSCORE", "ZREVRANGEBYSCORE"), ("0", "0")),
    **dict.fromkeys(("EXPIRE", "ZSCAN"), ("0",)),
    **dict.fromkeys(("LREM", "ZADD"), ("0", "x")),
    "XADD": ("*", "x", "x"),
    "XRANGE": ("-", "+"),
    "XREVRANGE": ("+", "-"),
}
"""Commands whose first argument is a key, and what may follow it."""

OTHERS = (
    *(("PING",), ("TIME",), ("UNWATCH",), ("UNSUBSCRIBE",)),
    *(("EVAL", "return 1", "0"), ("EVALSHA", "0" * 40, "0"), ("SCRIPT LOAD", "return 1"), ("SCRIPT EXISTS", "0" * 40)),
)

_COMMAND = re.compile(r"run the '([^']+)' command")


def missing(connection: redis.Redis) -> list[str]:
    """What our user lacks, as rules of ACL SETUSER: `+xadd`, `~rq:*`, `&service:*`. Two round trips.

    Raises RedisError.
    """
    link = connection.connection_pool.get_connection()
    try:
        begun = _replies(link, [("MULTI",)])
        if isinstance(begun[0], Exception):  # without it all would be done
            return _rules([(("MULTI",), begun[0])])
        tried = [*_on_keys(), *_on_channels(keys.Channels(connection)), *OTHERS]
        replies = _replies(link, [*tried, ("DISCARD",), ("EXEC",)])
        return _rules(zip([*tried, ("DISCARD",), ("EXEC",)], replies, strict=True))
    finally:
        link.disconnect()
        connection.connection_pool.release(link)


def user(connection: redis.Redis) -> str:
    """The name of our user."""
    name = connection.get_connection_kwargs().get("username") or "default"
    try:
        return str(connection.acl_whoami() or name)
    except redis.exceptions.RedisError:
        return str(name)


def rule_of(refusal: str) -> str:
    """The rule that lifts a refusal of a command, where Redis names it; else nothing."""
    named = _COMMAND.search(refusal)
    return f"+{named[1]}" if named else ""


def _on_keys() -> Iterable[tuple[str, ...]]:
    samples = [*keys.lifecycle("probe"), keys.QUEUES, keys.WORKERS, keys.SUSPENDED, keys.queue("probe")]
    samples += [keys.registry("wip", "probe"), keys.execution("probe", "probe"), keys.executions("probe")]
    samples += [keys.worker("probe"), keys.MODELS, keys.jobs_of("probe"), keys.granted("probe"), keys.serving("probe")]
    samples += [keys.idempotency("probe")]
    for key in (keys.job("probe"), keys.events("probe")):  # one of RQ's and one of ours
        yield from ((command, key, *more) for command, more in ON_KEYS.items())
    for key in samples:
        yield from ((command, key, *ON_KEYS[command]) for command in ("EXISTS", "SET"))


def _on_channels(channels: keys.Channels) -> Iterable[tuple[str, ...]]:
    own = (channels.events("probe"), channels.wake, channels.submitted, channels.commands("probe"))
    for channel in (*own, keys.rq_commands("probe")):
        yield from (("PUBLISH", channel, "x"), ("SUBSCRIBE", channel))


def _replies(link: Any, commands: list[tuple[str, ...]]) -> list[Any]:
    link.send_packed_command(link.pack_commands(commands))
    replies: list[Any] = []
    for _ in commands:
        try:
            replies.append(link.read_response())
        except redis.exceptions.ResponseError as error:
            replies.append(error)
    return replies


def _rules(tried: Iterable[tuple[tuple[str, ...], Any]]) -> list[str]:
    rules: dict[str, None] = {}
    for (command, *arguments), reply in tried:
        text = str(reply) if isinstance(reply, redis.exceptions.ResponseError) else ""
        name = command.lower().replace(" ", "|")
        if text.lower().startswith("unknown command"):
            rules[f"+{name} (it is renamed or disabled)"] = None
        elif getattr(reply, "code", "") == "NOPERM":
            # The name of a command may have "key" in it.
            refused = "command" if "access" not in text else "channel" if "channel" in text else "key"
            space = arguments[0].partition(":")[0] if arguments else ""
            rules[{"command": f"+{name}", "channel": f"&{space}:*", "key": f"~{space}:*"}[refused]] = None
    return list(rules)
