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
from pydantic_core import from_json

from service.own_json import dumps as dumps
from service.store import keys
from service.store.clock import now, rfc3339

TERMINAL = frozenset({"finished", "failed", "stopped", "canceled"})
TYPES = TERMINAL | {"queued", "scheduled", "started", "progress", "output", "log", "retrying"}
"""What the log of a job may hold; a watcher also gets `snapshot`, `gap` and `error`, which are made for it."""
BEGINNING = "0-0"
LARGEST_INLINE_OUTPUT = 64 * 1024
"""A finished event carries the output if it is at most this many bytes of JSON, else a link to it."""

_CHECKED = 64 * 1024  # bytes: to read more of JSON would hold up all others
_MESSAGE = re.compile(rb"([0-9]{1,20})-([0-9]{1,20}) ([A-Za-z]{1,40}) (\{.*\})", re.DOTALL)
_TYPE = re.compile("[A-Za-z]{1,40}")  # of any: a newer worker may tell more than TYPES
_CURSOR = re.compile(r"[0-9]{1,19}(-[0-9]{1,19})?")


class InvalidCursor(ValueError):
    """This is no id of an event: `<milliseconds>-<sequence>`."""


class UnreadableEvent(ValueError):
    """This is no event of ours: it has no id, type or data, or its data is no JSON object."""


class Event:
    """One event; `data` is JSON text, `id` is the cursor to go on from, `order` what ids sort by."""

    __slots__ = ("_encode", "_encoded", "_time", "data", "id", "job_id", "order", "type")

    def __init__(
        self, id: str, job_id: str, type: str, data: str, time: str = "", place: tuple[int, int] | None = None
    ) -> None:
        self.id = id
        self.job_id = job_id
        self.type = type
        self.data = data
        self.order = place or order(id)
        self._time = time
        self._encode: Callable[[Event], bytes] | None = None
        self._encoded = b""

    @property
    def readable(self) -> bool:
        """Whether there is something to tell. An entry of the log that cannot be read has only its place there."""
        return bool(self.type)

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
        what = f'{{"id":"{self.id}","job_id":"{self.job_id}","type":"{self.type}","time":"'
        return f'{what}{self.time}","data":{self.data}}}'

    def encoded(self, encode: Callable[[Event], bytes]) -> bytes:
        """The event in the form of a transport, made once for all its watchers."""
        if self._encode is not encode:
            self._encode, self._encoded = encode, encode(self)
        return self._encoded


def told(cursor: str, job_id: str, type: str, data: Any) -> Event:
    """An event that is made for a watcher and is in no log; its id is the cursor to go on from."""
    return Event(cursor, job_id, type, dumps(data), now().rfc3339)


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
    """The event from what prelude.lua's emit published. Raises UnreadableEvent: anybody may publish."""
    found = _MESSAGE.fullmatch(message)
    if found is None:
        raise UnreadableEvent(f"{message[:80]!r} is no event")
    milliseconds, sequence, kind, data = found.groups()
    try:
        _check(data)
        text = data.decode()
    except (ValueError, RecursionError) as error:
        raise UnreadableEvent(f"{message[:80]!r}: {error}") from None
    event_id = f"{milliseconds.decode()}-{sequence.decode()}"
    return Event(event_id, job_id, kind.decode(), text, "", (int(milliseconds), int(sequence)))


def read(connection: redis.Redis, job_id: str, after: str, count: int = 500) -> list[Event]:
    """Up to `count` events of a job's log that follow the cursor `after`, oldest first. One round trip."""
    entries: Any = connection.xrange(keys.events(job_id), min=f"({after}", count=count)
    return [_event(job_id, event_id, fields) for event_id, fields in entries]


def outputs(connection: redis.Redis, job_id: str, until: str, most: int) -> list[Any] | None:
    """What a job that runs has put out, in its latest try, up to the event `until`; None if that is more than `most`
    characters of JSON. A round trip for each 100 events."""
    found: list[Any] = []
    size = 0
    newest = until
    while True:
        entries: Any = connection.xrevrange(keys.events(job_id), max=newest, count=100)
        for event_id, fields in entries:
            event = _event(job_id, event_id, fields)
            if event.type == "started":
                return found[::-1]
            if event.type == "output":
                size += len(event.data)
                if size > most:
                    return None
                found.append(json.loads(event.data).get("output"))
        if len(entries) < 100:
            return found[::-1]  # the beginning was trimmed away
        newest = f"({entries[-1][0].decode()}"


def parse_entry(job_id: str, entry: list[Any]) -> Event:
    """The event from an entry of the Stream, as a script returns it."""
    event_id, flat = entry
    return _event(job_id, event_id, dict(zip(flat[::2], flat[1::2], strict=True)))


def _event(job_id: str, event_id: bytes, fields: dict[bytes, bytes]) -> Event:
    # One that cannot be read keeps its place, so that all who read the log pass it over alike.
    try:
        kind, data = fields[b"type"].decode(), fields[b"data"].decode()
        if not (_TYPE.fullmatch(kind) and data[:1] == "{" and data[-1:] == "}"):
            raise ValueError("no type, or no object")
        _check(fields[b"data"])
    except (ValueError, KeyError, RecursionError):
        kind, data = "", "null"
    return Event(event_id.decode(), job_id, kind, data)


def _check(data: bytes) -> None:
    """Raise ValueError if this, which has the braces of a JSON object, is none. A large one is not looked at."""
    if len(data) > _CHECKED:
        return
    try:
        from_json(data, allow_inf_nan=False)  # in half the time of json
    except ValueError:
        json.loads(data, parse_constant=_refuse)  # takes lone surrogates, which a model may have told


def _refuse(name: str) -> None:
    raise ValueError(f"{name} is no JSON")


@lru_cache(maxsize=64)
def _second(unix: str) -> str:
    return rfc3339(int(unix))[:19]
