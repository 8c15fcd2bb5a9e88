"""The supervisor: takes jobs, has its work-horse run them, and records how they end, whatever happens.

One per worker process. It imports no model; all that a model can do to it is to end the work-horse,
and that is an outcome like any other.
"""

from __future__ import annotations

import logging
import math
import time
from typing import Any

import redis

from service.settings import Settings
from service.store import keys
from service.store.away import REDIS_IS_AWAY
from service.store.executions import Executions
from service.store.models import Models
from service.store.recovery import Recovery
from service.worker.books import Books
from service.worker.commands import Commands
from service.worker.control import Control
from service.worker.model_files import ModelFiles
from service.worker.registration import Registration
from service.worker.served import ServedModels
from service.worker.stable import Stable
from service.worker.workload import Workload

log = logging.getLogger("service.worker")

IDLE_LOOK = 1.0  # how often queues are looked at for what stock RQ tools enqueued without a wake-up
RECOVERY_INTERVAL = 1.0
WEAR_INTERVAL = 0.5
FILES_INTERVAL = 0.2
LAST_WRITES = 1.0  # for what a worker has to write after its grace period


_LOGGED = frozenset({"shutdown", "kill-horse", "stop-job", "stop-execution"})
_FIELDS = frozenset({"command", "operation", "on", "user", "host", "outcome", "job_id"})


class NothingToServe(Exception):
    """There is no model that this worker may serve; the message says where it looked."""


class Supervisor:
    """One worker; `run` returns when it is asked to stop, or with `burst` when nothing is queued."""

    def __init__(
        self,
        settings: Settings,
        connection: redis.Redis,
        models: frozenset[str] = frozenset(),
        queues: frozenset[str] = frozenset(),
        name: str | None = None,
        burst: bool = False,
    ) -> None:
        self._settings = settings
        self._redis = connection
        self._only_queues = queues
        self._burst = burst
        self._registration = Registration([], connection, name)
        self._name = self._registration.name
        self._executions = Executions(connection, settings)
        self._recovery = Recovery(connection, settings, self._name)
        self._control = Control(settings.grace_period)
        self._published = Models(connection)
        self._models = ServedModels(settings, self._published, self._name, models, self._executions.clock)
        self._stable = Stable(settings, self._models)
        self._books = Books(self._executions, self._name, self._control)
        self._workload = Workload(settings, self._models, self._stable, self._books, self._executions.clock)
        self._files = ModelFiles(settings.jobs_dir)
        self._look_at = 0.0
        self._waiting_told = False

    def run(self) -> None:
        """Work until asked to stop. Raises NothingToServe, CannotImport, NameTaken."""
        self._control.install_signals()
        try:
            self._begin()
            while self._step():
                pass
        except REDIS_IS_AWAY as error:  # nothing could be written any more before it had to end
            log.error("ended while Redis was away", extra={"error": str(error)})
        finally:
            self._end()

    def _begin(self) -> None:
        while not self._stable.introduced and not self._control.stopping:
            self._stable.keep()
            self._control.wait(time.monotonic() + 0.5, self._stable.filenos())
            self._workload.hear()
        if self._control.stopping:
            return
        queues = self._queues()
        if not queues and not self._settings.reload and (self._only_queues or not self._models.broken):
            where = f" on {', '.join(sorted(self._only_queues))}" if self._only_queues else ""
            raise NothingToServe(f"no model of {self._settings.jobs_dir} to serve{where}")
        self._control.persist(lambda: self._registration.join(queues))
        self._control.persist(self._models.report)
        self._control.persist(self._models.look_elsewhere)  # before it takes jobs that it may not be able to run
        self._control.listen(Commands(self._redis, self._name, queues))
        self._control.every(self._settings.lease / 3, self._renew)
        self._reporting = self._control.every(self._settings.lease / 3, self._report)
        self._control.every(WEAR_INTERVAL, self._stable.look)
        self._control.every(WEAR_INTERVAL, self._look_for_setups)
        if self._settings.reload:
            self._control.every(FILES_INTERVAL, self._look_at_files)
        self._control.every(RECOVERY_INTERVAL, lambda: self._recovery.run(self._control.redis_away_at))
        log.info("worker started", extra={"worker": self._name, "queues": ",".join(queues)})

    def _step(self) -> bool:
        """Do all that is due, then wait; False when this worker's work is over."""
        self._stable.keep()
        self._workload.hear()
        self._stable.keep()  # it may have died
        self._obey()
        self._workload.keep_limits(self._ends_at)
        self._stable.keep()
        self._workload.dispatch(at_once=self._control.stopping)
        if self._control.stopping:
            self._workload.release_what_waits()
            self._tell_what_it_waits_for()
        self._turn()
        self._control.tick()  # after that: recovery must find written what ended while this process was frozen
        self._replace()
        loading = not self._control.stopping and self._workload.load_when_idle()
        if self._is_over(loading):
            return False
        if self._models.changed:
            self._models.changed = False
            self._reporting.hasten()
            self._control.tick()
        readable = [] if self._workload.swamped else self._stable.filenos()
        writable = [] if self._stable.horse.flush() else self._stable.horse.links()
        self._control.wait(self._next(), readable, writable)
        return True

    @property
    def _ends_at(self) -> float:
        """When what runs must end, as time.monotonic(): also when changed model files are to be served."""
        return time.monotonic() if self._stable.reloading else self._control.ends_at

    def _replace(self) -> None:
        if self._stable.reloading:
            self._workload.give_way()
        self._stable.replace(idle=self._workload.idle)
        if not self._settings.reload or not self._models.changed:
            return
        if (queues := self._queues()) != self._registration.queue_names():
            self._control.persist(lambda: self._registration.listen(queues))
            if self._control.commands is not None:
                self._control.commands.listen_for(queues)

    def _look_at_files(self) -> None:
        if self._files.changed(libraries=self._models.broken) and not self._control.stopping:
            log.info("model files have changed")
            self._stable.reload()

    def _tell_what_it_waits_for(self) -> None:
        if not self._waiting_told and self._workload.held and self._control.ends_at != math.inf:
            self._waiting_told = True
            log.warning(
                "asked to stop: what runs may go on for GRACE_PERIOD; a second signal (Ctrl-C) gives it back at once",
                extra={
                    "seconds": self._settings.grace_period,
                    "jobs": ",".join(held.execution.job.id for held in self._workload.held),
                },
            )

    def _is_over(self, loading: bool) -> bool:
        if self._books.pending and time.monotonic() > self._control.ends_at + LAST_WRITES:
            raise redis.exceptions.ConnectionError("it did not come back within the grace period")
        if self._workload or self._books.pending:
            return False
        return self._control.stopping or (self._burst and not loading and self._look_at > time.monotonic())

    def _turn(self) -> None:
        """Write what is to be written, and take what there is room for."""
        if time.monotonic() < self._books.not_before:
            return
        if self._control.woken:
            self._control.woken, self._look_at = False, 0.0
        writing = self._books.pending or any(held.told or held.begin_untold for held in self._workload.held)
        if not writing and self._look_at > time.monotonic():
            return
        wanted = [] if self._control.stopping else self._workload.wanted(self._only_queues)
        if not writing and not wanted:
            if self._workload.room_at() <= time.monotonic():
                self._look_at = time.monotonic() + IDLE_LOOK
            return
        ended = self._books.pending
        turn = self._books.turn(self._workload.held, wanted, self._workload.running)
        if turn is None:
            return
        for execution in turn.lost:
            self._workload.lose(execution)
        self._workload.start(turn.taken)
        # After an end there may be room for others than those that were asked for. Who puts one into a queue that was
        # found empty says so, and to ask at once would delay what the work-horse says next.
        found_all_empty = turn.empty and len(wanted) == len(self._registration.queue_names())
        more = turn.again or ((turn.taken or ended) and not found_all_empty)
        self._look_at = 0.0 if more else time.monotonic() + IDLE_LOOK

    def _next(self) -> float:
        """When there is something to do, though nobody says anything."""
        limits = self._workload.next_limit(self._ends_at)
        if self._books.pending or any(held.told for held in self._workload.held):
            return min(limits, self._books.not_before, self._control.ends_at + LAST_WRITES)
        if self._control.stopping:
            return limits
        return min(limits, max(self._look_at, self._workload.room_at(), self._books.not_before))

    def _obey(self) -> None:
        # RQ's commands, rq/command.py, and one of ours.
        for command in self._control.heard():
            name = command["command"]
            if name == "log":  # ours: store/workers.py
                log.warning("a command was carried out", extra=_said(command))
                continue
            if name in _LOGGED and command.get("by") != "service":
                log.warning("a command of RQ's is obeyed", extra=_said(command))
            if name == "shutdown":
                self._control.end()
            elif name == "drain":  # ours: store/workers.py
                self._drain()
            elif name == "kill-horse":
                self._workload.shoot()
            elif name in ("stop-job", "stop-execution") and isinstance(command.get("job_id"), str):
                self._workload.stop(command["job_id"])
            else:
                log.info("command passed over", extra={"command": name[:40]})

    def _renew(self) -> None:
        self._registration.renew(round(self._settings.lease * 4))
        running = [held.execution for held in (*self._workload.held, *self._books.unwritten)]
        for execution, answer in zip(running, self._executions.renew(self._name, running), strict=True):
            if answer == 0:
                self._workload.lose(execution)
            elif answer == 2:
                self._workload.stop(execution.job.id)

    def _report(self) -> None:
        self._models.report()
        ahead = self._executions.clock.host_ahead
        more = self._models.not_served, self._workload.setting_up
        if self._registration.show(self._models.states(), self._control.stopping, ahead, *more):
            self._drain()

    def _drain(self) -> None:
        if not self._control.stopping:
            self._control.drain()
            self._reporting.hasten()
            log.warning("this worker drains: it takes nothing new, and ends with its last job")

    def _look_for_setups(self) -> None:
        if self._control.stopping:
            return
        self._models.look_elsewhere()
        if sought := self._workload.sought:
            for name in self._published.waited_for(sought):
                self._models.wake(name)
        self._workload.load_beside()

    def _queues(self) -> list[str]:
        names = [keys.queue_name(name, priority) for priority in keys.PRIORITIES for name in self._models.names]
        return [name for name in names if not self._only_queues or name in self._only_queues]

    def _end(self) -> None:
        self._stable.end()
        if self._control.commands is None:  # it never began
            return
        self._control.commands.stop()
        try:
            self._models.withdraw()
            self._executions.forget(self._name)
            self._recovery.release()
            self._registration.register_death()
        except redis.exceptions.RedisError as error:
            log.warning("could not say goodbye: %s", error)
        log.info("worker ended", extra={"worker": self._name})


def _said(command: dict[str, Any]) -> dict[str, str]:
    """What a log line says of a command: anybody who reaches Redis can send one."""
    return {name: str(value)[:200] for name, value in command.items() if name in _FIELDS}
