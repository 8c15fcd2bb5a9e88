"""Points in time, in the forms that Redis, RQ and HTTP want."""

from __future__ import annotations

import time
from datetime import UTC, datetime
from typing import NamedTuple


class Now(NamedTuple):
    """One moment: `unix` seconds, as RQ writes it, and as RFC 3339."""

    unix: float
    rq: str
    rfc3339: str


def now() -> Now:
    """This moment."""
    unix = time.time()
    text = datetime.fromtimestamp(unix, UTC).isoformat(timespec="microseconds")
    return Now(unix, f"{text[:26]}Z", f"{text[:23]}Z")  # the first as rq.utils.utcformat writes it


def rfc3339(unix: float) -> str:
    """A unix time as RFC 3339 in UTC, with milliseconds."""
    return datetime.fromtimestamp(unix, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def to_unix(text: str | None) -> float:
    """An RFC 3339 time as unix time; 0 if it is none."""
    try:
        return datetime.fromisoformat(text).timestamp() if text else 0.0
    except ValueError:
        return 0.0


def from_rq(text: str | None) -> str | None:
    """A time that RQ wrote, `2026-01-31T12:00:00.123456Z`, as RFC 3339 with milliseconds."""
    return f"{text[:23]}Z" if text else None
