"""Situations drawn at random befall one service, some at the same time."""

from __future__ import annotations

import random
import threading
import time
from collections import Counter

import httpx
import redis
import websocket

from tests.hostile.situation import SITUATIONS, Situation
from tests.hostile.stage import Stage

MOST = 4
PAUSE = 0.8
"""Seconds between two that begin, on average."""
BELONGS = (AssertionError, OSError, httpx.HTTPError, redis.exceptions.RedisError, websocket.WebSocketException)
"""What a situation may end with when others befall the service, too: what must hold is asked at the end."""
BELONGS += (ValueError, KeyError, IndexError, StopIteration)


class AtOnce:
    """Begins situations; never two at once that change the same thing."""

    def __init__(self, stage: Stage, rng: random.Random) -> None:
        self.counts: Counter[str] = Counter()
        self.broken: list[BaseException] = []
        """What went wrong in a situation's own code."""
        self.again = False
        """Whether one has killed who runs jobs."""
        self._stage, self._rng = stage, rng
        self._under_way: dict[threading.Thread, Situation] = {}
        self._table = [each for each in SITUATIONS.values() if each.on != "up"]

    def run(self, seconds: float) -> None:
        """Begin one after the other for so long, and wait until all are over."""
        ends_at = time.monotonic() + seconds
        due = 0.0
        while time.monotonic() < ends_at or self._under_way:
            time.sleep(0.05)
            self._forget_those_that_ended()
            self._stage.keep()
            if due < time.monotonic() < ends_at and len(self._under_way) < MOST:
                due = time.monotonic() + self._rng.uniform(0, 2 * PAUSE)
                self._begin()

    def _begin(self) -> None:
        taken = frozenset[str]().union(*(each.touches for each in self._under_way.values()))
        chosen = self._rng.choice([each for each in self._table if not each.touches & taken])
        self.counts[chosen.name] += 1
        self.again |= chosen.again
        thread = threading.Thread(target=self._do, args=(chosen,), name=chosen.name)
        self._under_way[thread] = chosen
        thread.start()

    def _do(self, chosen: Situation) -> None:
        try:
            chosen.do(self._stage)
        except BELONGS:
            self.counts["ended early"] += 1
        except BaseException as error:
            self.broken.append(error)

    def _forget_those_that_ended(self) -> None:
        for thread in [each for each in self._under_way if not each.is_alive()]:
            thread.join()
            del self._under_way[thread]
