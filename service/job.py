"""job, jobs: what a model may know of the job that it runs, or of those of its batch.

A context variable, so that it is right in each task of an event loop and in the threads that a model starts.
Where no job runs there is a stand-in: a model file can be run alone.
"""

from __future__ import annotations

import json
import math
import threading
import time
from collections.abc import Callable, Sequence
from contextvars import ContextVar, Token
from typing import Any, overload


def _never(about: Any) -> bool:
    return False


def facts(id: str, attempt: int, retries_left: int | str, timeout: float | str, metadata: str = "") -> str:
    """What goes to a work-horse with each job, as one text: few models ask. `metadata` is JSON, or "" for none."""
    return f"{id} {attempt} {retries_left} {timeout} {metadata}"


class Attempt:
    """One try of one job: within `with` it is the one that runs, after that it is over.

    It is made for each, and seldom asked: so what can be is found when it is.
    """

    __slots__ = ("_about", "_began", "_facts", "_is_asked", "_over", "_token", "model", "version")

    def __init__(
        self,
        facts: str = facts("local", 1, 0, 0),
        model: str = "",
        version: str = "",
        is_asked: Callable[[Any], bool] = _never,
        about: Any = None,
    ) -> None:
        """A timeout of 0 is none; `is_asked(about)` says whether it has to leave."""
        self._facts = facts
        self.model = model
        self.version = version
        self._is_asked = is_asked
        self._about = about
        self._began = 0.0
        self._over = False

    def __enter__(self) -> None:
        self._token: Token[Running] = _running.set(self)
        self.begin()

    def __exit__(self, *_: object) -> None:
        self._over = True
        _running.reset(self._token)

    def begin(self) -> None:
        """It runs from now on; or, after a batch that raised, it runs again."""
        self._over = False
        self._began = time.monotonic()

    def end(self) -> None:
        """It is over."""
        self._over = True

    @property
    def id(self) -> str:
        """The job's."""
        return self._fact(0)

    @property
    def attempt(self) -> int:
        """Which try it is, from 1."""
        return int(self._fact(1))

    @property
    def retries_left(self) -> int:
        """How many may follow."""
        return int(self._fact(2))

    @property
    def metadata(self) -> Any:
        """What the caller gave with the job, anew each time; None if there is none."""
        text = self._fact(4)
        try:
            return json.loads(text) if text else None
        except (ValueError, RecursionError):  # others may write to Redis, too
            return None

    @property
    def deadline(self) -> float:
        """Seconds until its timeout; infinity if it has none."""
        timeout = float(self._fact(3))
        return max(0.0, self._began + timeout - time.monotonic()) if timeout > 0 else math.inf

    @property
    def stopping(self) -> bool:
        """Whether it is asked to leave, or its worker to end; and once it is over, for what it has left behind."""
        return self._over or self._is_asked(self._about)

    def _fact(self, place: int) -> str:
        return self._facts.split(" ", 4)[place]

    def __repr__(self) -> str:
        return f"<job {self.id} of {self.model or 'no model'}, attempt {self.attempt}>"


Running = Attempt | tuple[Attempt, ...]
"""Of a job, or all those of a batch."""

_running: ContextVar[Running] = ContextVar("job")


class _Threads:
    """What runs for threads, which inherit no context, where a process runs one job at a time; else a stand-in."""

    what: Running = Attempt()


_STAND_IN = Attempt()
_threads = _Threads()


class process_wide:
    """Within it this process runs nothing else. A thread that is left when it is over goes on to see that."""

    def __init__(self, attempts: Sequence[Attempt], batch: bool) -> None:
        self._what = together(attempts) if batch else attempts[0]

    def __enter__(self) -> None:
        self._what.__enter__()
        _threads.what = _running.get()

    def __exit__(self, *raised: object) -> None:
        self._what.__exit__(*raised)


def _now() -> Running:
    running = _running.get(None)
    if running is not None:
        return running
    return _STAND_IN if threading.current_thread() is threading.main_thread() else _threads.what


class together:
    """Within it they run as one batch, after that they are over."""

    # As the others here no generator: contextlib sets an attribute of what is raised, and a model's own may be frozen.
    def __init__(self, attempts: Sequence[Attempt]) -> None:
        self._attempts = tuple(attempts)

    def __enter__(self) -> None:
        self._token: Token[Running] = _running.set(self._attempts)
        for each in self._attempts:
            each.begin()

    def __exit__(self, *_: object) -> None:
        for each in self._attempts:
            each.end()
        _running.reset(self._token)


class CurrentJob:
    """The job that this code runs for; of a batch only what holds for all of it."""

    __slots__ = ()  # it is one object for all jobs: what one would put there the next would find

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
        now = _now()
        if isinstance(now, tuple):
            raise RuntimeError(f"job.{name} in a batch: each item has a job of its own, jobs[0].{name} and so on")
        return now


class CurrentJobs(Sequence[Attempt]):
    """The jobs that a batch runs for, one for each item, in their order; where there is no batch, the one job."""

    __slots__ = ()

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
        now = _now()
        return now if isinstance(now, tuple) else (now,)


job = CurrentJob()
jobs = CurrentJobs()
