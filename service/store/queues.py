"""The queues as operators see them: what waits, runs and has failed in each, and whether it is paused."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import redis

from service.store import keys
from service.store.scripts import readable


class QueueNotFound(Exception):
    """No job was ever put into a queue of this name, and no published model has it."""


@dataclass(frozen=True)
class QueueState:
    """A queue now. `model` and `priority` are None if it is no published model's."""

    name: str
    model: str | None
    priority: str | None
    depth: int
    scheduled: int
    running: int
    failed: int
    """Failed and stopped jobs."""
    paused: bool

    def to_json(self) -> dict[str, Any]:
        """The queue as GET /v1/queues shows it."""
        return asdict(self)


class Queues:
    """The queues of the published models, and all others that were ever used."""

    def __init__(self, connection: redis.Redis) -> None:
        self._redis = connection

    def all(self) -> list[QueueState]:
        """All queues, by model and priority; then those of no model. Two round trips."""
        owners, names, paused = self._known()
        owned = [name for name in owners if name in names]
        return self._states([*owned, *sorted(names - owners.keys())], owners, paused)

    def of(self, names: list[str]) -> list[QueueState]:
        """These queues. Two round trips."""
        owners, _, paused = self._known()
        return self._states(names, owners, paused)

    def check(self, name: str) -> None:
        """Make sure that there is a queue of this name. Raises QueueNotFound. One round trip."""
        if name not in self._known()[1]:
            raise QueueNotFound(name)

    def _known(self) -> tuple[dict[str, tuple[str, str]], set[str], set[str]]:
        """Model and priority of each queue of a model, the names of all queues, and of those that are paused."""
        with self._redis.pipeline(transaction=False) as pipeline:
            pipeline.hkeys(keys.MODELS)
            pipeline.smembers(keys.QUEUES)
            pipeline.smembers(keys.PAUSED)
            models, used, paused = (
                {each.decode(errors="replace") for each in answer or ()}
                for answer in readable(pipeline.execute(raise_on_error=False))
            )
        owners = {
            keys.queue_name(model, priority): (model, priority)
            for model in sorted(models)
            for priority in keys.PRIORITIES
        }
        return owners, {*owners, *(key.removeprefix(keys.queue("")) for key in used), *paused}, paused

    def _states(self, names: list[str], owners: dict[str, tuple[str, str]], paused: set[str]) -> list[QueueState]:
        with self._redis.pipeline(transaction=False) as pipeline:
            for name in names:
                pipeline.llen(keys.queue(name))
                for status in ("scheduled", "wip", "failed"):
                    pipeline.zcard(keys.registry(status, name))
            counts = iter([count or 0 for count in readable(pipeline.execute(raise_on_error=False))])
        states = []
        for name, depth, scheduled, running, failed in zip(names, counts, counts, counts, counts, strict=True):
            model, priority = owners.get(name, (None, None))
            states.append(QueueState(name, model, priority, depth, scheduled, running, failed, name in paused))
        return states
