"""When a model is set up: no setup holds up the jobs of models that are ready, as far as that can be helped."""

from __future__ import annotations

import time
from typing import TypeVar

from service.worker.served import Served, ServedModels
from service.worker.stable import Stable

Room = TypeVar("Room")

PATIENCE = 10.0
"""Seconds for which jobs of ready models go first where there is no room for a successor."""
QUICK = 0.5
"""A setup that took no more seconds than this is done at once: to begin a successor takes longer."""


class Setups:
    """Which models are to be set up next, and where."""

    def __init__(self, models: ServedModels, stable: Stable) -> None:
        self._models = models
        self._stable = stable
        self._their_turn = time.monotonic() + PATIENCE

    def due(self) -> list[str]:
        """The models whose setup should be tried now, though no job asks for it."""
        return [name for name in self._models.due() if not self._stable.loads(name)]

    def begin_beside(self, due: list[str]) -> bool:
        """Have them set up in a successor of the work-horse, if there are others whose jobs they would hold up.

        Whether it will be done there.
        """
        slow = [name for name in due if self._models[name].setup_takes > QUICK]
        return bool(slow) and self._models.some_ready() and self._stable.load(slow)

    def after_others(self, rooms: list[tuple[str, Room]]) -> list[list[tuple[str, Room]]]:
        """Models with what room there is for each: first those whose jobs run at once, then those to be set up."""
        asleep = [each for each in rooms if self._needs_setup(self._models[each[0]])]
        if not asleep:
            self._their_turn = time.monotonic() + PATIENCE
            return [rooms]
        awake = [each for each in rooms if each not in asleep]
        if time.monotonic() < self._their_turn:
            return [awake, asleep]
        self._their_turn = time.monotonic() + PATIENCE  # else they would wait as long as others have jobs
        return [asleep, awake]

    def _needs_setup(self, served: Served) -> bool:
        return served.state != "ready" and served.setup_takes > QUICK and not served.pause()
