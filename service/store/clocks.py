"""How far the clocks of the hosts are from Redis's, by which all is decided that several hosts must agree on."""

from __future__ import annotations

import time
from collections.abc import Iterable
from typing import Any

import redis

from service.store.workers import WorkerState

MOST_AHEAD = 1.0
"""Seconds by which a host's clock may differ from Redis's before that is said."""


def warnings(connection: redis.Redis, workers: Iterable[WorkerState]) -> list[str]:
    """A sentence for this host and for each worker whose clock is wrong. Raises RedisError. One round trip."""
    moment: Any = connection.time()
    ahead = {"this web process's host": time.time() - moment[0] - moment[1] / 1e6}
    ahead.update({f"worker {worker.name}": worker.clock_ahead for worker in workers})
    return [_sentence(whose, seconds) for whose, seconds in ahead.items() if abs(seconds) > MOST_AHEAD]


def _sentence(whose: str, ahead: float) -> str:
    side = "ahead of" if ahead > 0 else "behind"
    return f"the clock of {whose} is {abs(ahead):.1f} s {side} Redis's: times in logs are wrong; set it by NTP"
