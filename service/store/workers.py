"""The workers in RQ's books, this service's and others, as operators see them; and how one is told to drain."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any

import redis

from service.store import keys
from service.store.clock import from_rq
from service.store.events import dumps
from service.store.scripts import readable


class WorkerNotFound(Exception):
    """RQ's books have no living worker of this name."""


class WorkerCannotDrain(Exception):
    """This worker is one of RQ's own, or of another application: it would pass the command over."""


class WorkerNotListening(Exception):
    """This worker is in the books, and nobody has heard the command."""


@dataclass(frozen=True)
class WorkerState:
    """A worker now, in RQ's words; `state` is also `draining`. Times are RFC 3339."""

    name: str
    state: str
    queues: list[str]
    jobs: list[str]
    """The ids of the jobs that it holds."""
    hostname: str
    pid: int | None
    birth: str | None
    last_heartbeat: str | None
    clock_ahead: float
    """Seconds by which the clock of its host is ahead of Redis's; less than 0 if it is behind."""
    successful_job_count: int
    failed_job_count: int
    not_served: list[str]
    """What of its jobs folder it does not serve, and why."""
    setting_up: str | None = None
    """The model whose setup keeps its other jobs waiting."""

    def to_json(self) -> dict[str, Any]:
        """The worker as GET /v1/workers shows it."""
        return asdict(self)


class Workers:
    """All workers that live."""

    def __init__(self, connection: redis.Redis) -> None:
        self._redis = connection
        self._channels = keys.Channels(connection)

    def all(self) -> list[WorkerState]:
        """All of them, by name. Two round trips."""
        with self._redis.pipeline(transaction=False) as pipeline:
            pipeline.smembers(keys.WORKERS)
            pipeline.exists(keys.SUSPENDED)
            members, suspended = readable(pipeline.execute(raise_on_error=False))
        names = (each.decode(errors="replace").removeprefix(keys.worker("")) for each in members or ())
        return self._read(sorted(names), bool(suspended))

    def check(self, name: str) -> None:
        """Make sure that a worker of this name lives. Raises WorkerNotFound. One round trip."""
        with self._redis.pipeline(transaction=False) as pipeline:
            pipeline.sismember(keys.WORKERS, keys.worker(name))
            pipeline.type(keys.worker(name))  # somebody may have made something else of it
            known, kind = readable(pipeline.execute(raise_on_error=False))
        if not known or kind != b"hash":
            raise WorkerNotFound(name)

    def drain(self, name: str) -> None:
        """Tell a worker to take nothing new and to end when its jobs are over, however long that takes.

        Raises WorkerNotFound, WorkerCannotDrain, WorkerNotListening. Three round trips.
        """
        self.check(name)
        with self._redis.pipeline(transaction=False) as pipeline:
            pipeline.hexists(keys.worker(name), "draining")
            # One of RQ's own hears RQ's commands only.
            pipeline.pubsub_numsub(keys.rq_commands(name))
            ours, ((_, listening),) = pipeline.execute()
        if not ours:
            raise WorkerCannotDrain(name) if listening else WorkerNotListening(name)
        with self._redis.pipeline() as pipeline:
            # Written too: a message that is sent while its connection is cut is lost.
            pipeline.hset(keys.worker(name), "drain_asked", 1)
            pipeline.publish(self._channels.commands(name), dumps({"command": "drain"}))
            pipeline.execute()

    def tell(self, operation: str, what: dict[str, str]) -> bool:
        """Have one worker log what was done on a command line, where nobody keeps what is printed; whether one does."""
        message = dumps({"command": "log", "operation": operation, **what})
        return any(self._redis.publish(self._channels.commands(worker.name), message) for worker in self.all())

    def _read(self, names: list[str], suspended: bool) -> list[WorkerState]:
        with self._redis.pipeline(transaction=False) as pipeline:
            for name in names:
                pipeline.hgetall(keys.worker(name))
                pipeline.smembers(keys.worker_executions(name))
            answers = iter(list(readable(pipeline.execute(raise_on_error=False))))
        # One whose hash has expired died without a word: RQ takes it out of its books when it looks there next.
        return [
            _state(name, fields, members, suspended)
            for name, fields, members in zip(names, answers, answers, strict=True)
            if fields
        ]


def _state(name: str, raw: dict[bytes, bytes], members: Iterable[bytes], suspended: bool) -> WorkerState:
    fields = {field.decode(errors="replace"): value.decode(errors="replace") for field, value in raw.items()}
    state = fields.get("state", "")
    if suspended and state == "idle":
        state = "suspended"  # RQ's own worker writes it, ours only obeys
    if "1" in (fields.get("draining"), fields.get("drain_asked")):
        state = "draining"
    return WorkerState(
        name,
        state,
        [queue for queue in fields.get("queues", "").split(",") if queue],
        sorted(keys.job_ids(members or ())),
        fields.get("hostname", ""),
        _number(fields, "pid") or None,
        from_rq(fields.get("birth")),
        from_rq(fields.get("last_heartbeat")),
        _seconds(fields.get("clock_ahead")),
        _number(fields, "successful_job_count"),
        _number(fields, "failed_job_count"),
        _sentences(fields.get("not_served")),
        fields.get("setting_up") or None,
    )


def _number(fields: dict[str, str], name: str) -> int:
    text = fields.get(name, "")
    return int(text) if text.isdecimal() else 0


def not_served(workers: Iterable[WorkerState]) -> list[str]:
    """What is wrong with the jobs folders of all of these, each said once."""
    return sorted({each for worker in workers for each in worker.not_served})


def _sentences(text: str | None) -> list[str]:
    try:
        found = json.loads(text or "[]")
    except (ValueError, RecursionError):
        return []
    return [each for each in found if isinstance(each, str)] if isinstance(found, list) else []


def _seconds(text: str | None) -> float:
    try:
        return round(float(text or 0), 3)
    except ValueError:
        return 0.0
