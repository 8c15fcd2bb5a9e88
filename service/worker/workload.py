"""The jobs that a worker holds: where each is, which may come next, and how each ends."""

from __future__ import annotations

import itertools
import logging
import math
import time
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass, field

from service.own_json import dumps
from service.secret_fields import NOTHING_SECRET
from service.settings import Settings
from service.store import keys
from service.store.clock import RedisClock
from service.store.executions import Execution, Wanted, tried_again
from service.store.job import UnreadableJob
from service.store.jobs import EXPIRED
from service.store.outcomes import Declined, Failed, Outcome, Released, Stopped
from service.worker import stuck
from service.worker.books import Books, about
from service.worker.held import Ending, Held, Unit, hide_together
from service.worker.link import LinkClosed, Message
from service.worker.main_lane import Durations, MainLane
from service.worker.served import Served, ServedModels
from service.worker.setups import Setups
from service.worker.stable import Stable
from service.worker.suspects import Suspects
from service.worker.versions import judged

log = logging.getLogger("service.worker")


MOST_WAITING_EVENTS = 5_000  # of one job; a model that says more, faster than it can be written, waits

TOO_LATE = Failed(EXPIRED["type"], EXPIRED["message"], again=False)
FOR_A_JOB = "a job did not leave when it had to"


@dataclass
class _Batch:
    """Jobs of a model that wait for company, until a time."""

    until: float
    jobs: list[Held] = field(default_factory=list)

    @property
    def lowest(self) -> int:
        """The place of its lowest priority: who joins it now must not overtake others that wait."""
        return max((keys.place(held.execution.job.queue) for held in self.jobs), default=0)


class Workload:
    """All jobs between the turn that took them and their outcome."""

    def __init__(
        self, settings: Settings, models: ServedModels, stable: Stable, books: Books, clock: RedisClock
    ) -> None:
        self._settings = settings
        self._clock = clock
        self._models = models
        self._stable = stable
        self._books = books
        self._durations = Durations()
        self._lane = MainLane(self._durations)
        self._setups = Setups(models, stable)
        self._numbers = itertools.count(1)
        self._held: dict[int, Held] = {}
        self._parked: dict[str, list[Held]] = {}  # until their model is loaded
        self._batches: dict[str, _Batch] = {}
        self._outgoing: list[Unit] = []
        self._suspects = Suspects(lambda model: self._models[model].runs_on_event_loop)
        self._killed = ""
        self._taken_at: dict[str, int] = {}

    def __bool__(self) -> bool:
        return bool(self._held)

    @property
    def idle(self) -> bool:
        """Whether the work-horse has nothing to do."""
        return not self._held and not self._lane

    @property
    def held(self) -> Collection[Held]:
        return self._held.values()

    @property
    def running(self) -> bool:
        """Whether the main lane runs something."""
        return bool(self._lane)

    @property
    def swamped(self) -> bool:
        """Whether models have told more than Redis has taken for now: let them wait until it has."""
        return any(held.waiting > MOST_WAITING_EVENTS for held in self._held.values())

    # --- what may come next -----------------------------------------------------------------------

    def wanted(self, only: frozenset[str]) -> list[Wanted]:
        """The queues to take from, in order: by priority, and within one the model first that had its turn longest ago.

        Those of models that would have to be set up first come last.
        """
        if not self._stable.introduced or self._changing or self._suspects:
            return []
        names = sorted(self._models.names, key=lambda name: self._taken_at.get(name, 0))
        free = self._lane.has_room_at() <= time.monotonic()
        rooms = [(name, self._room(name, free)) for name in names]
        queues = (
            (keys.queue_name(name, priority), priority, room)
            for some in self._setups.after_others(rooms)
            for place, priority in enumerate(keys.PRIORITIES)
            for name, room in some
            if room is not None and (name not in self._batches or place <= self._batches[name].lowest)
        )
        return [
            Wanted(queue, priority, *room, self._models[room[1]].version)
            for queue, priority, room in queues
            if not only or queue in only
        ]

    def room_at(self) -> float:
        """When more may be taken, as time.monotonic()."""
        if not self._stable.introduced or self._changing or self._suspects:
            return math.inf
        if any(self._room(name, free=False) for name in self._models.names):
            return 0.0
        return self._lane.has_room_at()

    def _room(self, name: str, free: bool) -> tuple[str, str, float, float, int] | None:
        """Lane, model, what the first job and each further one takes of the lane, and how many; None for none."""
        served = self._models[name]
        if self._stable.loads(name) or self._models.left_to_others(served):
            return None
        if served.runs_on_event_loop and (served.state == "ready" or free):
            holds = sum(1 for held in self._held.values() if held.model == name)
            lane, first = (name, 0.0) if served.state == "ready" else ("main", 1.0)
            return (lane, name, first, 0.0, served.concurrency - holds) if holds < served.concurrency else None
        if self._batches and (batch := self._batches.get(name)) is not None:
            return ("main", name, 0.0, 0.0, (served.max_batch_size or 1) - len(batch.jobs))
        if not free or self._batches or self._parked:
            return None
        if served.state != "ready":
            return ("main", name, 1.0, 1.0, 1)
        share = self._durations.share(name)
        if served.max_batch_size:
            return ("main", name, share, 0.0, served.max_batch_size)
        return ("main", name, share, share, round(1 / share))

    # --- where they go ----------------------------------------------------------------------------

    def start(self, executions: Iterable[Execution]) -> None:
        """Take these jobs up: each goes where it runs, or where it waits for that."""
        for execution in executions:
            held = Held(next(self._numbers), execution)
            if log.isEnabledFor(logging.INFO):
                log.info("job started", extra=about(held))
            self._held[held.number] = held
            try:
                held.model, held.input = execution.job.given()
            except UnreadableJob as error:
                self._finish(held, Failed("refused", str(error), again=False))
                continue
            if held.model in self._models:
                self._taken_at[held.model] = held.number
                self._place(held)
            else:
                self._finish(held, Failed("unknown_model", f"this worker has no model {held.model}", again=False))
        self.dispatch()

    def dispatch(self, at_once: bool = False) -> None:
        """Give the work-horse what was placed, and the batches that are full or have waited long enough.

        With others behind it no batch waits: it was taken before them.
        """
        if self._suspects:
            running = {*self._lane.jobs, *self._on_event_loop()}
            for held in self._suspects.next(running, lane_is_free=not self._lane):
                self._let_begin(held)
        units, self._outgoing = self._outgoing, []
        for name, batch in list(self._batches.items()):
            full = len(batch.jobs) >= (self._models[name].max_batch_size or 1)
            if full or at_once or units or time.monotonic() >= batch.until:
                del self._batches[name]
                if batch.jobs:
                    hide_together(batch.jobs)
                    units.append(Unit(next(self._numbers), name, batch.jobs))
        if units:
            self._lane.give(self._stable.horse, *sorted(units, key=lambda unit: unit.jobs[0].number))

    def _place(self, held: Held) -> None:
        served = self._models[held.model]
        if served.state != "ready":
            self._park(held, served)
        elif not self._suspects.hold_back(held):
            self._let_begin(held)

    def _let_begin(self, held: Held) -> None:
        served = self._models[held.model]
        if served.runs_on_event_loop:
            held.on_event_loop, held.given_at = True, time.monotonic()
            self._stable.horse.async_lane.post({"model": held.model, "jobs": [held.parcel]})
        elif served.max_batch_size and held not in self._suspects:
            self._gather(held, served)
        else:
            self._outgoing.append(Unit(next(self._numbers), held.model, [held]))

    def _gather(self, held: Held, served: Served) -> None:
        batch = self._batches.get(held.model)
        if batch is None:
            timeout = float(served.description["batch_timeout"])
            # A lone job on an idle worker starts at once; after others, more may be on their way.
            lone = not self._lane and time.monotonic() - served.used_at > timeout
            batch = self._batches[held.model] = _Batch(0.0 if lone else time.monotonic() + timeout)
        elif not batch.until:
            batch.until = time.monotonic() + float(served.description["batch_timeout"])
        batch.jobs.append(held)

    def _park(self, held: Held, served: Served) -> None:
        if served.pause() and held.model not in self._parked:
            self._finish(held, self._not_set_up(held, served))
            return
        self._parked.setdefault(held.model, []).append(held)
        self.load(served)

    def load(self, served: Served) -> None:
        """Have a model loaded, unless it is being loaded."""
        if not self._lane.loading(served.name):
            served.tried_at = time.monotonic()
            self._lane.give(self._stable.horse, Unit(next(self._numbers), served.name, kind="setup"))

    def load_when_idle(self) -> bool:
        """Load a model that is due, or unload one that nobody used; whether there was one."""
        if not self.idle or not self._stable.introduced or self._changing:
            return False
        if due := self._setups.due():
            if not self._setups.begin_beside(due):
                self.load(self._models[due[0]])
            return True
        for served in self._models.idle():
            self._models.unload(served)
            self._lane.give(self._stable.horse, Unit(next(self._numbers), served.name, kind="unload"))
        return not self.idle

    def load_beside(self) -> None:
        """Load what is due though this worker is never idle: in a successor, if that can be done."""
        if self._stable.introduced and not self.idle and (due := self._setups.due()):
            self._setups.begin_beside(due)

    @property
    def setting_up(self) -> str:
        """The model whose setup the work-horse runs, which can do nothing else meanwhile; empty without one."""
        current = self._lane.current
        return current.model if current is not None and current.kind == "setup" else ""

    @property
    def sought(self) -> list[str]:
        """Models that are unloaded, and that other work keeps from being loaded when a job asks for them."""
        return [] if self.idle else self._models.unloaded()

    @property
    def _changing(self) -> bool:
        if not self._stable.succeeding:
            return False
        moment, current = time.monotonic(), self._lane.current
        main = current.begun_at if current is not None and not current.loads else None
        loop = min((held.begun_at for held in self._on_event_loop() if held.begun_at is not None), default=moment)
        return self._stable.changing(moment - (moment if main is None else main), moment - loop)

    def _not_set_up(self, held: Held, served: Served) -> Outcome:
        # Not before the next try of setup: else the job's tries are over before the model had a chance.
        # And a job that came after the last one has not had any yet.
        if self._models.left_to_others(served):
            return Released()
        if held.execution.job.created_at > served.failed_at:
            return Released(after=served.pause())
        why = f"the model could not be loaded: {served.error}"
        return Failed("setup_failed", why, served.traceback, after=served.pause())

    # --- what the work-horse says -----------------------------------------------------------------

    def hear(self) -> None:
        """Take in all that the work-horse has said. Raises CannotImport."""
        if self.swamped:
            return
        try:
            for message in self._stable.horse.messages():
                self._understood(message)
        except LinkClosed:
            self._died()

    def _understood(self, message: Message) -> None:
        try:
            self._heard(message)
        except (LookupError, TypeError, ValueError, AttributeError):
            # Of a model that was not asked for, or a job that does not run: a model has got at the link. What else it
            # has said is heard first, so that it is known which jobs ran.
            log.exception("the work-horse said what makes no sense: it is replaced")
            self._stable.horse.give_up()

    def _heard(self, message: Message) -> None:
        if (held := self._held.get(message.get("job", 0))) is not None:
            if "events" in message:
                held.tell(message)
            elif "begun" in message:
                self._begun(held)
            else:
                self._over(held, judged(held.execution, held.said(message)))
        else:
            self._heard_of_itself(message)

    def _heard_of_itself(self, message: Message) -> None:
        if "imports" in message:
            self._stable.imports(message["imports"])
        elif "models" in message:
            self._stable.meet(message)
            self._unpark(list(self._parked))
        elif "ready" in message:
            self._lane.over()
            self._models.loaded(message["ready"], message["seconds"])
            self._unpark([message["ready"]])
        elif "failed" in message:
            self._lane.over()
            self._setup_failed(message["failed"], message["error"]["message"], message["traceback"])
        elif "unloaded" in message:
            self._lane.over()
        elif "left" in message:
            self._stable.soiled(message["left"], message["for_good"])
        # Else a thread of a model that talks on after its job: nobody listens any more.

    def _begun(self, held: Held) -> None:
        # On the main lane it is said only of a batch that raised and is now run one by one.
        if not held.on_event_loop and (unit := self._lane.current) is not None:
            for other in unit.jobs:
                other.deadline = math.inf
        held.begin()

    def _over(self, held: Held, outcome: Outcome) -> None:
        self._models[held.model].used_at = time.monotonic()
        self._stable.jobs_run += 1
        if not held.on_event_loop:
            self._lane.over(held)
        self._finish(held, outcome)

    def _finish(self, held: Held, outcome: Outcome) -> None:
        del self._held[held.number]
        ended = not isinstance(outcome, (Released, Declined))
        if ended and held.model in self._models:
            self._models[held.model].pace.end()
        self._suspects.over(held, ended)
        if not held.lost:
            if not tried_again(held.execution, outcome):
                held.tell_failure(outcome)
            self._books.over(held, outcome)

    def _unpark(self, models: list[str]) -> None:
        for name in models:
            for held in self._parked.pop(name, []):
                if name in self._models:
                    self._place(held)
                else:
                    self._finish(held, Released())
        self.dispatch()

    def _setup_failed(self, name: str, error: str, traceback: str = "") -> None:
        self._models.failed(name, error, traceback)
        for held in self._parked.pop(name, []):
            self._finish(held, self._not_set_up(held, self._models[name]))

    # --- its death --------------------------------------------------------------------------------

    def _died(self) -> None:
        killed, self._killed = self._killed, ""
        for unit in self._lane.take_back(self._stable.horse):
            for held in unit.jobs:
                held.begun_at = None
        begun = self._lane.clear()
        left = self._stable.left
        died = self._stable.bury(hide=sum((held.mask for held in self._held.values() if held.mask), NOTHING_SECRET))
        self._tell_last_words([*(held for unit in begun for held in unit.jobs), *self._on_event_loop()])
        for held in self._suspects.release():
            self._parked.setdefault(held.model, []).append(held)
        parked = {held for jobs in self._parked.values() for held in jobs}  # they wait for the next one
        in_main_lane = [held for unit in begun for held in unit.jobs]
        ran = [held for held in (*in_main_lane, *self._on_event_loop()) if held.begun_at is not None]
        charged = [] if killed else self._suspects.charged(ran, alone=not left)
        self._suspects.victims(held for held in (*in_main_lane, *self._on_event_loop()) if held not in charged)
        for held in [held for held in self._held.values() if held not in parked]:
            outcome = held.forced("killed")
            if outcome is None and held in charged:
                outcome = Failed("crashed", f"the job did not survive: {died}", after=0)
            self._finish(held, outcome or Released())
        self._batches.clear()
        for unit in begun:
            if unit.kind == "setup" and killed != FOR_A_JOB:
                self._setup_failed(unit.model, killed or f"setup did not survive: {died}")

    def _tell_last_words(self, held: list[Held]) -> None:
        """What the work-horse could not tell any more, to the job that ran, if that was the only one."""
        ran = [each for each in held if each.begun_at is not None]
        if len(ran) == 1:
            lines = self._stable.last_words[: self._settings.max_log_lines]
            events = [{"level": level, "logger": source, "message": text[:4000]} for source, level, text in lines]
            ran[0].tell({"events": [("log", dumps(event)) for event in events]})

    # --- limits -----------------------------------------------------------------------------------

    def stop(self, job_id: str) -> None:
        """A caller wants a job to be stopped."""
        for held in [held for held in self._held.values() if held.execution.job.id == job_id]:
            held.stop_asked = True
            self._leave_waiting([held], Stopped("cooperative", self._clock.rfc3339))

    def lose(self, execution: Execution) -> None:
        """A job was given to another worker, or erased."""
        for held in [held for held in self._held.values() if held.execution is execution and not held.lost]:
            held.lost = True
            log.warning("the job was taken over by another worker, or erased", extra=about(held))
            self._leave_waiting([held], Released())

    def keep_limits(self, ends_at: float) -> None:
        """Ask those to leave that must; kill the work-horse of one that does not. Raises CannotImport."""
        self._expire_waiting()
        moment = time.monotonic()
        running = list(self._running())
        if ends_at < math.inf:
            self._stable.horse.stops.end()  # what may still run until then can see that it is
        for held in running:
            if held.ending is None and (ending := held.must_end(ends_at)) is not None:
                self._ask_to_leave(held, ending)
        if any(moment >= held.kill_at for held in running):
            self._kill(FOR_A_JOB)
        else:
            self._keep_limits_of_units(moment)

    def _ask_to_leave(self, held: Held, ending: Ending) -> None:
        if ending == "timeout" and not held.on_event_loop and self._never_began():
            held.begin()  # its time begins when it does; stuck.py finds out whether it ever will
            return
        held.end(ending, self._settings.stop_grace, self._clock.rfc3339)
        if held.on_event_loop:
            self._stable.horse.async_lane.post({"cancel": held.number})
        elif (unit := self._lane.current) is not None:
            self._stable.horse.interrupt(unit.number)

    def _never_began(self) -> bool:
        return stuck.is_untaken(self._lane, self._stable.horse)

    def _keep_limits_of_units(self, moment: float) -> None:
        current = self._lane.current
        if current is not None and current.loads and moment >= self._setup_ends_at(current):
            self._kill(f"setup took longer than SETUP_TIMEOUT, {self._settings.setup_timeout:g} s")
        elif moment >= self._stuck_at() and self._never_began():
            log.warning("the work-horse is replaced: %s", stuck.WHY, extra={"left": "; ".join(self._stable.left)})
            self._kill(stuck.WHY)
        elif moment >= self._held_at():
            log.warning("the work-horse is replaced: %s", stuck.HELD, extra={"left": "; ".join(self._stable.left)})
            self._kill(stuck.HELD)
        elif moment >= self._lane.late_at():
            self._return_units()

    def _expire_waiting(self) -> None:
        """End those that have waited here for longer than their start_timeout: for company, or for their model."""
        moment = self._clock.unix
        for held in [held for held in self._held.values() if held.waits_too_long(moment)]:
            self._leave_waiting([held], TOO_LATE)

    def release_what_waits(self) -> None:
        """This worker ends: what has not begun goes back to its queue."""
        self._leave_waiting(list(self._held.values()), Released())

    def give_way(self) -> None:
        """Another work-horse takes over at once: what has not begun goes back, and a setup is left."""
        self.release_what_waits()
        if not self._held:
            self._lane.clear()

    def shoot(self) -> None:
        """RQ's command kill-horse: what runs has not survived."""
        self._stable.horse.shoot()

    def next_limit(self, ends_at: float) -> float:
        """When keep_limits, or dispatch, has something to do."""
        times = [min(held.kill_at, held.deadline if held.ending is None else math.inf) for held in self._running()]
        times += [batch.until for batch in self._batches.values()]
        waiting = [held.execution.job.start_deadline for held in self._held.values() if held.begun_at is None]
        times.append(time.monotonic() + min(waiting, default=math.inf) - self._clock.unix)
        if ends_at < math.inf and any(held.ending is None for held in self._running()):
            times.append(ends_at)
        if self._suspects:
            times.append(self._suspects.proven_at({*self._lane.jobs, *self._on_event_loop()}))
        current = self._lane.current
        if current is not None and current.loads:
            times.append(self._setup_ends_at(current))
        return min([self._lane.late_at(), self._stuck_at(), self._held_at(), *times])

    def _setup_ends_at(self, unit: Unit) -> float:
        return (unit.begun_at or math.inf) + self._settings.setup_timeout

    def _stuck_at(self) -> float:
        return stuck.stuck_at(self._lane, self._on_event_loop())

    def _held_at(self) -> float:
        return math.inf if self.swamped else self._stable.held_at

    def _kill(self, why: str) -> None:
        self._killed = why
        self._stable.horse.kill()
        self.hear()

    def _running(self) -> Iterator[Held]:
        current = self._lane.current
        if current is not None:
            yield from current.jobs
        yield from self._on_event_loop()

    def _on_event_loop(self) -> Iterator[Held]:
        return (held for held in self._held.values() if held.on_event_loop)

    def _return_units(self) -> None:
        """Take back what waits behind the current unit."""
        current = self._lane.current
        for unit in self._lane.take_back(self._stable.horse):
            stays = unit.loads or unit is current  # which the work-horse may not have begun
            for held in [] if stays else unit.jobs:
                self._finish(held, Released())
            if stays:
                self._lane.give(self._stable.horse, unit)

    def _leave_waiting(self, leaving: list[Held], outcome: Outcome) -> None:
        """End those of them that have not begun."""
        gone = set(leaving) - set(self._running())
        if not gone:
            return
        waiting = [*self._parked.values(), *(batch.jobs for batch in self._batches.values()), self._suspects.waiting]
        for jobs in waiting:
            for held in gone.intersection(jobs):
                jobs.remove(held)
        units = self._lane.take_back(self._stable.horse)
        gone -= self._lane.jobs  # which the work-horse has just begun
        for unit in units:
            unit.jobs = [held for held in unit.jobs if held not in gone]
            if unit.jobs or unit.loads:
                self._lane.give(self._stable.horse, unit)
        for held in gone:
            self._finish(held, outcome)
