"""The event log: one Redis Stream per job, the only thing a watcher reads.

Ids of a job's events only grow, and the last one is its terminal event: a reader that has seen it is
done. An event looks the same over every transport: {"id", "job_id", "type", "time", "data"}.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import redis

from service.store import keys
from service.store.clock import rfc3339

TERMINAL = frozenset({"finished", "failed", "stopped", "canceled"})
BEGINNING = "0-0"
LARGEST_INLINE_OUTPUT = 64 * 1024
"""A finished event carries the output if it is at most this many bytes of JSON, else a link to it."""

_CURSOR = re.compile(r"[0-9]{1,19}(-[0-9]{1,19})?")


class InvalidCursor(ValueError):
    """This is no id of an event: `<milliseconds>-<sequence>`."""


@dataclass(frozen=True)
class Event:
    """One event; `data` is JSON text, `id` is the cursor to go on from."""

    id: str
    job_id: str
    type: str
    data: str
    time: str = ""

    @property
    def terminal(self) -> bool:
        return self.type in TERMINAL

    @cached_property
    def text(self) -> str:
        """The event as JSON, encoded once for all its watchers."""
        time = self.time or rfc3339(int(self.id.split("-")[0]) / 1000)
        return f'{{"id":"{self.id}","job_id":"{self.job_id}","type":"{self.type}","time":"{time}","data":{self.data}}}'


def dumps(value: Any) -> str:
    """Compact JSON in ASCII. Raises ValueError on NaN and Infinity, TypeError on what JSON has no form for."""
    return json.dumps(value, separators=(",", ":"), allow_nan=False)


def cursor(text: str) -> str:
    """Check what a client sent as its cursor. Raises InvalidCursor."""
    if not _CURSOR.fullmatch(text):
        raise InvalidCursor(f"after is {text[:64]!r}: expected the id of an event, <milliseconds>-<sequence>, or 0")
    return text if "-" in text else f"{text}-0"


def order(event_id: str) -> tuple[int, int]:
    """What an id sorts by."""
    milliseconds, _, sequence = event_id.partition("-")
    return int(milliseconds), int(sequence or 0)


def parse_message(job_id: str, message: bytes) -> Event:
    """The event from what prelude.lua's emit published."""
    event_id, kind, data = message.decode().split(" ", 2)
    return Event(event_id, job_id, kind, data)


def read(connection: redis.Redis, job_id: str, after: str, count: int = 500) -> list[Event]:
    """Up to `count` events of a job's log that follow the cursor `after`, oldest first. One round trip."""
    entries: Any = connection.xrange(keys.events(job_id), min=f"({after}", count=count)
    return [
        Event(event_id.decode(), job_id, fields[b"type"].decode(), fields[b"data"].decode())
        for event_id, fields in entries
    ]
