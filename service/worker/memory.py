"""Memory: whether the kernel killed a process for want of it, and the most that this one has had."""

from __future__ import annotations

import resource
import sys
from collections.abc import Iterator
from pathlib import Path


def oom_kills(root: Path = Path("/")) -> int | None:
    """How many processes of this control group were killed so far for want of memory; None where nobody counts.

    Source: proc(5), cgroups(7); memory.events of version 2, memory.oom_control of version 1. `root`: where /proc is.
    """
    for path in _counters(root):
        try:
            lines = path.read_text().splitlines()
        except OSError:
            continue
        for line in lines:
            name, _, value = line.partition(" ")
            if name == "oom_kill":
                return int(value)
    return None


def most_resident() -> int:
    """The most memory that this process has had at once, in bytes.

    Not by getrusage(2) where there is proc(5): what its parent had, when it started this one, counts there too.
    """
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM:"))
    except (OSError, StopIteration):
        most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return most if sys.platform == "darwin" else most * 1024


def _counters(root: Path) -> Iterator[Path]:
    """The files that may have the count: where each hierarchy is mounted, at this process's place in it."""
    try:
        places = [line.split(":", 2) for line in (root / "proc/self/cgroup").read_text().splitlines()]
        mounts = [line.split() for line in (root / "proc/self/mountinfo").read_text().splitlines()]
    except OSError:
        return
    for _, controllers, place in places:
        if controllers and "memory" not in controllers.split(","):
            continue
        kind, file = ("cgroup", "memory.oom_control") if controllers else ("cgroup2", "memory.events")
        for mount in mounts:
            # id, parent, device, root of the mount, where it is mounted, ..., -, type, source, options
            if mount[mount.index("-") + 1] == kind and (kind == "cgroup2" or "memory" in mount[-1].split(",")):
                inside = place.removeprefix(mount[3].rstrip("/")).lstrip("/")
                yield root / mount[4].lstrip("/") / inside / file
