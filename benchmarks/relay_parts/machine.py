"""Cores: who runs where, and how busy each is."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

TICKS = os.sysconf("SC_CLK_TCK")


def cores() -> tuple[int, int]:
    """The one for the server that is measured, and the one for Redis and all that makes load."""
    usable = sorted(os.sched_getaffinity(0))
    if len(usable) < 2:
        sys.exit("error: two cores are needed, one for the server and one for what loads it")
    return usable[0], usable[1]


SERVER_CORE, LOAD_CORE = cores()


@contextlib.contextmanager
def on_core(core: int) -> Iterator[None]:
    """What is started within it runs on one core, with all its threads and children."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {core})
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def cpu(pids: Iterable[int]) -> float:
    """Seconds of CPU that processes, and children of theirs that are over, have used."""
    total = 0
    for pid in pids:
        with contextlib.suppress(OSError):
            # proc(5): fields 14 to 17; the name in parentheses before them may hold spaces.
            fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
            total += sum(map(int, fields[11:15]))
    return total / TICKS


def busy(core: int) -> float:
    """Seconds in which a core has worked, for whomever."""
    for line in Path("/proc/stat").read_text().splitlines():
        name, *fields = line.split()
        if name == f"cpu{core}":
            user, nice, system, _idle, _wait, irq, softirq, stolen = map(int, fields[:8])
            return (user + nice + system + irq + softirq + stolen) / TICKS
    return 0.0


def threads(pids: Iterable[int]) -> int:
    """How many threads processes have."""
    count = 0
    for pid in pids:
        with contextlib.suppress(OSError):
            count += len(os.listdir(f"/proc/{pid}/task"))
    return count
