"""How far the clocks of the hosts are from Redis's, by which all is decided that several hosts must agree on."""

from __future__ import annotations

import time
from typing import Any

import redis

from service.store.workers import Workers

MOST_AHEAD = 1.0
"""Seconds by which a host's clock may differ from Redis's before that is said."""


def warnings(connection: redis.Redis) -> list[str]:
    """A sentence for this host and for each worker whose clock is wrong. Raises RedisError. Three round trips."""
    moment: Any = connection.time()
    ahead = time.time() - moment[0] - moment[1] / 1e6
    found = [_sentence("this web process's host", ahead)] if abs(ahead) > MOST_AHEAD else []
    return found + [
        _sentence(f"worker {worker.name}", worker.clock_ahead)
        for worker in Workers(connection).all()
        if abs(worker.clock_ahead) > MOST_AHEAD
    ]


def _sentence(whose: str, ahead: float) -> str:
    side = "ahead of" if ahead > 0 else "behind"
    return f"the clock of {whose} is {abs(ahead):.1f} s {side} Redis's: times in logs are wrong; set it by NTP"
