"""Memory: whether there is room for another process like one, the most that this one has had, and whether the kernel
killed one for want of it."""

from __future__ import annotations

import resource
import sys
from collections.abc import Iterator
from pathlib import Path

SPARE = 256 * 2**20
"""Bytes that are left free for what else a model needs."""
_ACCELERATORS = ("/dev/nvidia", "/dev/kfd", "/dev/dri", "/dev/accel")


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


def has_room_for(pid: int, memory: int, root: Path = Path("/")) -> bool:
    """Whether a second process like this one, which has so many bytes, fits into the memory that is free.

    False for one that uses an accelerator: how much of that is free nobody here can tell. True where nobody says.
    """
    if _uses_accelerator(root / f"proc/{pid}/fd"):
        return False
    return min([*_free_of_machine(root), *_free_of_group(root)], default=memory + SPARE) >= memory + SPARE


def _uses_accelerator(descriptors: Path) -> bool:
    try:
        targets = [str(each.readlink()) for each in descriptors.iterdir()]
    except OSError:
        return False
    return any(target.startswith(_ACCELERATORS) for target in targets)


def _free_of_machine(root: Path) -> Iterator[int]:
    try:
        for line in (root / "proc/meminfo").read_text().splitlines():
            if line.startswith("MemAvailable:"):
                yield int(line.split()[1]) * 1024
    except (OSError, ValueError, IndexError):
        return


def _free_of_group(root: Path) -> Iterator[int]:
    for file in _files(root, ("memory.max", "memory.limit_in_bytes")):
        used = file.with_name("memory.current" if file.name == "memory.max" else "memory.usage_in_bytes")
        try:
            yield int(file.read_text()) - int(used.read_text()) + _reclaimable(file.with_name("memory.stat"))
        except (OSError, ValueError):  # "max", say
            continue


def _reclaimable(stat: Path) -> int:
    """Bytes of files that the kernel keeps in memory as long as nobody needs it."""
    lines = (line.split() for line in stat.read_text().splitlines())
    return sum(int(value) for name, value in lines if name in ("inactive_file", "total_inactive_file"))


def _counters(root: Path) -> Iterator[Path]:
    """The files that may have the count."""
    return _files(root, ("memory.events", "memory.oom_control"))


def _files(root: Path, names: tuple[str, str]) -> Iterator[Path]:
    """A file of this process's control group, as version 2 and version 1 call it: where each hierarchy is mounted."""
    try:
        places = [line.split(":", 2) for line in (root / "proc/self/cgroup").read_text().splitlines()]
        mounts = [line.split() for line in (root / "proc/self/mountinfo").read_text().splitlines()]
    except OSError:
        return
    for _, controllers, place in places:
        if controllers and "memory" not in controllers.split(","):
            continue
        kind, file = ("cgroup", names[1]) if controllers else ("cgroup2", names[0])
        for mount in mounts:
            # id, parent, device, root of the mount, where it is mounted, ..., -, type, source, options
            if mount[mount.index("-") + 1] == kind and (kind == "cgroup2" or "memory" in mount[-1].split(",")):
                inside = place.removeprefix(mount[3].rstrip("/")).lstrip("/")
                yield root / mount[4].lstrip("/") / inside / file
