"""The models that a worker serves: met when its work-horse starts, loaded by setup, told to the web."""

from __future__ import annotations

import logging
import math
import time
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from service.settings import Settings
from service.store.clock import RedisClock
from service.store.models import Models, Report, State, When, unknown_description
from service.worker.link import Message
from service.worker.not_served import tell

log = logging.getLogger("service.worker")

FIRST_BACKOFF, LONGEST_BACKOFF = 1.0, 60.0
PACE_OVER = 60.0
MOST_TOLD = 50
_FOR_ITS_JOBS = 2.0  # seconds in which the jobs are taken for which a model was loaded, before it counts as unused


class Pace:
    """How many jobs have ended, and how many a second lately."""

    def __init__(self) -> None:
        self._ended = 0
        self._looks = deque([(time.monotonic(), 0)])

    def end(self) -> None:
        """A job has ended."""
        self._ended += 1

    def rate(self) -> float:
        """Jobs a second in about the last minute."""
        moment = time.monotonic()
        self._looks.append((moment, self._ended))
        while len(self._looks) > 2 and self._looks[1][0] < moment - PACE_OVER:
            self._looks.popleft()
        since, before = self._looks[0]
        return round((self._ended - before) / max(moment - since, 1.0), 3)


@dataclass
class Served:
    """One model and how far it is. Times are time.monotonic(), if they are not said to be unix time."""

    description: dict[str, Any]
    has_setup: bool
    state: State
    error: str | None = None
    traceback: str = ""
    failures: int = 0
    tried_at: float = 0.0
    failed_at: float = 0.0
    """When setup last failed, in Redis's unix time: it speaks for all jobs that were queued before."""
    used_at: float = 0.0
    setup_takes: float = math.inf
    """Seconds that its setup took when it succeeded last."""
    pace: Pace = field(default_factory=Pace)

    @property
    def name(self) -> str:
        return str(self.description["name"])

    @property
    def version(self) -> str:
        return str(self.description["version"])

    @property
    def runs_on_event_loop(self) -> bool:
        return str(self.description["kind"]).startswith("async")

    @property
    def concurrency(self) -> int:
        return int(self.description["concurrency"])

    @property
    def max_batch_size(self) -> int | None:
        """None for a model that does not batch."""
        size: int | None = self.description["max_batch_size"]
        return size

    def pause(self) -> float:
        """Seconds until setup may be tried; after each failure it waits for twice as long."""
        if not self.failures:
            return 0
        backoff = min(LONGEST_BACKOFF, FIRST_BACKOFF * 2.0 ** min(self.failures - 1, 10))
        return max(0.0, self.tried_at + backoff - time.monotonic())

    def due(self) -> bool:
        """Whether setup should be tried now, though no job asks for it."""
        return self.state in ("loading", "failed") and not self.pause()

    def idle(self) -> bool:
        """Whether it should be unloaded."""
        keep_alive = self.description["keep_alive"]
        return self.state == "ready" and keep_alive is not None and time.monotonic() - self.used_at >= keep_alive


class ServedModels:
    """All of them; `only` limits them by name."""

    def __init__(
        self, settings: Settings, published: Models, worker: str, only: frozenset[str], clock: RedisClock
    ) -> None:
        self._settings = settings
        self._clock = clock
        self._published = published
        self._worker = worker
        self._only = only
        self._models: dict[str, Served] = {}
        self._broken: list[Message] = []
        self._gone: set[str] = set()
        self._not_reloaded: list[str] = []
        self.ready_elsewhere: set[str] = set()
        """Of those that this worker is not ready for, the ones that another is."""
        self._unpublished = True
        self.changed = False
        """Whether there is news for the web."""

    @property
    def names(self) -> list[str]:
        """Those that can be called, by name."""
        return sorted(self._models)

    @property
    def broken(self) -> bool:
        """Whether there are files that could not be imported."""
        return any(each["listed"] for each in self._broken)

    @property
    def not_served(self) -> list[str]:
        """What of the jobs folder is not, and why: a sentence each."""
        return [*self._not_reloaded, *(str(each["error"]) for each in self._broken[:MOST_TOLD])]

    def not_reloaded(self, why: str) -> None:
        """Files have changed and cannot be served: what was served goes on."""
        self._not_reloaded = [f"not reloaded, what was served goes on: {why}"]
        self.changed = True

    def __getitem__(self, name: str) -> Served:
        return self._models[name]

    def __contains__(self, name: str) -> bool:
        return name in self._models

    def meet(self, message: Message) -> None:
        """A new work-horse has introduced the models."""
        before = {*self.states()}
        self._models = {model["name"]: self._known(model) for model in filter(self._wanted, message["models"])}
        told, self._broken = self._broken, list(filter(self._wanted, message["broken"]))
        if self._broken != told:
            tell(self._broken)
        self._gone = (self._gone | before) - {*self.states()}
        self._unpublished = self.changed = True

    def serves(self, file: str) -> bool:
        """Whether one of them is in this model file."""
        return any(each.description["file"] == file for each in self._models.values())

    def would_lose(self, introduction: Message) -> str:
        """Why models would not be served any longer: the errors of their files. Empty if none is lost."""
        serving = {each.description["file"] for each in self._models.values()}
        lost = [
            each["error"] for each in introduction["broken"] if each["file"] in serving and each.get("listed", True)
        ]
        return "; ".join(lost)

    def succeed(self, introduction: Message, loaded: dict[str, float], anew: bool = False) -> None:
        """A successor has taken over, with these models loaded; `anew`: with other code, so no failure counts."""
        if anew:
            self._not_reloaded = []
            for served in self._models.values():
                served.failures, served.error = 0, None
        self.meet(introduction)
        for name, seconds in loaded.items():
            if name in self._models:
                self.loaded(name, seconds, told=False)
                self._models[name].used_at += _FOR_ITS_JOBS

    def loaded_ones(self) -> list[str]:
        """Those that setup has loaded."""
        return [name for name, served in self._models.items() if served.has_setup and served.state == "ready"]

    def unload(self, served: Served) -> None:
        """It is not kept any longer."""
        served.state = "unloaded"
        self.changed = True
        log.info("model unloaded", extra={"model": served.name})

    def due(self) -> list[str]:
        """The models whose setup should be tried now."""
        return [name for name, served in self._models.items() if served.due()]

    def look_elsewhere(self) -> None:
        """Which of those that could not be loaded, or are not yet, others are ready for. One round trip, or none."""
        names = [name for name, served in self._models.items() if served.state in ("loading", "failed")]
        self.ready_elsewhere = self._published.ready_elsewhere(names, self._worker) if names else set()

    def left_to_others(self, served: Served) -> bool:
        """Whether its jobs are for workers that could load it: here they would only fail."""
        return served.state == "failed" and served.name in self.ready_elsewhere

    def some_ready(self) -> bool:
        """Whether there are models whose jobs run at once."""
        return any(served.state == "ready" for served in self._models.values())

    def unloaded(self) -> list[str]:
        """Those that nobody has used for their keep_alive."""
        return [name for name, served in self._models.items() if served.state == "unloaded"]

    def wake(self, name: str) -> None:
        """Have a model loaded that is unloaded, though no job of it was taken yet."""
        if self._models[name].state == "unloaded":
            self._models[name].state = "loading"

    def idle(self) -> list[Served]:
        """The models that should be unloaded."""
        return [served for served in self._models.values() if served.idle()]

    def loaded(self, name: str, seconds: float, told: bool = True) -> None:
        """Setup has succeeded."""
        served = self._models[name]
        served.state, served.error, served.traceback = "ready", None, ""
        served.failures, served.used_at, served.setup_takes = 0, time.monotonic(), seconds
        self.changed = True
        if told:
            log.info("model ready", extra={"model": name, "seconds": round(seconds, 3)})

    def failed(self, name: str, error: str, traceback: str = "") -> None:
        """Setup has failed."""
        served = self._models[name]
        served.state, served.error, served.traceback = "failed", error, traceback
        served.failures += 1
        served.failed_at = self._clock.unix
        self.changed = True
        where = {"traceback": traceback} if traceback else {}
        log.warning("setup failed", extra={"model": name, "error": error, **where})

    def report(self) -> None:
        """Tell the web what there is, and in which state; to be called more often than each 2 leases."""
        if self._gone:
            self._published.withdraw(self._worker, self._gone)
            self._gone = set()
        reports = {
            name: (each.description, Report(each.state, each.error, each.pace.rate(), each.traceback or None))
            for name, each in self._models.items()
        }
        for each in self._listed():
            description = unknown_description(each["name"], each["file"])
            reports.setdefault(
                each["name"], (description, Report("failed", each["error"], 0, each["traceback"] or None))
            )
        asked_at = time.monotonic()
        when: When = "now" if self._unpublished else "if nobody serves what is"
        moment = self._published.report(self._worker, reports.values(), self._settings.lease * 2, when)
        self._unpublished = False
        self._clock.read(moment, asked_at)

    def states(self) -> dict[str, str]:
        """The state of each model, and of each file that could not be imported."""
        return {**{each["name"]: "failed" for each in self._listed()}, **{n: m.state for n, m in self._models.items()}}

    def withdraw(self) -> None:
        """This worker ends: it serves nothing any more."""
        self._published.withdraw(self._worker, [*self._models, *(each["name"] for each in self._listed())])

    def _listed(self) -> Iterator[Message]:
        return (each for each in self._broken if each["listed"])

    def _wanted(self, each: Message) -> bool:
        return not self._only or each["name"] in self._only

    def _known(self, model: Message) -> Served:
        loads = bool(model.pop("has_setup"))
        before = self._models.get(model["name"])
        if before is None:
            return Served(model, loads, "loading" if loads else "ready")
        if not loads:
            return Served(model, loads, "ready", pace=before.pace)
        # A new horse, for whatever reason: a setup that kills it must not be tried without a pause, and what
        # nobody has used stays unloaded.
        state: State = "failed" if before.failures else "unloaded" if before.state == "unloaded" else "loading"
        return Served(
            model,
            loads,
            state,
            before.error,
            before.traceback,
            before.failures,
            before.tried_at,
            before.failed_at,
            setup_takes=before.setup_takes,
            pace=before.pace,
        )
