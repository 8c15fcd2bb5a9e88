"""What goes on beside the running job: signals, commands, chores that are due, Redis that is away."""

from __future__ import annotations

import logging
import math
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

import redis

from service.store.connection import REDIS_IS_AWAY
from service.store.executions import Execution
from service.worker.commands import Commands
from service.worker.stable import Stable

log = logging.getLogger("service.worker")

T = TypeVar("T")

_TWICE_WITHIN = 0.5  # a terminal and a parent may both send the first signal


@dataclass
class _Chore:
    interval: float
    do: Callable[[], None]
    done_at: float = 0.0


class Control:
    """State that a signal or a command may change at any moment, and the clockwork that looks at it."""

    def __init__(self, stable: Stable, grace_period: float) -> None:
        self._stable = stable
        self._grace_period = grace_period
        self._chores: list[_Chore] = []
        self.commands: Commands | None = None
        self.running: Execution | None = None
        self.stop_asked = False
        self.stopping_since: float | None = None
        self._cold = False
        self.redis_away_at = -math.inf
        """When Redis last did not answer, as time.monotonic()."""

    @property
    def stopping(self) -> bool:
        """Whether this worker is asked to end."""
        return self.stopping_since is not None

    @property
    def ends_at(self) -> float:
        """When what still runs must end, as time.monotonic(); infinity unless this worker is asked to end."""
        if self.stopping_since is None:
            return math.inf
        return self.stopping_since if self._cold else self.stopping_since + self._grace_period

    def listen(self, commands: Commands) -> None:
        """Obey what these commands say from now on."""
        self.commands = commands
        commands.start()

    def every(self, interval: float, do: Callable[[], None]) -> None:
        """Do a chore each `interval` seconds, the first time at once."""
        self._chores.append(_Chore(interval, do))

    def install_signals(self) -> None:
        signal.signal(signal.SIGTERM, self.end)
        signal.signal(signal.SIGINT, self.end)

    def end(self, *_: object) -> None:
        """First: take nothing new, let the running job end within the grace period. Second: at once."""
        if self.stopping_since is None:
            self.stopping_since = time.monotonic()
        elif time.monotonic() - self.stopping_since > _TWICE_WITHIN:
            self._cold = True
        if self.commands is not None:
            self.commands.wake()

    def begin(self, execution: Execution | None) -> None:
        """A job begins; or, with None, no job runs any more."""
        self.running, self.stop_asked = execution, False

    def wait(self, seconds: float) -> None:
        """Return when the horse or a command has something to say, or after `seconds`; do what is due."""
        due = min((chore.done_at + chore.interval - time.monotonic() for chore in self._chores), default=seconds)
        self._stable.wait([self.commands] if self.commands else [], min(seconds, due))
        self.tick()

    def tick(self) -> None:
        """Obey commands and do the chores that are due. Raises LeaseLost if a chore does."""
        for command in self.commands.heard() if self.commands else ():
            self._obey(command)
        for chore in self._chores:
            if time.monotonic() - chore.done_at < chore.interval:
                continue
            chore.done_at = time.monotonic()
            try:
                chore.do()
            except redis.exceptions.RedisError as error:  # it is due again soon
                self.redis_away_at = time.monotonic()
                log.warning("Redis is away: %s", error)

    def persist(self, step: Callable[[], T]) -> T:
        """Do a step again and again until Redis answers: what must be written is not dropped."""
        pause = 0.05
        while True:
            try:
                return step()
            except REDIS_IS_AWAY as error:
                self.redis_away_at = time.monotonic()
                if time.monotonic() >= self.ends_at:
                    raise
                log.warning("Redis is away, trying again: %s", error)
                time.sleep(pause)
                pause = min(1.0, pause * 2)

    def _obey(self, command: dict[str, Any]) -> None:
        # RQ's commands: rq/command.py.
        name = command["command"]
        if name == "shutdown":
            self.end()
        elif name == "kill-horse":
            self._stable.shoot()
        elif name in ("stop-job", "stop-execution") and self._runs(command):
            self.stop_asked = True
        else:
            log.info("command passed over", extra={"command": name[:40]})

    def _runs(self, command: dict[str, Any]) -> bool:
        return self.running is not None and command.get("job_id") == self.running.job.id
