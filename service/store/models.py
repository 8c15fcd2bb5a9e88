"""What workers publish about their models, and what the web process knows of them.

A description outlives its workers: jobs for the model are accepted and wait. Which workers serve it,
and in which state they are, is said with each heartbeat and forgotten without one.
"""

from __future__ import annotations

import json
import logging
import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import redis

from service.store import keys
from service.store.events import dumps
from service.store.scripts import Scripts, readable

log = logging.getLogger("service.models")

State = Literal["loading", "ready", "unloaded", "failed"]
READY = ("ready", "unloaded")
"""The states in which a job runs at once, or as soon as its model is loaded again."""
When = Literal["now", "if nobody serves what is", "unless there is one"]


class ModelNotFound(Exception):
    """No worker ever published a model of this name, or none has it any more."""


class ModelServed(Exception):
    """A living worker has this model: it would be known again at once."""


@dataclass(frozen=True)
class Report:
    """How one worker's model does; `rate` is the jobs a second that it has ended lately."""

    state: State
    error: str | None = None
    rate: float = 0
    traceback: str | None = None


@dataclass(frozen=True)
class PublishedModel:
    """A model as its workers described it, its queues, and the workers that serve it now."""

    description: dict[str, Any]
    workers: dict[str, dict[str, Any]]
    depths: dict[str, int]
    paused: frozenset[str]
    """The names of all queues that are paused."""
    unseen: float = 0.0
    """Seconds since a worker last said that it has it."""

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
    def traceback(self) -> str | None:
        """Where that was raised, for operators; None if it is not failed, or nothing was raised."""
        if self.state != "failed":
            return None
        told = (worker.get("traceback") for worker in self.workers.values() if worker["state"] == "failed")
        return next((text for text in told if isinstance(text, str) and text), None)

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
            "ready": self.state in READY,
            "workers": len(self.workers),
            "error": self.error,
            "urls": {"self": f"{root}/v1/models/{self.name}", "jobs": f"{root}/v1/models/{self.name}/jobs"},
        }


class Models:
    """The published models."""

    def __init__(self, connection: redis.Redis, ttl: float = math.inf) -> None:
        """`ttl`: seconds for which a model is known that no worker has any more, unless jobs of it wait."""
        self._redis = connection
        self._ttl = ttl
        self._scripts = Scripts(connection)

    def publish(self, descriptions: Iterable[dict[str, Any]]) -> None:
        """Make the descriptions of models known. One round trip."""
        mapping = {description["name"]: dumps(description) for description in descriptions}
        if mapping:
            self._redis.hset(keys.MODELS, mapping=mapping)

    def report(
        self,
        worker: str,
        reports: Iterable[tuple[dict[str, Any], Report]],
        ttl: float,
        when: When = "if nobody serves what is",
    ) -> float:
        """Say how each model of a worker does, by its description; it holds for `ttl` seconds. One round trip.

        `when` the descriptions are published; one without types only if there is none. Returns Redis's time, unix.
        """
        each = [(description, _report(description, report)) for description, report in reports]
        names = [str(description["name"]) for description, _ in each]
        moment = self._scripts.report(
            keys=[keys.MODELS, keys.RENEWED, *map(keys.serving, names)],
            args=[
                worker,
                round(ttl),
                *(
                    part
                    for name, (description, report) in zip(names, each, strict=True)
                    for part in (name, dumps(description), report, when if _typed(description) else _SPARE)
                ),
            ],
        )
        return float(moment)

    def withdraw(self, worker: str, models: Iterable[str]) -> None:
        """A worker ends: it serves nothing any more."""
        with self._redis.pipeline(transaction=False) as pipeline:
            for model in models:
                pipeline.hdel(keys.serving(model), worker)
            pipeline.execute()

    def names(self) -> list[str]:
        """The names of all published models."""
        names: Any = self._redis.hkeys(keys.MODELS)
        return sorted(name.decode() for name in names if _MODEL.fullmatch(name))

    def all(self) -> list[PublishedModel]:
        """All published models, by name. Two round trips."""
        published: Any = self._redis.hgetall(keys.MODELS)
        descriptions = (_description(name, text) for name, text in published.items())
        models = self._complete([each for each in descriptions if each is not None])
        return sorted((model for model in models if not self._forgotten(model)), key=lambda model: model.name)

    def get(self, name: str) -> PublishedModel:
        """One published model. Raises ModelNotFound. Two round trips."""
        description = _description(name.encode(errors="replace"), self.described(name))
        if description is None:
            raise ModelNotFound(name)
        (model,) = self._complete([description])
        if self._forgotten(model):
            raise ModelNotFound(name)
        return model

    def described(self, name: str) -> bytes:
        """The description of one model, JSON. Raises ModelNotFound. One round trip."""
        return self.look(name)[0]

    def look(self, name: str) -> tuple[bytes, bool]:
        """The description of one model, JSON, and whether a worker is ready for its jobs. Raises ModelNotFound.

        One round trip.
        """
        with self._redis.pipeline(transaction=False) as pipeline:
            pipeline.hget(keys.MODELS, name)
            pipeline.time()
            pipeline.hgetall(keys.serving(name))
            pipeline.zscore(keys.RENEWED, name)
            for queue in keys.queues_of(name):
                pipeline.exists(keys.queue(queue))
            text, (now, _), reports, renewed, *waiting = readable(pipeline.execute(raise_on_error=False))
        alive = _alive(reports, now)
        if text is None or (not alive and not any(waiting) and now - (renewed or now) > self._ttl):
            raise ModelNotFound(name)
        return bytes(text), any(report["state"] in READY for report in alive.values())

    def waited_for(self, names: Iterable[str]) -> list[str]:
        """Those of these models of which jobs are queued. One round trip."""
        queues = [(name, keys.queue(queue)) for name in names for queue in keys.queues_of(name)]
        with self._redis.pipeline(transaction=False) as pipeline:
            for _, queue in queues:
                pipeline.exists(queue)
            found = pipeline.execute()
        return sorted({name for (name, _), waits in zip(queues, found, strict=True) if waits})

    def ready_elsewhere(self, names: Sequence[str], worker: str) -> set[str]:
        """Those of these models that another worker than this one is ready for. One round trip."""
        with self._redis.pipeline(transaction=False) as pipeline:
            pipeline.time()
            for name in names:
                pipeline.hgetall(keys.serving(name))
            (now, _), *reports = readable(pipeline.execute(raise_on_error=False))
        others = (
            {report["state"] for each, report in _alive(found, now).items() if each != worker} for found in reports
        )
        return {name for name, states in zip(names, others, strict=True) if states & set(READY)}

    def forget(self, name: str) -> None:
        """Forget a model that no worker has any more. Raises ModelNotFound, ModelServed."""
        answer = self._forget(name, "")
        if answer < 0:
            raise ModelServed(name)
        if not answer:
            raise ModelNotFound(name)

    def forget_old(self) -> None:
        """Forget the models that no worker has said it has for the ttl, if no job of theirs waits or runs."""
        if math.isfinite(self._ttl):
            for name in self.names():
                if self._forget(name, self._ttl) > 0:
                    log.warning("a model is forgotten: no worker has had it for MODEL_TTL", extra={"model": name})

    def _forget(self, name: str, ttl: float | Literal[""]) -> int:
        queues = keys.queues_of(name)
        places = [keys.registry(each, queue) for each in ("wip", "scheduled") for queue in queues]
        answer: int = self._scripts.forget(
            keys=[keys.MODELS, keys.RENEWED, keys.serving(name), *map(keys.queue, queues), *places], args=[name, ttl]
        )
        return answer

    def _complete(self, descriptions: list[dict[str, Any]]) -> list[PublishedModel]:
        with self._redis.pipeline(transaction=False) as pipeline:
            pipeline.smembers(keys.PAUSED)
            pipeline.time()
            for description in descriptions:
                pipeline.hgetall(keys.serving(description["name"]))
                pipeline.zscore(keys.RENEWED, description["name"])
                for queue in keys.queues_of(description["name"]):
                    pipeline.llen(keys.queue(queue))
            answers = iter(readable(pipeline.execute(raise_on_error=False)))
        paused, (seconds, _) = next(answers) or (), next(answers)
        names = frozenset(name.decode(errors="replace") for name in paused)
        models = []
        for description in descriptions:
            alive, renewed = _alive(next(answers), seconds), next(answers)
            depths = {priority: next(answers) or 0 for priority in keys.PRIORITIES}
            models.append(PublishedModel(description, alive, depths, names, seconds - (renewed or seconds)))
        return models

    def _forgotten(self, model: PublishedModel) -> bool:
        if model.workers:
            return False
        # A file that never worked, and no worker meets it any more: it was mended or removed.
        return not model.callable or (model.unseen > self._ttl and not any(model.depths.values()))


_SPARE: When = "unless there is one"


def _typed(description: dict[str, Any]) -> bool:
    return bool(description.get("version")) and description.get("input_schema") is not None


def _report(description: dict[str, Any], report: Report) -> str:
    return dumps({**asdict(report), "version": description.get("version")})[:-1]


_MODEL = re.compile(rb"[a-z][a-z0-9_]{0,63}")
_SHAPES = {"name": str, "version": str, "kind": str, "timeout": int, "retries": int, "input_schema": dict}


def _description(name: bytes, text: bytes) -> dict[str, Any] | None:
    """What a worker published; None for what no worker of this service did."""
    try:
        description = json.loads(text)
        known = isinstance(description, dict) and all(
            isinstance(description.get(field), (shape, type(None))) for field, shape in _SHAPES.items()
        )
        if known and description["name"] == name.decode():
            return {**unknown_description(name.decode(), ""), **description}
    except (ValueError, TypeError, KeyError, RecursionError):
        pass
    log.warning("a description that cannot be read is passed over: %r", name[:64])
    return None


def _alive(reports: dict[bytes, bytes] | None, moment: float) -> dict[str, dict[str, Any]]:
    """What the workers of a model say, of those that live."""
    found = {}
    for name, text in (reports or {}).items():
        try:
            report = json.loads(text)
            if report["until"] > moment and isinstance(report["state"], str):
                found[name.decode(errors="replace")] = report
        except (ValueError, TypeError, KeyError, RecursionError):
            continue
    return found


def unknown_description(name: str, file: str) -> dict[str, Any]:
    """Of a file that could not be imported: its model's name, and no more."""
    fields: tuple[str, ...]
    fields = ("version", "description", "kind", "input_schema", "output_schema", "timeout", "retries", "result_ttl")
    fields += ("backoff", "fatal", "max_crashes", "max_queued", "max_batch_size", "batch_timeout", "concurrency")
    fields += ("keep_alive",)
    return {"name": name, **dict.fromkeys(fields), "file": file}
