"""Redis says something else than yes, or nothing, or forgets."""

from __future__ import annotations

import time

from tests.hostile.situation import forgetting, situation
from tests.hostile.stage import Stage


@situation("B1", touches="redis")
def nothing_at_all_happens(stage: Stage) -> None:
    time.sleep(2)

@situation("B5", touches="redis")
def redis_hangs(stage: Stage) -> None:
    """Its process is frozen."""
    with stage.stopped(stage.redis_pid):
        time.sleep(4)

@situation("B3", touches="redis", forgets=True)
def redis_is_flushed(stage: Stage) -> None:
    with forgetting(stage):
        stage.redis.flushall()
    stage.until_ready(10)
