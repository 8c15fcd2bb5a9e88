"""Keys of this service that somebody else has made something else of: set aside, so that they stop nobody.

What was in such a key stays there, under its name with `:unreadable` behind it, for whoever wants to look.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable

import redis

from service.store import keys

log = logging.getLogger("service.recovery")

_REGISTRIES = ("wip", "scheduled", "finished", "failed", "canceled")


def set_foreign_keys_aside(connection: redis.Redis, models: Iterable[str]) -> None:
    """Look at all keys that many jobs share. One round trip, and one for each that is foreign."""
    wanted = dict(_types(models))
    with connection.pipeline(transaction=False) as pipeline:
        for key in wanted:
            pipeline.type(key)
        answers = pipeline.execute()
    for (key, kind), answer in zip(wanted.items(), answers, strict=True):
        if answer not in (b"none", kind.encode()):
            log.error("a key is not what it should be; it is set aside", extra={"key": key, "type": answer.decode()})
            connection.rename(key, f"{key}:unreadable")


def drop_foreign_members(connection: redis.Redis, key: str, members: Iterable[bytes]) -> list[str]:
    """Those members of a sorted set that are ids of jobs; the others are taken out of it, and logged."""
    good = []
    for member in members:
        if keys.JOB_ID.fullmatch(member.partition(b":")[0]) and member.isascii():
            good.append(member.decode())
        else:
            log.error("a member that is no job's id is dropped", extra={"key": key, "member": repr(member[:80])})
            connection.zrem(key, member)
    return good


def _types(models: Iterable[str]) -> Iterable[tuple[str, str]]:
    yield from ((keys.JOBS, "zset"), (keys.START_DEADLINES, "zset"), (keys.MODELS, "hash"), (keys.PAUSED, "set"))
    yield from ((keys.QUEUES, "set"), (keys.WORKERS, "set"), (keys.RECOVERY, "string"), (keys.RENEWED, "zset"))
    for model in models:
        yield from ((keys.jobs_of(model), "zset"), (keys.serving(model), "hash"))
        for queue in keys.queues_of(model):
            yield keys.queue(queue), "list"
            yield from ((keys.registry(each, queue), "zset") for each in _REGISTRIES)
