"""The event log: one Redis Stream per job, the only thing a watcher reads.

Ids of a job's events only grow, and the last one is its terminal event: a reader that has seen it is
done. An event looks the same over every transport: {"id", "job_id", "type", "time", "data"}.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from functools import lru_cache
from typing import Any

import redis

from service.store import keys
from service.store.clock import now, rfc3339

TERMINAL = frozenset({"finished", "failed", "stopped", "canceled"})
TYPES = TERMINAL | {"queued", "scheduled", "started", "progress", "output", "log", "retrying"}
"""What the log of a job may hold; a watcher also gets `snapshot`, `gap` and `error`, which are made for it."""
BEGINNING = "0-0"
LARGEST_INLINE_OUTPUT = 64 * 1024
"""A finished event carries the output if it is at most this many bytes of JSON, else a link to it."""

_ENCODER = json.JSONEncoder(separators=(",", ":"), allow_nan=False)  # json.dumps would make one each time
_CURSOR = re.compile(r"[0-9]{1,19}(-[0-9]{1,19})?")


class InvalidCursor(ValueError):
    """This is no id of an event: `<milliseconds>-<sequence>`."""


class Event:
    """One event; `data` is JSON text, `id` is the cursor to go on from, `order` what ids sort by."""

    __slots__ = ("_encode", "_encoded", "_time", "data", "id", "job_id", "order", "type")

    def __init__(self, id: str, job_id: str, type: str, data: str, time: str = "") -> None:
        self.id = id
        self.job_id = job_id
        self.type = type
        self.data = data
        self.order = order(id)
        self._time = time
        self._encode: Callable[[Event], bytes] | None = None
        self._encoded = b""

    @property
    def terminal(self) -> bool:
        return self.type in TERMINAL

    @property
    def time(self) -> str:
        """When it was told, RFC 3339."""
        if self._time:
            return self._time
        milliseconds = self.id.partition("-")[0].rjust(4, "0")
        return f"{_second(milliseconds[:-3])}.{milliseconds[-3:]}Z"

    @property
    def text(self) -> str:
        """The event as JSON, in ASCII."""
        what = f'"id":"{self.id}","job_id":"{self.job_id}","type":"{self.type}"'
        return f'{{{what},"time":"{self.time}","data":{self.data}}}'

    def encoded(self, encode: Callable[[Event], bytes]) -> bytes:
        """The event in the form of a transport, made once for all its watchers."""
        if self._encode is not encode:
            self._encode, self._encoded = encode, encode(self)
        return self._encoded


def told(cursor: str, job_id: str, type: str, data: Any) -> Event:
    """An event that is made for a watcher and is in no log; its id is the cursor to go on from."""
    return Event(cursor, job_id, type, dumps(data), now().rfc3339)


def dumps(value: Any) -> str:
    """Compact JSON in ASCII. Raises ValueError on NaN and Infinity, TypeError on what JSON has no form for."""
    return _ENCODER.encode(value)


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
    return [_event(job_id, event_id, fields) for event_id, fields in entries]


def outputs(connection: redis.Redis, job_id: str, until: str) -> list[Any]:
    """What a job that runs has put out, in its latest try, up to the event `until`. A round trip for 500 events."""
    found: list[Any] = []
    newest = until
    while True:
        entries: Any = connection.xrevrange(keys.events(job_id), max=newest, count=500)
        for event_id, fields in entries:
            event = _event(job_id, event_id, fields)
            if event.type == "started":
                return found[::-1]
            if event.type == "output":
                found.append(json.loads(event.data)["output"])
        if len(entries) < 500:
            return found[::-1]  # the beginning was trimmed away
        newest = f"({entries[-1][0].decode()}"


def parse_entry(job_id: str, entry: list[Any]) -> Event:
    """The event from an entry of the Stream, as a script returns it."""
    event_id, flat = entry
    return _event(job_id, event_id, dict(zip(flat[::2], flat[1::2], strict=True)))


def _event(job_id: str, event_id: bytes, fields: dict[bytes, bytes]) -> Event:
    return Event(event_id.decode(), job_id, fields[b"type"].decode(), fields[b"data"].decode())


@lru_cache(maxsize=64)
def _second(unix: str) -> str:
    return rfc3339(int(unix))[:19]
