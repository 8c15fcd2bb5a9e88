"""A job that a worker holds: from the turn that took it until its outcome is known."""

from __future__ import annotations

import math
import time
from collections.abc import Collection
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from service.job import facts
from service.secret_fields import NOTHING_SECRET, Mask
from service.store.events import dumps
from service.store.executions import Append, Execution
from service.store.outcomes import Failed, Finished, Outcome, Released, Stopped
from service.worker.link import Message

MOST_EVENTS_AT_ONCE = 500

Ending = Literal["stop", "timeout", "shutdown", "lost"]


@dataclass(eq=False)
class Held:
    """One execution and how far it is. Times are time.monotonic()."""

    number: int
    execution: Execution
    model: str = ""
    input: dict[str, Any] = field(default_factory=dict)
    on_event_loop: bool = False
    given_at: float = math.inf
    """When the event loop got it."""
    begun_at: float | None = None
    deadline: float = math.inf
    kill_at: float = math.inf
    ending: Ending | None = None
    stop_asked: bool = False
    begin_told: bool = False
    lost: bool = False
    """Whether its lease is gone: nothing can be written about it any more."""
    mask: Mask = field(init=False)
    """Hides the secrets of its input in what the model tells."""
    _acknowledged_at: str = ""
    _events: list[tuple[str, str]] = field(default_factory=list)
    _meta: str = ""
    _appends: int = 0
    _append: Append | None = None

    def __post_init__(self) -> None:
        secrets = self.execution.job.secrets
        self.mask = Mask(secret for _, secret in secrets) if secrets else NOTHING_SECRET

    @property
    def parcel(self) -> list[Any]:
        """What the work-horse gets: number, input, and what its model may know."""
        job, fields = self.execution.job, self.execution.job.fields  # Job.call has seen that what is a number is one
        told = fields.get("retries_left", "0"), fields.get("timeout", "0"), fields.get("metadata", "")
        return [self.number, self.input, facts(job.id, self.execution.number, *told)]

    def begin(self) -> None:
        """It runs from now on; or, in a batch that raised, it runs again."""
        self.begun_at = time.monotonic()
        timeout = self.execution.job.timeout
        self.deadline = self.begun_at + timeout if timeout > 0 else math.inf

    @property
    def begin_untold(self) -> bool:
        """Whether Redis still has it as one that waits for others."""
        return self.execution.waits and self.begun_at is not None and not self.begin_told

    def waits_too_long(self, moment: float) -> bool:
        """Whether it has not begun, and should have by a `moment`, which is Redis's unix time."""
        return self.begun_at is None and self.execution.job.start_deadline <= moment

    def tell(self, message: Message) -> None:
        """Keep what the model told, for the next turn."""
        events, meta = message["events"], message.get("meta", self._meta)
        if self.mask:  # an output is what the model means to show
            events = [(kind, data if kind == "output" else self.mask.json(data)) for kind, data in events]
            meta = self.mask.json(meta) if meta else meta
        self._events += [(kind, data) for kind, data in events]
        self._meta = meta

    def tell_failure(self, outcome: Outcome) -> None:
        """Tell the watchers what the model raised, and where: before its job's last word."""
        if isinstance(outcome, Failed) and outcome.traceback:
            line = {"level": "error", "logger": "service", "message": outcome.traceback}
            self._events.append(("log", dumps(line)))

    @property
    def told(self) -> bool:
        """Whether there is something to append."""
        return bool(self._events) or self._append is not None

    @property
    def waiting(self) -> int:
        """How many events there are beside those that are appended next."""
        return len(self._events)

    def append(self) -> Append | None:
        """What is to be appended next; the same again until it was."""
        if self._append is None and self._events:
            events = self._events[:MOST_EVENTS_AT_ONCE]
            del self._events[:MOST_EVENTS_AT_ONCE]
            self._appends += 1
            self._append = Append(self.execution, self._appends, events, self._meta)
            self._meta = ""
        return self._append

    def appended(self) -> None:
        """It was."""
        self._append = None

    def must_end(self, ends_at: float) -> Ending | None:
        """Why it may not run on, if so; `ends_at` is when its worker ends."""
        if self.lost:
            return "lost"
        if self.stop_asked:
            return "stop"
        moment = time.monotonic()
        if moment >= self.deadline:
            return "timeout"
        return "shutdown" if moment >= ends_at else None

    def end(self, ending: Ending, grace: float, moment: str) -> None:
        """It is asked to leave, at a `moment` by Redis's clock; after `grace` seconds it will be killed."""
        self.ending = ending
        self._acknowledged_at = moment
        self.kill_at = time.monotonic() + grace

    def said(self, last: Message) -> Outcome:
        """The outcome, by the work-horse's last word on it."""
        if "finished" in last:  # it was quicker than the interruption
            return Finished(last["finished"])
        if (forced := self.forced("cooperative")) is not None:
            where = self.mask(last.get("traceback", ""))
            return replace(forced, traceback=where) if isinstance(forced, Failed) else forced
        if "interrupted" in last:  # for another job of its batch
            return Released()
        error = last["error"]
        return Failed(
            error["type"],
            self.mask(error["message"]),
            self.mask(last["traceback"]),
            last["again"],
            last["after"],
            tuple(last["exceptions"]),
        )

    def forced(self, mode: Literal["cooperative", "killed"]) -> Outcome | None:
        """The outcome of a job that we ended, whatever it says itself; None if we did not."""
        if self.ending == "stop":
            return Stopped(mode, self._acknowledged_at)
        if self.ending == "timeout":
            limit = self.execution.job.timeout
            return Failed("timeout", f"the job ran for longer than its timeout of {limit} s")
        return Released() if self.ending else None


def hide_together(jobs: Collection[Held]) -> None:
    """What a batch tells is told to each of its jobs: none of them may show another's secrets."""
    if len(jobs) > 1 and any(held.mask for held in jobs):
        together = sum((held.mask for held in jobs), Mask(()))
        for held in jobs:
            held.mask = together


@dataclass(eq=False)
class Unit:
    """What the main lane runs as one: jobs of a model, or its setup, or its unloading."""

    number: int
    model: str
    jobs: list[Held] = field(default_factory=list)
    begun_at: float | None = None
    kind: Literal["run", "setup", "unload"] = "run"
    taken: bool = False
    """Whether it is known that the work-horse has begun it."""

    @property
    def loads(self) -> bool:
        return self.kind != "run"
