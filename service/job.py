"""job, jobs: what a model may know of the job that it runs, or of those of its batch.

A context variable, so that it is right in each task of an event loop and in the threads that a model starts.
Where no job runs there is a stand-in: a model file can be run alone.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Sequence
from contextvars import ContextVar, Token
from typing import Any, overload


def _never() -> bool:
    return False


class Attempt:
    """One try of one job."""

    __slots__ = (
        *("id", "attempt", "retries_left", "model", "version"),
        *("_metadata", "_timeout", "_ends_at", "_is_asked", "_over"),
    )

    def __init__(
        self,
        id: str = "local",
        attempt: int = 1,
        retries_left: int = 0,
        timeout: float = 0,
        metadata: str = "",
        model: str = "",
        version: str = "",
        is_asked: Callable[[], bool] = _never,
    ) -> None:
        """`metadata` is JSON or nothing, a `timeout` of 0 is none; `is_asked` says whether it has to leave."""
        self.id = id
        self.attempt = attempt
        self.retries_left = retries_left
        self.model = model
        self.version = version
        self._metadata = metadata
        self._timeout = timeout
        self._ends_at = math.inf
        self._is_asked = is_asked
        self._over = False

    def begin(self) -> None:
        """It runs from now on; or, after a batch that raised, it runs again."""
        self._over = False
        if self._timeout > 0:
            self._ends_at = time.monotonic() + self._timeout

    def end(self) -> None:
        """It is over."""
        self._over = True

    @property
    def metadata(self) -> Any:
        """What the caller gave with the job, anew each time; None if there is none."""
        try:
            return json.loads(self._metadata) if self._metadata else None
        except (ValueError, RecursionError):  # others may write to Redis, too
            return None

    @property
    def deadline(self) -> float:
        """Seconds until its timeout; infinity if it has none."""
        return max(0.0, self._ends_at - time.monotonic())

    @property
    def stopping(self) -> bool:
        """Whether it is asked to leave, or its worker to end; and once it is over, for what it has left behind."""
        return self._over or self._is_asked()

    def __repr__(self) -> str:
        return f"<job {self.id} of {self.model or 'no model'}, attempt {self.attempt}>"


Running = Attempt | tuple[Attempt, ...]
"""Of a job, or all those of a batch."""

_STAND_IN = Attempt()
_running: ContextVar[Running] = ContextVar("job", default=_STAND_IN)


class running:
    """Within it this is the job, or the batch, that runs; after it that is over."""

    __slots__ = ("_attempts", "_token", "_what")

    def __init__(self, what: Running) -> None:
        self._what = what
        self._attempts = what if isinstance(what, tuple) else (what,)

    def __enter__(self) -> None:
        for each in self._attempts:
            each.begin()
        self._token: Token[Running] = _running.set(self._what)

    def __exit__(self, *_: object) -> None:
        _running.reset(self._token)
        for each in self._attempts:
            each.end()


class CurrentJob:
    """The job that this code runs for; of a batch only what holds for all of it."""

    @property
    def id(self) -> str:
        """Its id: the same for each try, so a key to make side effects idempotent by."""
        return self._one("id").id

    @property
    def attempt(self) -> int:
        """Which try this is, from 1."""
        return self._one("attempt").attempt

    @property
    def retries_left(self) -> int:
        """How many tries may follow if this one fails."""
        return self._one("retries_left").retries_left

    @property
    def metadata(self) -> Any:
        """What the caller gave with the job; None if there is none."""
        return self._one("metadata").metadata

    @property
    def model(self) -> str:
        """The model's name."""
        return jobs[0].model

    @property
    def version(self) -> str:
        """The version of the model that runs."""
        return jobs[0].version

    @property
    def deadline(self) -> float:
        """Seconds until the timeout, of a batch the first one; infinity if there is none."""
        return min(each.deadline for each in jobs)

    @property
    def stopping(self) -> bool:
        """Whether it is asked to leave (a stop, its timeout), or its worker to end."""
        return any(each.stopping for each in jobs)

    def __repr__(self) -> str:
        return ", ".join(map(repr, jobs))

    def _one(self, name: str) -> Attempt:
        now = _running.get()
        if isinstance(now, tuple):
            raise RuntimeError(f"job.{name} in a batch: each item has a job of its own, jobs[0].{name} and so on")
        return now


class CurrentJobs(Sequence[Attempt]):
    """The jobs that a batch runs for, one for each item, in their order; where there is no batch, the one job."""

    @overload
    def __getitem__(self, place: int) -> Attempt: ...
    @overload
    def __getitem__(self, place: slice) -> Sequence[Attempt]: ...
    def __getitem__(self, place: int | slice) -> Attempt | Sequence[Attempt]:
        return self._all()[place]

    def __len__(self) -> int:
        return len(self._all())

    def __repr__(self) -> str:
        return repr(list(self))

    def _all(self) -> tuple[Attempt, ...]:
        now = _running.get()
        return now if isinstance(now, tuple) else (now,)


job = CurrentJob()
jobs = CurrentJobs()
