"""The stable: always one work-horse that is alive and knows the models, and a successor when it is worn."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator

from service.settings import Settings
from service.worker.last_words import Line
from service.worker.link import LinkClosed, Message
from service.worker.served import ServedModels
from service.worker.work_horse import WorkHorse

log = logging.getLogger("service.worker")


class CannotImport(Exception):
    """The work-horse dies, or hangs, while it imports the model files."""


class Stable:
    """Holds the work-horse, and while it is being replaced its successor."""

    def __init__(self, settings: Settings, models: ServedModels) -> None:
        self._settings = settings
        self._models = models
        self._horse: WorkHorse | None = None
        self._successor: _Successor | None = None
        self._worn_at = 0.0
        self.introduced = False
        """Whether the work-horse has told its models."""
        self.jobs_run = 0
        self.last_words: list[Line] = []
        """What the last work-horse that died had left to say."""
        self.left: list[str] = []
        """What jobs have left in the work-horse that cannot be put back."""
        self._left_for_good = False

    @property
    def horse(self) -> WorkHorse:
        assert self._horse is not None
        return self._horse

    @property
    def changing(self) -> bool:
        """Whether a successor is ready: the work-horse should get nothing new."""
        return self._successor is not None and self._successor.ready

    def filenos(self) -> Iterator[int]:
        """For select: readable when a work-horse says something or has died."""
        yield from self.horse.filenos()
        if self._successor is not None:
            yield from self._successor.horse.filenos()

    def keep(self) -> None:
        """Have a work-horse. Raises CannotImport."""
        if self._horse is None:
            self._horse, self.introduced, self.jobs_run = WorkHorse(self._settings), False, 0
            self.soiled([])
        elif not self.introduced and self._late(self._horse.started_at):
            self.end()
            raise CannotImport(f"the model files were not imported within {self._settings.setup_timeout:g} s")

    def meet(self, message: Message) -> None:
        """The work-horse has introduced itself. Raises ValueError if it has done so before."""
        if self.introduced:
            raise ValueError("it has told its models before")
        self._models.meet(message)
        self.introduced = True

    def soiled(self, left: list[str], for_good: bool = False) -> None:
        """Jobs have left this in the work-horse; nothing, if what they had left has ended."""
        self.left, self._left_for_good = left, for_good

    def bury(self) -> str:
        """The work-horse has died: how, in words. Raises CannotImport if it did so while it imported the models."""
        died = self.horse.bury()
        self.last_words = self.horse.last_words()
        self.horse.close()
        self._horse = None
        if not self.introduced:
            raise CannotImport(f"the model files cannot be imported: {died}")
        return died

    def look(self) -> None:
        """Start a successor if the work-horse is worn."""
        if self._horse is not None:
            self._horse.look_after()
        if self._successor is None and self.introduced and self._worn():
            self._successor = _Successor(WorkHorse(self._settings), self._models.loaded_ones())

    def replace(self, idle: bool) -> None:
        """Put the successor, if there is one, in its place when it is ready and nothing runs."""
        successor = self._successor
        if successor is None:
            return
        try:
            successor.hear()
        except _Unfit as error:
            self._give_up(str(error))
            return
        if not successor.ready:
            if self._late(successor.since):
                self._give_up("it was not ready in time")
        elif idle:
            self._replace(successor)

    def end(self) -> None:
        """End all work-horses."""
        for horse in (self._horse, self._successor.horse if self._successor else None):
            if horse is not None:
                horse.kill()
                horse.close()
        self._horse = self._successor = None

    def _worn(self) -> bool:
        if self._left_for_good and time.monotonic() >= self._worn_at:
            log.warning("the work-horse is replaced: a job has left what stays", extra={"left": "; ".join(self.left)})
            return True
        most_jobs, most_memory = self._settings.horse_max_jobs, self._settings.horse_max_memory
        if time.monotonic() < self._worn_at:
            return False
        return bool((most_jobs and self.jobs_run >= most_jobs) or (most_memory and self.horse.memory > most_memory))

    def _replace(self, successor: _Successor) -> None:
        self.horse.kill()
        self.horse.close()
        self._horse, self._successor, self.jobs_run = successor.horse, None, 0
        self.introduced = True  # also where the one before had died, and the next had not come so far
        self.soiled([])
        self._models.succeed(successor.introduction, successor.loaded)
        if self._settings.horse_max_memory and self.horse.memory > self._settings.horse_max_memory:
            self._worn_at = time.monotonic() + 60  # a fresh one is as large: replacing it all the time helps nobody
            log.warning("HORSE_MAX_MEMORY is less than the loaded models need", extra={"memory": self.horse.memory})
        log.info("the work-horse was replaced by a fresh one")

    def _give_up(self, why: str) -> None:
        assert self._successor is not None
        log.warning("the work-horse could not be replaced: %s", why)
        self._successor.horse.kill()
        self._successor.horse.close()
        self._successor = None
        self._worn_at = time.monotonic() + 60

    def _late(self, since: float) -> bool:
        return time.monotonic() > since + self._settings.setup_timeout


class _Unfit(Exception):
    """The successor cannot take over; the message says why."""


class _Successor:
    """A work-horse that loads what the other one has loaded, before it takes its place."""

    def __init__(self, horse: WorkHorse, to_load: list[str]) -> None:
        self.horse = horse
        self._to_load = to_load
        self.introduction: Message = {}
        self.loaded: list[str] = []
        self.since = time.monotonic()

    @property
    def ready(self) -> bool:
        return bool(self.introduction) and not self._to_load

    def hear(self) -> None:
        """Go on with what it has said. Raises _Unfit."""
        try:
            for message in self.horse.messages():
                self._heard(message)
        except LinkClosed:
            raise _Unfit(f"it did not survive: {self.horse.bury()}") from None

    def _heard(self, message: Message) -> None:
        if "failed" in message:
            raise _Unfit(f"setup of {message['failed']} failed: {message['error']['message']}")
        if "models" in message:
            self.introduction = message
            known = {model["name"] for model in message["models"]}
            self._to_load = [name for name in self._to_load if name in known]
        elif "ready" in message:
            self._to_load.remove(message["ready"])
            self.loaded.append(message["ready"])
        else:
            return
        if self._to_load:
            self.since = time.monotonic()
            self.horse.begin(0, {"setup": self._to_load[0]})
