"""What goes on beside the running jobs: signals, commands, chores that are due, Redis that is away."""

from __future__ import annotations

import logging
import math
import select
import signal
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import redis

from service.store.away import persistently, why
from service.worker.commands import Commands

log = logging.getLogger("service.worker")

_AGAIN = 0.5  # seconds until a chore is done again that Redis did not answer
_TWICE_WITHIN = 0.5  # a terminal and a parent may both send the first signal


@dataclass
class Chore:
    """Something that is to be done now and then."""

    interval: float
    do: Callable[[], None]
    done_at: float = 0.0

    def hasten(self) -> None:
        """Make it due."""
        self.done_at = 0.0


class Control:
    """State that a signal or a command may change at any moment, and the clockwork that looks at it."""

    def __init__(self, grace_period: float) -> None:
        self._grace_period = grace_period
        self._chores: list[Chore] = []
        self.commands: Commands | None = None
        self.stopping_since: float | None = None
        self._draining = False
        self._cold = False
        self.woken = False
        """Whether a job may have been queued since this was last set to False."""
        self.redis_away_at = -math.inf
        """When Redis last did not answer, as time.monotonic()."""

    @property
    def stopping(self) -> bool:
        """Whether this worker is asked to end, now or when its jobs are over."""
        return self._draining or self.stopping_since is not None

    @property
    def ends_at(self) -> float:
        """When what still runs must end, as time.monotonic(); infinity unless this worker is asked to end soon."""
        if self.stopping_since is None:
            return math.inf
        return self.stopping_since if self._cold else self.stopping_since + self._grace_period

    def listen(self, commands: Commands) -> None:
        """Hear what others say from now on."""
        self.commands = commands
        commands.start()

    def every(self, interval: float, do: Callable[[], None]) -> Chore:
        """Do a chore each `interval` seconds, the first time at once."""
        self._chores.append(Chore(interval, do))
        return self._chores[-1]

    def install_signals(self) -> None:
        signal.signal(signal.SIGTERM, self.end)
        signal.signal(signal.SIGINT, self.end)
        if signal.getsignal(signal.SIGHUP) != signal.SIG_IGN:  # nohup: it is to outlive its terminal
            signal.signal(signal.SIGHUP, self.end_at_once)

    def end(self, *_: object) -> None:
        """First: take nothing new, let the running jobs end within the grace period. Second: at once."""
        if self.stopping_since is None:
            self.stopping_since = time.monotonic()
        elif time.monotonic() - self.stopping_since > _TWICE_WITHIN:
            self._cold = True
        if self.commands is not None:
            self.commands.wake()

    def end_at_once(self, *_: object) -> None:
        """The terminal was closed: nobody waits, or could ask again."""
        self.end()
        self._cold = True

    def drain(self) -> None:
        """Take nothing new, let the running jobs end, however long that takes; `end` can still hasten it."""
        self._draining = True

    def wait(self, until: float, readable: Iterable[int], writable: Iterable[int] = ()) -> None:
        """Return when one of these files, or a command, has something to say, or a chore is due, or at `until`."""
        poll = select.poll()
        for fileno in readable:
            poll.register(fileno, select.POLLIN)
        for fileno in writable:
            poll.register(fileno, select.POLLIN | select.POLLOUT)
        if self.commands is not None:
            poll.register(self.commands.fileno(), select.POLLIN)
        until = min([until, *(chore.done_at + chore.interval for chore in self._chores)])
        poll.poll(max(0, math.ceil((until - time.monotonic()) * 1000)))

    def heard(self) -> list[dict[str, Any]]:
        """The commands since the last call; sets `woken` when there may be jobs to take."""
        if self.commands is None:
            return []
        heard = list(self.commands.heard())
        self.woken = self.woken or self.commands.woken()
        return heard

    def tick(self) -> None:
        """Do the chores that are due."""
        for chore in self._chores:
            if time.monotonic() - chore.done_at < chore.interval:
                continue
            chore.done_at = time.monotonic()
            try:
                chore.do()
            except redis.exceptions.RedisError as error:
                self.redis_away_at = time.monotonic()
                # Again soon: others judge this worker by whether it renews its leases once Redis is back.
                chore.done_at = time.monotonic() - chore.interval + min(chore.interval, _AGAIN)
                log.warning("Redis %s: a chore waits", why(error))
                return  # each of the others would wait for it, too

    def persist(self, step: Callable[[], None]) -> None:
        """Do a step again and again until Redis answers, or this worker is asked to end."""
        persistently(step, self._note_absence, pause=0.05)

    def _note_absence(self, error: Exception) -> None:
        self.redis_away_at = time.monotonic()
        if self.stopping:
            raise error
        log.warning("Redis is away, trying again: it %s", why(error))
