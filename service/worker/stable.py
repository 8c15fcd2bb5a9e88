"""The stable: always one work-horse that is alive and knows the models, and a successor when it is worn."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Iterator, Mapping
from types import MappingProxyType

from service.secret_fields import NOTHING_SECRET, Mask
from service.settings import Settings
from service.worker.last_words import Line
from service.worker.link import Message
from service.worker.memory import has_room_for
from service.worker.served import ServedModels
from service.worker.stuck import STUCK_AFTER
from service.worker.successor import Successor, Unfit
from service.worker.work_horse import WorkHorse

log = logging.getLogger("service.worker")

_AGAIN = 60.0  # seconds until a successor is tried again that did not do
PATIENCE = 60.0
SLOW_IMPORT = 15.0  # seconds after which the log says what a worker that does not begin is waiting for
LONG = 5.0
"""A job that has run for so many seconds may run for long: nothing else is held up until it ends."""


class CannotImport(Exception):
    """The work-horse dies, or hangs, while it imports the model files."""


class Stable:
    """Holds the work-horse, and while it is being replaced its successor."""

    def __init__(self, settings: Settings, models: ServedModels) -> None:
        self._settings = settings
        self._models = models
        self._horse: WorkHorse | None = None
        self._successor: Successor | None = None
        self._worn_at = 0.0
        self._beside_at = 0.0
        self.introduced = False
        """Whether the work-horse has told its models."""
        self.jobs_run = 0
        self.last_words: list[Line] = []
        """What the last work-horse that died had left to say."""
        self.left: list[str] = []
        """What jobs have left in the work-horse that cannot be put back."""
        self._left_for_good = False
        self._slow_at = math.inf
        self._ended_with = ""
        """The model file that was imported when the work-horse ended."""
        self._deadly: dict[str, str] = {}
        """Model files that have ended the work-horse which imported them, and how."""
        self._left_at = 0.0

    @property
    def horse(self) -> WorkHorse:
        assert self._horse is not None
        return self._horse

    @property
    def succeeding(self) -> bool:
        """Whether a successor is ready."""
        return self._successor is not None and self._successor.ready

    def changing(self, on_main_lane: float, on_event_loop: float) -> bool:
        """Whether a successor is ready and the work-horse should get nothing new, so that it can take over.

        The arguments are the seconds for which what runs has run. Where a model is new, others are not held up until
        a long job ends; but if there are always some on the event loop, for once they are.
        """
        if self._successor is None or not self._successor.ready:
            return False
        if self._successor.purpose != "load":
            return True
        return on_main_lane < LONG and (on_event_loop < LONG or time.monotonic() > self._successor.since + PATIENCE)

    def filenos(self) -> Iterator[int]:
        """For select: readable when a work-horse says something or has died."""
        yield from self.horse.filenos()
        if self._successor is not None:
            yield from self._successor.horse.filenos()

    def keep(self) -> None:
        """Have a work-horse. Raises CannotImport."""
        if self._horse is None:
            self._horse, self.introduced, self.jobs_run = WorkHorse(self._settings, self._deadly), False, 0
            self.soiled([])
        elif not self.introduced and self._late(self._horse.started_at):
            self._ended_with = self._horse.imports
            self._horse.shoot(f"it took longer than SETUP_TIMEOUT, {self._settings.setup_timeout:g} s,")
        elif not self.introduced and time.monotonic() > self._slow_at:
            self._slow_at = math.inf
            log.warning("a model file takes long to import", extra={"file": self._horse.imports})

    def imports(self, file: str) -> None:
        """The work-horse imports a model file now."""
        if not self.introduced:
            self.horse.imports = file
            self._slow_at = time.monotonic() + SLOW_IMPORT if file else math.inf

    def meet(self, message: Message) -> None:
        """The work-horse has introduced itself. Raises ValueError if it has done so before."""
        if self.introduced:
            raise ValueError("it has told its models before")
        self._models.meet(message)
        self.introduced = True

    def soiled(self, left: list[str], for_good: bool = False) -> None:
        """Jobs have left this in the work-horse; nothing, if what they had left has ended."""
        self.left, self._left_for_good, self._left_at = left, for_good, time.monotonic()

    @property
    def held_at(self) -> float:
        """When what jobs have left is held to hold the work-horse, which tells of it every moment otherwise."""
        return self._left_at + STUCK_AFTER if self.left else math.inf

    def bury(self, hide: Mask = NOTHING_SECRET) -> str:
        """The work-horse has died: how, in words. Raises CannotImport if it did so while it imported the models.

        `hide`: the secrets of the jobs that ran, in what it leaves for our own output.
        """
        horse, self._horse = self.horse, None
        died = horse.bury()
        self.last_words = horse.last_words(hide)
        horse.close()
        if not self.introduced:
            # One that was served once is imported again by the next worker: it may have been for want of memory.
            if not horse.imports or self._models.serves(horse.imports):
                raise CannotImport(f"the model files cannot be imported: {died}")
            if self._ended_with == horse.imports:  # for the second time: the first may have been anybody's doing
                self._deadly[horse.imports] = died
            self._ended_with = horse.imports
        return died

    def look(self) -> None:
        """Start a successor if the work-horse is worn."""
        if self._horse is not None:
            self._horse.look_after()
        if self._successor is None and self.introduced and self._worn():
            horse = WorkHorse(self._settings, self._deadly)
            self._successor = Successor(horse, "replace", loaded=self._models.loaded_ones())

    def load(self, names: list[str]) -> bool:
        """Have these models loaded in a successor, while the work-horse works on; whether that can be done.

        Not where memory has no room for two of it; nor where an accelerator is used, whose memory nobody can tell.
        """
        if self._successor is not None:
            return self._successor.purpose == "load"
        if time.monotonic() < self._beside_at or not has_room_for(self.horse.pid, self.horse.memory):
            return False
        most = self._settings.horse_max_memory
        if most and self.horse.memory > most:
            return False
        # One that has failed may end its process again, and what was loaded there: it is tried by itself.
        due = [name for name in names if not self._models[name].failures] or names[:1]
        for name in due:
            self._models[name].tried_at = time.monotonic()
        horse = WorkHorse(self._settings, self._deadly)
        self._successor = Successor(horse, "load", due, self._models.loaded_ones(), self._models.failed)
        return True

    def reload(self, passed_over: Mapping[str, str] = MappingProxyType({})) -> None:
        """Model files have changed: start a work-horse that reads them anew. What serves goes on until it has."""
        if self._successor is not None:
            self._dismiss()
        self._successor = Successor(WorkHorse(self._settings, passed_over), "reload")

    @property
    def reloading(self) -> bool:
        """Whether a work-horse with changed model files is ready: the other one ends at once."""
        return self._successor is not None and self._successor.ready and self._successor.purpose == "reload"

    def loads(self, name: str) -> bool:
        """Whether a successor loads this model, which the work-horse has not loaded."""
        return self._successor is not None and name in self._successor.due

    def replace(self, idle: bool) -> None:
        """Put the successor, if there is one, in its place when it is ready and nothing runs."""
        successor = self._successor
        if successor is None:
            return
        try:
            successor.hear()
            if self.reloading and (error := self._models.would_lose(successor.introduction)):
                raise Unfit(error)
            if not successor.ready and self._late(successor.since):
                successor.late(self._settings.setup_timeout)
        except Unfit as error:
            self._give_up(str(error))
            return
        if successor.ready and idle:
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

    def _replace(self, successor: Successor) -> None:
        self.horse.kill()
        self.horse.close()
        self._horse, self._successor, self.jobs_run = successor.horse, None, 0
        self.introduced = True  # also where the one before had died, and the next had not come so far
        self.soiled([])
        self._deadly = dict(successor.horse.passed_over)
        self._models.succeed(successor.introduction, successor.loaded, anew=successor.purpose == "reload")
        if self._settings.horse_max_memory and self.horse.memory > self._settings.horse_max_memory:
            self._worn_at = time.monotonic() + _AGAIN  # a fresh one is as large: replacing it all the time helps nobody
            log.warning("HORSE_MAX_MEMORY is less than the loaded models need", extra={"memory": self.horse.memory})
        if successor.purpose == "reload":
            log.warning("reloaded: model files have changed")
        else:
            log.info("the work-horse was replaced by a fresh one")

    def _give_up(self, why: str) -> None:
        successor = self._dismiss()
        if successor.purpose == "reload":
            if file := successor.imports:  # the others can be reloaded without it
                self.reload({**successor.horse.passed_over, file: why})
            else:
                log.error("not reloaded, what was served goes on: %s", why)
                self._models.not_reloaded(why)
            return
        if successor.purpose == "load":
            # What was a model's own trouble was told, and is tried again in its time. Another would come again.
            self._beside_at = time.monotonic() + _AGAIN if why else 0.0
            return
        log.warning("the work-horse could not be replaced: %s", why)
        self._worn_at = time.monotonic() + _AGAIN

    def _dismiss(self) -> Successor:
        """End the successor, and return it."""
        assert self._successor is not None
        successor, self._successor = self._successor, None
        successor.horse.kill()
        successor.horse.close()
        return successor

    def _late(self, since: float) -> bool:
        return time.monotonic() > since + self._settings.setup_timeout
