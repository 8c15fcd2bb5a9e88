"""What workers publish about their models, and what the web process knows of them.

A description outlives its workers: jobs for the model are accepted and wait. Which workers serve it,
and in which state they are, is said with each heartbeat and forgotten without one.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any, Literal

import redis

from service.store import keys
from service.store.clock import now
from service.store.events import dumps

State = Literal["loading", "ready", "unloaded", "failed"]


class ModelNotFound(Exception):
    """No worker ever published a model of this name."""


@dataclass(frozen=True)
class Report:
    """How one worker's model does; `rate` is the jobs a second that it has ended lately."""

    state: State
    error: str | None = None
    rate: float = 0


@dataclass(frozen=True)
class PublishedModel:
    """A model as its workers described it, its queues, and the workers that serve it now."""

    description: dict[str, Any]
    workers: dict[str, dict[str, Any]]
    depths: dict[str, int]
    paused: frozenset[str]
    """The names of all queues that are paused."""

    @property
    def name(self) -> str:
        return str(self.description["name"])

    @property
    def callable(self) -> bool:
        """Whether its types are known: a file that never could be imported has none."""
        return self.description["input_schema"] is not None

    @property
    def state(self) -> str:
        """The best state among its live workers; `offline` without one."""
        states = {worker["state"] for worker in self.workers.values()}
        return next((state for state in ("ready", "unloaded", "loading", "failed") if state in states), "offline")

    @property
    def error(self) -> str | None:
        """Why it is failed."""
        if self.state != "failed":
            return None
        return next(str(worker["error"]) for worker in self.workers.values() if worker["state"] == "failed")

    @property
    def rate(self) -> float:
        """Jobs a second that its workers have ended lately."""
        return sum(float(worker.get("rate", 0)) for worker in self.workers.values())

    def to_json(self, root: str = "") -> dict[str, Any]:
        """The model as GET /v1/models shows it; `root` is the path under which the service is."""
        return {
            **self.description,
            "queues": [
                {"name": name, "priority": priority, "depth": self.depths[priority], "paused": name in self.paused}
                for priority, name in zip(keys.PRIORITIES, keys.queues_of(self.name), strict=True)
            ],
            "state": self.state,
            "ready": self.state in ("ready", "unloaded"),
            "workers": len(self.workers),
            "error": self.error,
            "urls": {"self": f"{root}/v1/models/{self.name}", "jobs": f"{root}/v1/models/{self.name}/jobs"},
        }


class Models:
    """The published models."""

    def __init__(self, connection: redis.Redis) -> None:
        self._redis = connection

    def publish(self, descriptions: Iterable[dict[str, Any]]) -> None:
        """Make the descriptions of models known. One round trip."""
        mapping = {description["name"]: dumps(description) for description in descriptions}
        if mapping:
            self._redis.hset(keys.MODELS, mapping=mapping)

    def publish_broken(self, names_and_files: Iterable[tuple[str, str]]) -> None:
        """Make files known that could not be imported, unless there is an earlier description of the model."""
        with self._redis.pipeline(transaction=False) as pipeline:
            for name, file in names_and_files:
                pipeline.hsetnx(keys.MODELS, name, dumps(_unknown(name, file)))
            pipeline.execute()

    def report(self, worker: str, reports: dict[str, Report], ttl: float) -> None:
        """Say how each model of a worker does; it holds for `ttl` seconds. One round trip."""
        until = now().unix + ttl
        with self._redis.pipeline(transaction=False) as pipeline:
            for model, each in reports.items():
                report = dumps({**asdict(each), "until": until})
                pipeline.hset(keys.serving(model), worker, report)
                pipeline.expire(keys.serving(model), round(ttl) + 1)
            pipeline.execute()

    def withdraw(self, worker: str, models: Iterable[str]) -> None:
        """A worker ends: it serves nothing any more."""
        with self._redis.pipeline(transaction=False) as pipeline:
            for model in models:
                pipeline.hdel(keys.serving(model), worker)
            pipeline.execute()

    def names(self) -> list[str]:
        """The names of all published models."""
        names: Any = self._redis.hkeys(keys.MODELS)
        return sorted(name.decode() for name in names)

    def all(self) -> list[PublishedModel]:
        """All published models, by name. Two round trips."""
        published: Any = self._redis.hgetall(keys.MODELS)
        models = self._complete([json.loads(text) for text in published.values()])
        return sorted((model for model in models if not self._forgotten(model)), key=lambda model: model.name)

    def get(self, name: str) -> PublishedModel:
        """One published model. Raises ModelNotFound. Two round trips."""
        (model,) = self._complete([json.loads(self.described(name))])
        if self._forgotten(model):
            raise ModelNotFound(name)
        return model

    def described(self, name: str) -> bytes:
        """The description of one model, JSON. Raises ModelNotFound. One round trip."""
        text: Any = self._redis.hget(keys.MODELS, name)
        if text is None:
            raise ModelNotFound(name)
        return bytes(text)

    def forget(self, name: str) -> None:
        """Forget a model that no worker has any more. Raises ModelNotFound."""
        if not self._redis.hdel(keys.MODELS, name):
            raise ModelNotFound(name)

    def _complete(self, descriptions: list[dict[str, Any]]) -> list[PublishedModel]:
        with self._redis.pipeline(transaction=False) as pipeline:
            pipeline.smembers(keys.PAUSED)
            for description in descriptions:
                pipeline.hgetall(keys.serving(description["name"]))
                for queue in keys.queues_of(description["name"]):
                    pipeline.llen(keys.queue(queue))
            answers = iter(pipeline.execute())
        paused = frozenset(name.decode() for name in next(answers))
        moment = now().unix
        models = []
        for description in descriptions:
            reports = {name.decode(): json.loads(text) for name, text in next(answers).items()}
            alive = {name: report for name, report in reports.items() if report["until"] > moment}
            depths = {priority: next(answers) for priority in keys.PRIORITIES}
            models.append(PublishedModel(description, alive, depths, paused))
        return models

    def _forgotten(self, model: PublishedModel) -> bool:
        # A file that never worked, and no worker meets it any more: it was mended or removed.
        return not model.callable and not model.workers


def _unknown(name: str, file: str) -> dict[str, Any]:
    fields: tuple[str, ...]
    fields = ("version", "description", "kind", "input_schema", "output_schema", "timeout", "retries", "result_ttl")
    fields += ("backoff", "fatal", "max_crashes", "max_queued", "max_batch_size", "batch_timeout", "concurrency")
    fields += ("keep_alive",)
    return {"name": name, **dict.fromkeys(fields), "file": file}
