"""What `up` says while it runs: jobs that wait, and why."""

from __future__ import annotations

import time

import redis

from service.cli.terminal import say
from service.settings import Settings
from service.store.connection import connect
from service.store.holdups import HoldUp, HoldUps

INTERVAL = 2.0


class Notices:
    """Says each thing once, and again only when it was over in between."""

    def __init__(self, settings: Settings, redis_url: str) -> None:
        briefly = {"redis_url": redis_url, "redis_timeout": 1.0}
        self._hold_ups = HoldUps(connect(settings.model_copy(update=briefly), tries=0), settings.model_ttl)
        self._said: set[tuple[str, str]] = set()
        self._looked_at = time.monotonic()

    def look(self) -> None:
        """Look whether there is something to say, if it is time to."""
        if time.monotonic() < self._looked_at + INTERVAL:
            return
        self._looked_at = time.monotonic()
        try:
            found = self._hold_ups.all()
        except redis.exceptions.RedisError:  # web and worker say so
            return
        now = {(each.model, each.kind): each for each in found}
        for key in now.keys() - self._said:
            say(sentence(now[key]))
        self._said = set(now)


def sentence(each: HoldUp) -> str:
    """What holds jobs up, and what to do."""
    match each.kind:
        case "offline":
            return f"jobs of {each.model} wait: no worker serves it now"
        case "setup":
            return f"jobs of {each.model} wait behind the setup of {each.by}; `up --workers 2` runs two workers"
        case "version":
            return (
                f"jobs of {each.model} wait for a worker with version {each.by} of it: those that serve it refuse the "
                f"input of {each.job_id}, for example"
            )
        case "perhaps its own":
            return (
                f"job {each.job_id} of {each.model} waits, while every worker that serves it runs a job of "
                f"{each.by_model} ({each.by}, for {each.seconds:.0f} s); if that one submitted it and waits, neither "
                'ends: see "Jobs that submit jobs" in docs/models.md; `up --workers 2` runs two workers'
            )
    return (
        f"jobs of {each.model} wait behind a job of {each.by_model} ({each.by}, for {each.seconds:.0f} s); "
        "`up --workers 2` runs two workers"
    )
