"""Jobs that ran when a work-horse died, one of which may have killed it: each is tried by itself.

It begins beside none but jobs that have proven harmless by running for a while, and nothing else begins until it has
proven harmless itself, or is over: so the next death finds the guilty one, and its neighbours are not charged.
"""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Callable, Collection

from service.worker.held import Held

PROBATION = 2.0
"""Seconds that prove a job harmless: one of minutes must not keep its worker to itself."""
DEATHS_IN_COMPANY = 3
"""A job that ran beside others each time that so many work-horses died is held to have killed the last."""


class Suspects:
    """Who they are, which one is tried, and the jobs that wait until it has been."""

    def __init__(self, runs_on_event_loop: Callable[[str], bool]) -> None:
        self.waiting: list[Held] = []
        self._runs_on_event_loop = runs_on_event_loop
        self._deaths: Counter[str] = Counter()
        self._tried: Held | None = None

    def __bool__(self) -> bool:
        """Whether one is tried, or jobs wait: nothing else may begin."""
        return bool(self.waiting) or self._tried is not None

    def __contains__(self, held: Held) -> bool:
        return held.execution.job.id in self._deaths

    def charged(self, ran: list[Held], alone: bool) -> list[Held]:
        """Of those that ran when a work-horse died, the ones that are held to have killed it; others are suspects now.

        `alone`: nothing of earlier jobs ran on in it, which may have killed it as well.
        """
        if len(ran) == 1 and (alone or ran[0] in self):
            if ran[0] in self:  # this explains the deaths before: the others were its victims
                self._deaths.clear()
            return ran
        self._deaths.update(held.execution.job.id for held in ran if held.ending is None)
        return [held for held in ran if self._deaths[held.execution.job.id] >= DEATHS_IN_COMPANY]

    def hold_back(self, held: Held) -> bool:
        """Whether a job may not begin yet; it waits here then."""
        if self or held in self:
            self.waiting.append(held)
            return True
        return False

    def next(self, running: Collection[Held], lane_is_free: bool) -> list[Held]:
        """Those that begin now: a suspect by itself, or all that waited when none has to be tried."""
        if time.monotonic() < self.proven_at(running):
            return []
        self._tried = None
        suspects = [held for held in self.waiting if held in self]
        able = [held for held in suspects if lane_is_free or self._runs_on_event_loop(held.model)]
        if not able:  # one that the lane has no room for goes back to its queue, as others do
            waiting, self.waiting = self.waiting, []
            return waiting
        # What can end a process runs on the main lane, most often; of the event loop's there may be many.
        self._tried = min(able, key=lambda held: self._runs_on_event_loop(held.model))
        self.waiting.remove(self._tried)
        return [self._tried]

    def proven_at(self, running: Collection[Held]) -> float:
        """When all that run have proven harmless, as time.monotonic(); infinity while that is not known."""
        begun = (math.inf if held.begun_at is None else held.begun_at for held in running)
        return max(begun, default=-math.inf) + PROBATION

    def over(self, held: Held, ended: bool) -> None:
        """A job is not held any more; `ended`: it does not come back."""
        if held is self._tried:
            self._tried = None
        if ended:
            del self._deaths[held.execution.job.id]

    def release(self) -> list[Held]:
        """Let all go that wait: their work-horse is dead."""
        waiting, self.waiting, self._tried = self.waiting, [], None
        return waiting
