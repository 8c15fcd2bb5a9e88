"""The supervisor: takes jobs, has its work-horse run them, and records how they end, whatever happens.

One per worker process. It imports no model; all that a model can do to it is to end the work-horse,
and that is an outcome like any other.
"""

from __future__ import annotations

import logging
import uuid
from typing import Any

import redis

from service.settings import Settings
from service.store import keys
from service.store.clock import now
from service.store.connection import REDIS_IS_AWAY
from service.store.executions import Execution, Executions, LeaseLost, Suspended
from service.store.job import UnreadableJob
from service.store.models import Models
from service.store.outcomes import Failed, Outcome, Released, Stopped
from service.store.recovery import Recovery
from service.worker.commands import Commands
from service.worker.control import Control
from service.worker.registration import Registration
from service.worker.running import RunningJob
from service.worker.served import ServedModels
from service.worker.stable import Stable

log = logging.getLogger("service.worker")

IDLE_LOOK = 1.0  # how often queues are looked at for what stock RQ tools enqueued without a wake-up
RECOVERY_INTERVAL = 1.0


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
        self._turn = 0
        self._busy = False
        self._registration = Registration([], connection, name)
        self._name = self._registration.name
        self._executions = Executions(connection, settings)
        self._recovery = Recovery(connection, settings, self._name)
        self._stable = Stable(settings)
        self._control = Control(self._stable, settings.grace_period)
        self._models = ServedModels(settings, Models(connection), self._stable, self._control, self._name, only=models)

    def run(self) -> None:
        """Work until asked to stop. Raises NothingToServe, CannotImport."""
        self._control.install_signals()
        try:
            self._begin()
            while not self._control.stopping and self._step():
                pass
        except REDIS_IS_AWAY as error:  # nothing could be written any more before it had to end
            log.error("ended while Redis was away", extra={"error": str(error)})
        finally:
            self._end()

    def _begin(self) -> None:
        self._models.meet()
        if self._control.stopping:
            return
        queues = self._queues()
        if not queues and (self._only_queues or not self._models.broken):
            wanted = f" on {', '.join(sorted(self._only_queues))}" if self._only_queues else ""
            raise NothingToServe(f"no model of {self._settings.jobs_dir} to serve{wanted}")
        self._control.persist(lambda: self._registration.join(queues))
        self._control.persist(self._models.report)
        self._control.listen(Commands(self._redis, self._name, queues))
        self._control.every(self._settings.lease / 3, self._renew)
        self._control.every(RECOVERY_INTERVAL, lambda: self._recovery.run(self._control.redis_away_at))
        log.info("worker started", extra={"worker": self._name, "queues": ",".join(queues)})

    def _step(self) -> bool:
        """Run one job, or load one model, or wait; False when a burst is over."""
        self._control.tick()
        self._models.meet()
        try:
            execution = self._take()
        except Suspended:
            execution = None
        if execution is not None:
            self._work(execution)
            return True
        if self._busy:  # take.lua says it is; between two jobs nobody needs to be told otherwise
            self._control.persist(self._registration.idle)
            self._busy = False
        if (name := self._models.due()) is not None:
            self._models.set_up(name)
        elif self._burst:
            return False
        else:
            self._stable.drop_strays()
            self._control.wait(IDLE_LOOK)
        return True

    def _take(self) -> Execution | None:
        # One id for all tries of this step: asking again gives the job that was taken, not another.
        execution_id = uuid.uuid4().hex
        queues = self._queues()
        return self._control.persist(lambda: self._executions.take(execution_id, self._name, queues))

    def _work(self, execution: Execution) -> None:
        """Take one started job to its outcome and record it."""
        self._control.begin(execution)
        self._busy = True
        about = {"job_id": execution.job.id, "model": execution.job.model, "attempt": execution.number}
        log.info("job started", extra=about)
        try:
            outcome = self._outcome(execution)
            status = self._control.persist(lambda: self._executions.record(execution, outcome))
            level = logging.WARNING if isinstance(outcome, Failed) else logging.INFO
            log.log(level, "job %s", status, extra={**about, **_reason(outcome)})
        except LeaseLost:
            self._stable.kill()
            log.warning("the job was taken over by another worker, or erased", extra=about)
        finally:
            self._control.begin(None)

    def _outcome(self, execution: Execution) -> Outcome:
        try:
            name, value = execution.job.call()
        except UnreadableJob as error:
            return Failed("refused", str(error), again=False)
        served = self._models.get(name)
        if served is None:
            return Failed("unknown_model", f"this worker has no model {name}", again=False)
        if served.state != "ready" and not (served.due() and self._models.set_up(name)):
            return self._not_set_up(execution, name)
        self._stable.send({"run": execution.job.id, "model": name, "input": value})
        return RunningJob(execution, self._settings, self._executions, self._stable, self._control).outcome()

    def _not_set_up(self, execution: Execution, name: str) -> Outcome:
        if self._control.stop_asked:
            return Stopped("killed", now().rfc3339)
        if self._control.stopping:
            return Released()
        served = self._models.get(name)
        assert served is not None
        # Not before the next try of setup: else the job's tries are over before the model had a chance.
        # And a job that came after the last one has not had any yet.
        if execution.job.enqueued_at > served.failed_at:
            return Released(after=served.pause())
        return Failed("setup_failed", f"the model could not be loaded: {served.error}", after=served.pause())

    def _renew(self) -> None:
        self._registration.renew(round(self._settings.lease * 4))
        self._models.report()
        running = self._control.running
        if running is not None and self._executions.renew(running):
            self._control.stop_asked = True

    def _queues(self) -> list[str]:
        """The queues to look at, in order: by priority, and within one each model first in its turn."""
        names = self._models.names
        self._turn = (self._turn + 1) % max(1, len(names))
        turned = names[self._turn :] + names[: self._turn]
        queues = [keys.queue_name(name, priority) for priority in keys.PRIORITIES for name in turned]
        return [queue for queue in queues if not self._only_queues or queue in self._only_queues]

    def _end(self) -> None:
        self._stable.kill()
        if self._control.commands is None:  # it never began
            return
        self._control.commands.stop()
        try:
            self._models.withdraw()
            self._executions.forget(self._name)
            self._recovery.release()
            self._registration.register_death()  # type: ignore[no-untyped-call]
        except redis.exceptions.RedisError as error:
            log.warning("could not say goodbye: %s", error)
        log.info("worker ended", extra={"worker": self._name})


def _reason(outcome: Outcome) -> dict[str, Any]:
    return {"error_type": outcome.type, "error": outcome.message} if isinstance(outcome, Failed) else {}
