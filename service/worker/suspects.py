"""Jobs that ran when a work-horse died, one of which may have killed it: they run apart from others until it is found.

Async ones first, together: what ends a process runs on the main lane, most often. Those that this does not clear are
tried one by one. They begin beside none but jobs that have proven harmless by running for a while, and nothing else
begins until they are proven, or over: so the next death finds the guilty one, and nobody is its victim again and again.
"""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Callable, Collection, Iterable

from service.worker.held import Held

PROBATION = 2.0
"""Seconds that prove a job harmless: one of minutes must not keep its worker to itself."""
DEATHS_IN_COMPANY = 3
"""A job that ran beside others each time that so many work-horses died is held to have killed the last."""


class Suspects:
    """Who they are, which of them are tried, and the jobs that wait until they have been."""

    def __init__(self, runs_on_event_loop: Callable[[str], bool]) -> None:
        self.waiting: list[Held] = []
        self._runs_on_event_loop = runs_on_event_loop
        self._deaths: Counter[str] = Counter()  # none for a victim, of whose work-horse's end the reason is known
        self._tried: set[Held] = set()

    def __bool__(self) -> bool:
        """Whether some are tried, or jobs wait: nothing else may begin."""
        return bool(self.waiting or self._tried)

    def __contains__(self, held: Held) -> bool:
        return held.execution.job.id in self._deaths

    def charged(self, ran: list[Held], alone: bool) -> list[Held]:
        """Of those that ran when a work-horse died, the ones that are held to have killed it.

        `alone`: nothing of earlier jobs ran on in it, which may have killed it as well.
        """
        suspected = len(ran) == 1 and self._deaths[ran[0].execution.job.id] > 0
        if suspected:  # this explains the deaths before: the others were its victims
            self._deaths.clear()
        if suspected or (len(ran) == 1 and alone):
            return ran
        self._deaths.update(held.execution.job.id for held in ran if held.ending is None)
        return [held for held in ran if self._deaths[held.execution.job.id] >= DEATHS_IN_COMPANY]

    def victims(self, given_back: Iterable[Held]) -> None:
        """These lose what they have done so far: they run again before others that may be no better."""
        self._deaths.update({held.execution.job.id: 0 for held in given_back})

    def hold_back(self, held: Held) -> bool:
        """Whether a job may not begin yet; it waits here then."""
        if self or held in self:
            self.waiting.append(held)
            return True
        return False

    def next(self, running: Collection[Held], lane_is_free: bool) -> list[Held]:
        """Those that begin now: suspects by themselves, or all that waited when none has to be tried."""
        if time.monotonic() < self.proven_at(running):
            return []
        begin = self._next_suspects(lane_is_free)
        self._tried = set(begin)
        if not begin:  # a suspect that the lane has no room for goes back to its queue, as others do
            begin = self.waiting
        self.waiting = [held for held in self.waiting if held not in begin]
        return begin

    def _next_suspects(self, lane_is_free: bool) -> list[Held]:
        suspects = [held for held in self.waiting if held in self]
        on_loop = [held for held in suspects if self._runs_on_event_loop(held.model)]
        together = [held for held in on_loop if self._deaths[held.execution.job.id] <= 1]
        return together or on_loop[:1] or [held for held in suspects if lane_is_free][:1]

    def proven_at(self, running: Collection[Held]) -> float:
        """When all that run have proven harmless, as time.monotonic(); infinity while that is not known."""
        begun = (math.inf if held.begun_at is None else held.begun_at for held in running)
        return max(begun, default=-math.inf) + PROBATION

    def over(self, held: Held, ended: bool) -> None:
        """A job is not held any more; `ended`: it does not come back."""
        self._tried.discard(held)
        if ended:
            self._deaths.pop(held.execution.job.id, None)

    def release(self) -> list[Held]:
        """Let all go that wait: their work-horse is dead."""
        waiting, self.waiting, self._tried = self.waiting, [], set()
        return waiting
