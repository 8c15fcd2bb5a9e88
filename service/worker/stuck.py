"""A work-horse that begins nothing: what an earlier job left in it, such as a thread in C code, holds it."""

from __future__ import annotations

import math
from collections.abc import Iterable

from service.worker.held import Held
from service.worker.main_lane import MainLane
from service.worker.work_horse import WorkHorse

STUCK_AFTER = 5.0
"""Seconds in which one that does nothing else begins what it is given, on the slowest of machines."""
WHY = "it did not begin what it was given"
HELD = "what a job has left in it holds it"


def stuck_at(lane: MainLane, on_event_loop: Iterable[Held]) -> float:
    """When to look whether it is stuck, as time.monotonic(); infinity while something runs that it has begun."""
    given, current = list(on_event_loop), lane.current
    if any(held.begun_at is not None for held in given) or (current is not None and current.taken):
        return math.inf
    times = [held.given_at for held in given]
    if current is not None and current.begun_at is not None:
        times.append(current.begun_at)
    return min(times, default=math.inf) + STUCK_AFTER


def is_untaken(lane: MainLane, horse: WorkHorse) -> bool:
    """Whether the work-horse has not even begun the unit that is held to run."""
    current = lane.current
    if current is None:
        return True
    current.taken = current.taken or horse.untaken < len(lane)
    return not current.taken
