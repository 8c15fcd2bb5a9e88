"""All situations: importing this fills the table."""

from __future__ import annotations

from tests.hostile import callers, clocks, neighbours, processes, records, redis_answers, requests, slow_callers, up
from tests.hostile.situation import SITUATIONS

__all__ = [
    "SITUATIONS",
    "callers",
    "clocks",
    "neighbours",
    "processes",
    "records",
    "redis_answers",
    "requests",
    "slow_callers",
    "up",
]
