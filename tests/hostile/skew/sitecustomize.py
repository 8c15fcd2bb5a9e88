"""A host whose clock is off: on the PYTHONPATH of a process, it adds the number in the file CLOCK to the time of day.

The file holds one double, seconds, and may change at any moment. Monotonic clocks stay as they are, as on a real
host whose time is set.
"""

from __future__ import annotations

import datetime
import mmap
import os
import struct
import time
from pathlib import Path
from typing import Any

true = datetime.datetime
true_time, true_ns, true_clock = time.time, time.time_ns, time.clock_gettime
true_gmtime, true_localtime = time.gmtime, time.localtime
shared: Any = bytes(8)


def offset() -> float:
    return float(struct.unpack_from("d", shared)[0])


def now() -> float:
    return true_time() + offset()


class Instances(type):
    """What is true is an instance."""

    def __instancecheck__(cls, instance: Any) -> bool:
        return isinstance(instance, true)

    def __subclasscheck__(cls, subclass: type) -> bool:
        return issubclass(subclass, true)


class Datetime(true, metaclass=Instances):
    """Makes true datetimes, of a false moment."""

    def __new__(cls, *arguments: Any, **named: Any) -> Any:
        return true(*arguments, **named)

    @classmethod
    def now(cls, tz: Any = None) -> Any:
        return true.fromtimestamp(now(), tz)

    @classmethod
    def utcnow(cls) -> Any:
        return true.fromtimestamp(now(), datetime.UTC).replace(tzinfo=None)


def _install(path: str) -> None:
    global shared
    with Path(path).open("rb") as file:
        shared = mmap.mmap(file.fileno(), 8, access=mmap.ACCESS_READ)
    for name in ("fromtimestamp", "utcfromtimestamp", "fromisoformat", "strptime", "combine", "fromordinal"):
        setattr(Datetime, name, staticmethod(getattr(true, name)))
    time.time = now
    time.time_ns = lambda: true_ns() + int(offset() * 1e9)
    time.clock_gettime = lambda clock: now() if clock == time.CLOCK_REALTIME else true_clock(clock)
    time.gmtime = lambda seconds=None: true_gmtime(now() if seconds is None else seconds)
    time.localtime = lambda seconds=None: true_localtime(now() if seconds is None else seconds)
    datetime.datetime = Datetime


if "CLOCK" in os.environ:
    _install(os.environ["CLOCK"])
