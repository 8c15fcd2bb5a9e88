"""Points in time, in the forms that Redis, RQ and HTTP want."""

from __future__ import annotations

import threading
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


class RedisClock:
    """Redis's time as it was last read, carried on by the monotonic clock: no host's own clock is compared with it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._read = (time.time(), time.monotonic())
        self.host_ahead = 0.0
        """Seconds by which the clock of this host is ahead of Redis's, as it was last seen."""

    def read(self, unix: float, asked_at: float) -> None:
        """Redis says that it was this time after it was asked, at `asked_at` by time.monotonic().

        So this clock is ahead by as long as the answer took at the most, and never behind: what happened later is not
        given an earlier time.
        """
        with self._lock:
            self._read = unix, asked_at
            self.host_ahead = time.time() - unix - (time.monotonic() - asked_at)

    @property
    def unix(self) -> float:
        with self._lock:
            unix, moment = self._read
        return unix + time.monotonic() - moment

    @property
    def rfc3339(self) -> str:
        return rfc3339(self.unix)


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
