"""The models that a worker serves: met when its work-horse starts, loaded by setup, told to the web."""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass
from typing import Any

from service.settings import Settings
from service.store.models import Models, State
from service.worker.control import Control
from service.worker.link import LinkClosed, Message
from service.worker.stable import Stable

log = logging.getLogger("service.worker")

FIRST_BACKOFF, LONGEST_BACKOFF = 1.0, 60.0


class CannotImport(Exception):
    """The work-horse dies, or hangs, while it imports the model files."""


@dataclass
class Served:
    """One model and how far it is."""

    description: dict[str, Any]
    state: State
    error: str | None = None
    failures: int = 0
    tried_at: float = 0.0
    failed_at: float = 0.0
    """When setup last failed, in unix time: it speaks for all jobs that were queued before."""

    def pause(self) -> float:
        """Seconds until setup may be tried; after each failure it waits for twice as long."""
        if not self.failures:
            return 0
        backoff = min(LONGEST_BACKOFF, FIRST_BACKOFF * 2.0 ** min(self.failures - 1, 10))
        return max(0.0, self.tried_at + backoff - time.monotonic())

    def due(self) -> bool:
        """Whether setup should be tried now."""
        return self.state != "ready" and not self.pause()


class ServedModels:
    """All of them; `only` limits them by name."""

    def __init__(
        self, settings: Settings, published: Models, stable: Stable, control: Control, worker: str, only: frozenset[str]
    ) -> None:
        self._settings = settings
        self._published = published
        self._stable = stable
        self._control = control
        self._worker = worker
        self._only = only
        self._models: dict[str, Served] = {}
        self._broken: dict[str, str] = {}

    @property
    def names(self) -> list[str]:
        """Those that can be called, by name."""
        return sorted(self._models)

    @property
    def broken(self) -> dict[str, str]:
        """Name -> why its file could not be imported."""
        return self._broken

    def get(self, name: str) -> Served | None:
        return self._models.get(name)

    def meet(self) -> None:
        """Have a living work-horse and know its models. Raises CannotImport."""
        if self._stable.alive:
            return
        self._stable.kill()
        self._stable.start()
        try:
            message = self._answer()
        except LinkClosed:
            raise CannotImport(f"the model files cannot be imported: {self._stable.bury()}") from None
        if message is None:
            self._stable.kill()
            if self._control.stopping:
                return
            raise CannotImport(f"the model files were not imported within {self._settings.setup_timeout:g} s")
        self._models = {model["name"]: self._known(model) for model in filter(self._wanted, message["models"])}
        broken = list(filter(self._wanted, message["broken"]))
        self._broken = {each["name"]: each["error"] for each in broken}
        self._control.persist(lambda: self._published.publish([each.description for each in self._models.values()]))
        self._control.persist(lambda: self._published.publish_broken((each["name"], each["file"]) for each in broken))

    def due(self) -> str | None:
        """A model whose setup should be tried now."""
        return next((name for name, served in self._models.items() if served.due()), None)

    def set_up(self, name: str) -> bool:
        """Have the work-horse load a model; whether it is ready. Raises CannotImport."""
        self.meet()
        served = self._models[name]
        served.tried_at = time.monotonic()
        self._stable.send({"setup": name})
        try:
            answer = self._answer()
        except LinkClosed:
            answer = _setup_failed(f"setup did not survive: {self._stable.bury()}")
        if answer is None:
            self._stable.kill()
            if self._control.stopping or self._control.stop_asked:
                return False
            answer = _setup_failed(f"setup took longer than SETUP_TIMEOUT, {self._settings.setup_timeout:g} s")
        if "ready" in answer:
            served.state, served.error, served.failures = "ready", None, 0
            log.info("model ready", extra={"model": name, "seconds": round(answer["seconds"], 3)})
        else:
            served.state, served.error = "failed", answer["error"]["message"]
            served.failures += 1
            served.failed_at = time.time()
            log.warning("setup failed", extra={"model": name, "error": served.error})
        self._control.persist(self.report)
        return served.state == "ready"

    def report(self) -> None:
        """Tell the web in which state each is; to be called more often than each 2 leases."""
        states = {name: (each.state, each.error) for name, each in self._models.items()}
        failed: State = "failed"
        states |= {name: (failed, error) for name, error in self._broken.items() if name not in states}
        self._published.report(self._worker, states, ttl=self._settings.lease * 2)

    def withdraw(self) -> None:
        """This worker ends: it serves nothing any more."""
        self._published.withdraw(self._worker, [*self._models, *self._broken])

    def _wanted(self, each: Message) -> bool:
        return not self._only or each["name"] in self._only

    def _known(self, model: Message) -> Served:
        loads = model.pop("has_setup")
        before = self._models.get(model["name"])
        if before is None or not loads:
            return Served(model, "loading" if loads else "ready")
        # A new horse, for whatever reason: a setup that kills it must not be tried without a pause.
        state: State = "failed" if before.failures else "loading"
        return Served(model, state, before.error, before.failures, before.tried_at, before.failed_at)

    def _answer(self) -> Message | None:
        """The horse's answer; None if it does not come in time, or a stop comes first. Raises LinkClosed."""
        deadline = time.monotonic() + self._settings.setup_timeout
        while time.monotonic() < deadline and not self._control.stopping and not self._control.stop_asked:
            if self._stable.speaks() and "events" not in (message := self._stable.receive()):
                return message
            self._control.wait(deadline - time.monotonic())
        return None


def _setup_failed(message: str) -> Message:
    return {"error": {"message": message}}
