"""The main lane: the units that a work-horse was given, of which it runs the first.

A short job costs less than a round trip to Redis, so short ones are taken several at a time, as many as
the model's recent jobs say will run in a few milliseconds, and the next are taken while the last ones
run. What waits behind a job that turns out to be long is taken back.
"""

from __future__ import annotations

import math
import time
from collections import deque

from service.worker.held import Held, Unit
from service.worker.link import Message
from service.worker.work_horse import WorkHorse

GRANT = 0.008
"""Seconds of work that are taken at a time."""
MOST_AT_ONCE = 64
LONGEST_LEAD = 0.05
LATE = 0.05
"""A unit that runs for so much longer than its model's usually do is a long one."""


class Durations:
    """How long the recent units of each model took, in seconds."""

    def __init__(self) -> None:
        self._averages: dict[str, float] = {}

    def add(self, model: str, seconds: float) -> None:
        average = self._averages.get(model, seconds)
        self._averages[model] = average + 0.2 * (seconds - average)

    def of(self, model: str) -> float:
        """Infinity for a model that has not run yet."""
        return self._averages.get(model, math.inf)

    def share(self, model: str) -> float:
        """How much of a grant a job of the model takes, from 1 / MOST_AT_ONCE to 1."""
        return min(1.0, max(1 / MOST_AT_ONCE, self.of(model) / GRANT))


class MainLane:
    """The units of one work-horse's main lane."""

    def __init__(self, durations: Durations) -> None:
        self._durations = durations
        self._units: deque[Unit] = deque()

    def __len__(self) -> int:
        return len(self._units)

    @property
    def current(self) -> Unit | None:
        """The unit that runs."""
        return self._units[0] if self._units else None

    @property
    def jobs(self) -> set[Held]:
        """All jobs that the work-horse has."""
        return {held for unit in self._units for held in unit.jobs}

    def loading(self, model: str) -> bool:
        """Whether a model is being loaded, or will be."""
        return any(unit.kind == "setup" and unit.model == model for unit in self._units)

    def give(self, horse: WorkHorse, *units: Unit) -> None:
        """Have the work-horse run units, one after another, when it has run those before."""
        self._units += units
        horse.begin(*map(_message, units))
        current = self._units[0]
        if current in units and current.begun_at is None:  # one that was taken back goes on to wait
            _begin(current)

    def over(self, held: Held | None = None) -> None:
        """A job of the current unit is over, or a load (None)."""
        unit = self._units[0]
        if held is not None:
            unit.jobs.remove(held)
        if unit.jobs:
            return
        self._units.popleft()
        if held is not None and unit.begun_at is not None:
            self._durations.add(unit.model, time.monotonic() - unit.begun_at)
        if self._units:
            _begin(self._units[0])

    def has_room_at(self) -> float:
        """When more may be taken, as time.monotonic(): shortly before all that it has will have run."""
        if not self._units:
            return 0.0
        current, *others = self._units
        usual = self._durations.of(current.model)
        if current.loads or current.begun_at is None or math.isinf(usual) or any(unit.loads for unit in others):
            return math.inf
        if time.monotonic() > current.begun_at + 2 * usual + GRANT:
            return math.inf  # it is a long one: nobody knows how long
        ahead = sum(self._durations.of(unit.model) for unit in others)
        lead = min(LONGEST_LEAD, max(GRANT, 0.15 * usual))
        return current.begun_at + usual + ahead - lead

    def late_at(self) -> float:
        """When those that wait behind the current unit had better be taken back."""
        current = self.current
        if current is None or current.begun_at is None or all(unit.loads for unit in list(self._units)[1:]):
            return math.inf
        usual = self._durations.of(current.model)
        return current.begun_at + LATE + (0.0 if math.isinf(usual) else 2 * usual)

    def take_back(self, horse: WorkHorse) -> list[Unit]:
        """Remove the units that the work-horse has not begun."""
        numbers = set(horse.take_back())
        taken = [unit for unit in self._units if unit.number in numbers]
        self._units = deque(unit for unit in self._units if unit.number not in numbers)
        return taken

    def clear(self) -> list[Unit]:
        """Remove all: the work-horse is dead."""
        units = list(self._units)
        self._units.clear()
        return units


def _message(unit: Unit) -> Message:
    if unit.loads:
        return {"unit": unit.number, unit.kind: unit.model}
    return {"unit": unit.number, "model": unit.model, "jobs": [each.parcel for each in unit.jobs]}


def _begin(unit: Unit) -> None:
    unit.begun_at = time.monotonic()
    for held in unit.jobs:
        held.begin()
