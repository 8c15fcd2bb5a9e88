"""A work-horse that gets ready beside the one that works, to take its place: the old one is worn, a model is to be
loaded without holding up the others, or model files have changed."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from typing import Literal

from service.worker.link import LinkClosed, Message
from service.worker.work_horse import OUT_OF_MEMORY, WorkHorse

Purpose = Literal["replace", "load", "reload"]


class Unfit(Exception):
    """The successor cannot take over; the message says why, unless that was told as a model's own trouble."""


class Successor:
    """It loads what it is to load, one model after the other, before it takes over."""

    def __init__(
        self,
        horse: WorkHorse,
        purpose: Purpose,
        due: Iterable[str] = (),
        loaded: Iterable[str] = (),
        tell: Callable[[str, str, str], None] = lambda *_: None,
    ) -> None:
        """`due`: models that are loaded for the first time; of one that fails `tell` gets name, error and traceback.

        `loaded`: those that the old work-horse has loaded.
        """
        self.horse = horse
        self.purpose = purpose
        self.due = list(due)  # first: when none of them can be loaded, the others need not be
        self._to_load = [*self.due, *(name for name in loaded if name not in self.due)]
        self._tell = tell
        self.introduction: Message = {}
        self.loaded: dict[str, float] = {}
        """And how many seconds that took."""
        self.since = time.monotonic()
        """When what it does now began; of one that is ready, when it was."""

    @property
    def ready(self) -> bool:
        return bool(self.introduction) and not self._to_load

    @property
    def imports(self) -> str:
        """The model file that it imports now; "" when it has imported all."""
        return "" if self.introduction else self.horse.imports

    def hear(self) -> None:
        """Go on with what it has said. Raises Unfit."""
        try:
            for message in self.horse.messages():
                self._heard(message)
        except LinkClosed:
            raise self._died(self.horse.bury()) from None

    def late(self, seconds: float) -> None:
        """What it does now has taken so many seconds, which is too long. Raises Unfit."""
        if self._first_setup:
            self._tell(self._to_load[0], f"setup took longer than SETUP_TIMEOUT, {seconds:g} s", "")
            raise Unfit("")
        raise Unfit(f"it was not ready within SETUP_TIMEOUT, {seconds:g} s,")

    @property
    def _first_setup(self) -> bool:
        """Whether it now sets up a model that was not loaded before, whose own trouble it may be."""
        return bool(self.introduction and self._to_load) and self._to_load[0] in self.due

    def _died(self, how: str) -> Unfit:
        if not self._first_setup or how.startswith(OUT_OF_MEMORY):  # for which there may be room without the other
            return Unfit(how if self.imports else f"it did not survive: {how}")
        self._tell(self._to_load[0], f"setup did not survive: {how}", "")
        return Unfit("")

    def _heard(self, message: Message) -> None:
        if "imports" in message and not self.introduction:
            self.horse.imports = message["imports"]
            return
        if "failed" in message:
            self._failed(message["failed"], message["error"], message["traceback"])
        elif "models" in message:
            self.introduction = message
            known = {model["name"] for model in message["models"]}
            self._to_load = [name for name in self._to_load if name in known]
        elif "ready" in message:
            self._to_load.remove(message["ready"])
            self.loaded[message["ready"]] = message["seconds"]
        else:
            return
        self.since = time.monotonic()
        if self._to_load:
            self.horse.begin({"unit": 0, "setup": self._to_load[0]})

    def _failed(self, name: str, error: dict[str, str], traceback: str) -> None:
        out_of_memory = error["type"] == "out_of_memory"
        if name not in self.due or (out_of_memory and self.due == [name]):
            raise Unfit(f"setup of {name} failed: {error['message']}")
        if not out_of_memory:  # for which there may be room without the others
            self._tell(name, error["message"], traceback)
        self.due.remove(name)
        self._to_load.remove(name)
        if not self.due:
            raise Unfit("")
