"""Why jobs wait though workers live: for whoever runs the service at a terminal, and wonders."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Literal

import redis

from service.store import keys
from service.store.clock import from_rq, to_unix
from service.store.models import Models, PublishedModel
from service.store.scripts import readable
from service.store.workers import Workers, WorkerState

AFTER = 3.0
"""Seconds that a job may wait, and another run, until that is worth a word."""
_MOST_LOOKED_AT = 100

Kind = Literal["offline", "setup", "job", "perhaps its own", "version"]


@dataclass(frozen=True)
class HoldUp:
    """Jobs of a model wait. `by` is what for: a model's name, a job's id or a version.

    "perhaps its own": for a job that ran when the waiting one was submitted, and so may itself wait for that.
    """

    model: str
    kind: Kind
    job_id: str = ""
    by: str = ""
    by_model: str = ""
    seconds: float = 0.0


@dataclass(frozen=True)
class _Job:
    id: str
    model: str
    created_at: float
    started_at: float


class HoldUps:
    """All that hold jobs up now."""

    def __init__(self, connection: redis.Redis, ttl: float) -> None:
        self._redis = connection
        self._models = Models(connection, ttl)
        self._workers = Workers(connection)

    def all(self) -> list[HoldUp]:
        """At most one for each model. Two or three round trips when no job waits."""
        waiting = self._models.waited_for(self._models.names())
        apart = bool(self._redis.exists(keys.APART))
        if not waiting and not apart:
            return []
        models = {model.name: model for model in self._models.all()}
        workers = {worker.name: worker for worker in self._workers.all()}
        seconds, micro = self._redis.time()
        now = float(seconds) + micro / 1e6
        found = [self._of(models[name], models, workers, now) for name in waiting if name in models]
        found += [self._apart(model) for model in models.values()] if apart else []
        return [each for each in found if each is not None]

    def _of(
        self, model: PublishedModel, models: dict[str, PublishedModel], workers: dict[str, WorkerState], now: float
    ) -> HoldUp | None:
        first = self._first(model)
        if first is None or now - first.created_at < AFTER:
            return None
        serving = [workers[name] for name in model.workers if name in workers]
        if not serving:
            return HoldUp(model.name, "offline", first.id)
        each = [self._held_up(first, worker, models, now) for worker in serving]
        busy = [hold_up for hold_up in each if hold_up is not None]
        if len(busy) < len(each):
            return None
        # What may never end by itself is the most urgent to know, if all of them are so.
        return next((hold_up for hold_up in busy if hold_up.kind != "perhaps its own"), busy[0])

    def _held_up(
        self, first: _Job, worker: WorkerState, models: dict[str, PublishedModel], now: float
    ) -> HoldUp | None:
        if worker.setting_up:
            if worker.setting_up == first.model:
                return None
            return HoldUp(first.model, "setup", first.id, worker.setting_up, worker.setting_up)
        for job in self._jobs(worker.jobs):
            ran = now - job.started_at
            if ran < AFTER or _runs_beside_others(job.model, first.model, models):
                continue
            own = first.created_at >= job.started_at
            if job.model != first.model or own:
                return HoldUp(first.model, "perhaps its own" if own else "job", first.id, job.id, job.model, ran)
        return None

    def _apart(self, model: PublishedModel) -> HoldUp | None:
        served = {worker.get("version") for worker in model.workers.values()}
        with self._redis.pipeline(transaction=False) as pipeline:
            for queue in keys.queues_of(model.name):
                pipeline.zrange(keys.registry("scheduled", queue), 0, _MOST_LOOKED_AT - 1)
            ids = [each for ids in readable(pipeline.execute(raise_on_error=False)) for each in keys.job_ids(ids or ())]
            for job_id in ids:
                pipeline.hget(keys.job(job_id), "waits_for")
            versions = [each and each.decode(errors="replace") for each in readable(pipeline.execute(False))]
        for job_id, version in zip(ids, versions, strict=True):
            if version and version not in served:
                return HoldUp(model.name, "version", job_id, version)
        return None

    def _first(self, model: PublishedModel) -> _Job | None:
        """The job that waits in front, of the queues that are not paused."""
        with self._redis.pipeline(transaction=False) as pipeline:
            for queue in keys.queues_of(model.name):
                if queue not in model.paused:
                    pipeline.lrange(keys.queue(queue), 0, 0)
            found = [
                each for ids in readable(pipeline.execute(raise_on_error=False)) for each in keys.job_ids(ids or ())
            ]
        return next(iter(self._jobs(found)), None)

    def _jobs(self, job_ids: Iterable[str]) -> Iterator[_Job]:
        ids = list(job_ids)[:_MOST_LOOKED_AT]
        with self._redis.pipeline(transaction=False) as pipeline:
            for job_id in ids:
                pipeline.hmget(keys.job(job_id), "model", "enqueued_at", "started_at")
            answers = list(readable(pipeline.execute(raise_on_error=False)))
        for job_id, answer in zip(ids, answers, strict=True):
            model, queued, started = (_text(each) for each in answer or (None, None, None))
            if model:
                yield _Job(job_id, model, to_unix(from_rq(queued)), to_unix(from_rq(started)))


def _runs_beside_others(running: str, waiting: str, models: dict[str, PublishedModel]) -> bool:
    """Whether a job of one model keeps none of another waiting: on the event loop it is beside all others."""
    model = models.get(running)
    if running == waiting or model is None:
        return False
    return str(model.description["kind"]).startswith("async")


def _text(value: Any) -> str:
    return value.decode(errors="replace") if value else ""
