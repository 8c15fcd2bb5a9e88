"""Takes jobs from a warm worker's queues and ends them: warm_turn.lua, one round trip a job, safe to send twice."""

# mypy: allow-untyped-calls
# (most of RQ's methods carry no types)

from __future__ import annotations

from base64 import b64encode
from collections.abc import Iterator
from datetime import datetime
from typing import Any, NamedTuple
from uuid import uuid4

import redis
from rq.defaults import RQ_KEY_PREFIX, UNSERIALIZABLE_RETURN_VALUE_PAYLOAD
from rq.executions import Execution, ExecutionRegistry
from rq.job import Job
from rq.queue import Queue
from rq.registry import FinishedJobRegistry, StartedJobRegistry
from rq.results import Result
from rq.suspension import WORKERS_SUSPENDED
from rq.utils import now
from rq.worker import BaseWorker

from service.store.scripts import Scripts

NOTHING_ENDED = [""] * 8


def turn_key(worker_name: str) -> str:
    """Hash: the horse whose turns count and what its last one took. Expires, and goes with the worker."""
    return f"{RQ_KEY_PREFIX}:warm:{worker_name}"


def stored(moment: datetime) -> str:
    """A time as RQ stores it: rq.utils.utcformat, eight times faster."""
    return moment.isoformat(timespec="microseconds")[:26] + "Z"


class Ended(NamedTuple):
    """A plain job that returned: all that warm_turn.lua writes of it."""

    job: Job
    execution: Execution
    ended_at: datetime
    result_ttl: int
    return_value: Any

    def keys(self) -> list[str]:
        job = self.job
        return [
            job.key,
            Result.get_key(job.id),
            job.dependents_key,
            job.dependencies_key,
            self.execution.key,
            StartedJobRegistry.key_template.format(job.origin),
            ExecutionRegistry.key_template.format(job.id),
            FinishedJobRegistry.key_template.format(job.origin),
        ]

    def arguments(self) -> Iterator[Any]:
        job, execution = self.job, self.execution
        yield from (job.id, execution.id, self.result_ttl)
        yield (self.ended_at - execution.created_at).total_seconds()
        yield from (stored(execution.created_at), stored(self.ended_at))
        # As rq.results.Result.serialize, whose constructor costs more than the rest of a turn.
        yield from ("type", Result.Type.SUCCESSFUL.value, "worker_name", execution.worker_name)
        if self.return_value is not None:
            try:
                dumped = job.serializer.dumps(self.return_value)
            except BaseException:  # as RQ does
                dumped = job.serializer.dumps(UNSERIALIZABLE_RETURN_VALUE_PAYLOAD)
            yield from ("return_value", b64encode(dumped))
        yield from ("execution_id", execution.id, "execution_started_at", execution.created_at.timestamp())
        yield from ("execution_ended_at", self.ended_at.timestamp())


class Answer(NamedTuple):
    """What a turn has brought; `word` as in warm_turn.lua."""

    word: str
    lost: bool = False
    job_id: str = ""
    queue: int = 0
    fields: dict[bytes, bytes] = {}  # noqa: RUF012
    execution_id: str = ""
    started: datetime | None = None


class Turns:
    """The turns of one horse. `horse` is the id under which warm_fence.lua lets it write."""

    def __init__(self, connection: redis.Redis, worker: BaseWorker, horse: str) -> None:
        self._script = Scripts(connection, direct=True).warm_turn
        self._worker_name = worker.name
        self._job_prefix = worker.job_class.key_for("")
        self._interval = worker.job_monitoring_interval
        self._horse = horse
        self._number = 0
        self._keys = [turn_key(worker.name), worker.key, worker.executions_key, WORKERS_SUSPENDED]

    def make(self, queues: list[Queue], take: str, ended: Ended | None = None) -> Turn:
        """The next turn: it may be sent until it is answered. `take` is "start", "hold" or ""."""
        self._number += 1
        moment, execution_id = ended.ended_at if ended else now(), uuid4().hex
        keys = self._keys + (ended.keys() if ended else NOTHING_ENDED) + [queue.key for queue in queues]
        arguments = [
            *(self._horse, self._number, take, RQ_KEY_PREFIX, self._job_prefix, self._worker_name, execution_id),
            *(moment.timestamp(), stored(moment), self._interval),
            *(ended.arguments() if ended else ("",)),
        ]
        return Turn(self._script, keys, arguments, execution_id, moment)


class Turn(NamedTuple):
    """One call of warm_turn.lua, the same whenever it is sent."""

    script: Any
    keys: list[str]
    arguments: list[Any]
    execution_id: str
    started: datetime

    def send(self) -> Answer:
        """Raises what redis-py raises; store.away.is_away tells when to send it again."""
        reply = self.script(keys=self.keys, args=self.arguments)
        word, lost = reply[0].decode(), len(reply) > 1 and reply[1] == 1
        if word != "job":
            return Answer(word, lost)
        fields = reply[4]
        pairs = dict(zip(fields[::2], fields[1::2], strict=True))
        return Answer(word, lost, reply[2].decode(), reply[3] - 1, pairs, self.execution_id, self.started)
