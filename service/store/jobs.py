"""The caller's side of a job: submit, read, cancel, erase, expire. Each is one atomic script."""

from __future__ import annotations

import os
import uuid
import zlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from itertools import chain
from typing import Any

import redis

from service.secret_fields import Kept
from service.settings import Settings
from service.store import keys
from service.store.events import Event, dumps, parse_entry
from service.store.job import ENTRY_POINT, Job, failed_result, parse, untold, urls
from service.store.retry_policy import RetryPolicy
from service.store.scripts import Scripts
from service.store.webhooks import Webhook
from service.webhooks import MODEL as DELIVERIES

LARGEST_PAGE = 2**20
"""Bytes of the events that are read at once; one event is read whatever its size."""
_NOT_COMPRESSED = 512  # bytes
EXPIRED = {"type": "expired", "message": "the job was not started within its start_timeout"}
"""The error of a job that waited for too long."""


class JobNotFound(Exception):
    """No job of this id was ever accepted."""


class JobGone(Exception):
    """There was a job of this id; it has expired or was erased."""


class JobNotDone(Exception):
    """Only a job that is over can be erased; the argument is its status."""


class JobExists(Exception):
    """There is a job of this id already, and it was asked for with something else."""


class QueueFull(Exception):
    """As many jobs of the model wait already as may; the argument is how many do."""


class IdempotencyKeyReused(Exception):
    """This idempotency key was given with something else before."""


@dataclass(frozen=True)
class Identity:
    """What makes the same submission again the same job: an id or an idempotency key of the caller's choice.

    `fingerprint` tells two submissions apart, and has no spaces.
    """

    fingerprint: str = ""
    job_id: str | None = None
    idempotency_key: str | None = None


@dataclass(frozen=True)
class Submission:
    """What a caller asked for, checked. Durations are seconds; None means the default."""

    model: str
    version: str
    input: dict[str, Any]
    """As it may be shown, with the mask in place of `secrets`."""
    timeout: int
    retries: int = 0
    retry_policy: RetryPolicy = RetryPolicy()
    priority: str = "default"
    start_timeout: int | None = None
    result_ttl: int | None = None
    metadata: Any = None
    secrets: Kept = field(default_factory=list)
    webhook: Webhook | None = None
    max_queued: int = 0
    """How many jobs of the model may wait; 0 for any number."""
    identity: Identity = Identity()


@dataclass(frozen=True)
class Followed:
    """A job, the first event that its log still has, and those that were asked for."""

    job: Job
    first: Event | None
    events: list[Event]


class Jobs:
    """All jobs, as callers see them."""

    def __init__(self, connection: redis.Redis, settings: Settings) -> None:
        self._redis = connection
        self._settings = settings
        self._scripts = Scripts(connection)

    def submit(self, submission: Submission) -> Job:
        """Accept a job and return it as it is queued: it is in Redis with its log and its place. One round trip.

        A submission that was accepted before gives its job as it is now, `replayed`: two round trips then.
        Raises QueueFull, JobExists, IdempotencyKeyReused; JobGone if the job that it gave has expired or was erased.
        """
        identity = submission.identity
        job_id = identity.job_id or _fresh_id()
        queue, queue_keys, queued = _queue(submission.model, submission.priority)
        fields = {**_rq_fields(submission, queue, self._settings), **_own_fields(submission)}
        if submission.webhook is not None:
            fields["webhook"] = submission.webhook.field(self._settings)
        payload = _payload(submission)
        key = identity.idempotency_key
        answer = self._scripts.submit(
            keys=[
                *keys.lifecycle(job_id),
                *queue_keys,
                *([keys.idempotency(key)] if key else []),
            ],
            args=[
                job_id,
                submission.start_timeout or "",
                queue,
                self._settings.max_events,
                queued,
                f"{submission.model} {job_id}",
                identity.fingerprint,
                self._settings.idempotency_ttl,
                submission.max_queued,
                "data",
                payload,
                *_flat(fields),
            ],
        )
        length, prior, *moment = answer or (0, b"", b"")  # in a pipeline there is none yet
        if length < 0:
            raise QueueFull(int(prior))
        if not moment:
            return self._replayed(identity, job_id, *prior.decode().split(" "))
        fields["created_at"] = fields["enqueued_at"] = moment[0].decode()
        return Job(job_id, fields, payload, {}, length - 1 if length else None)

    def _replayed(self, identity: Identity, asked_id: str, job_id: str, fingerprint: str) -> Job:
        """The job that an earlier submission gave, if that was the same; or this very one, which was sent twice."""
        if job_id == asked_id and not identity.job_id:
            return self.read(job_id)
        same = fingerprint == identity.fingerprint
        if identity.idempotency_key and not same:
            raise IdempotencyKeyReused(identity.idempotency_key)
        job = self.read(job_id)
        if not same:
            raise JobExists(job_id)
        return replace(job, replayed=True)

    def read(self, job_id: str) -> Job:
        """A job as it is now. Raises JobNotFound, JobGone. One round trip, two for one that has just expired."""
        raw = self._raw(job_id)
        if raw[5] and self.expire(job_id):
            raw = self._raw(job_id)
        return parse(job_id, raw)

    def follow(self, job_id: str, after: str, count: int) -> Followed:
        """Up to `count` events of a job's log that follow the cursor `after`; fewer if they are large.

        The job is as it is now, without its input and its result. Raises JobNotFound, JobGone. One round trip, two for
        a job that has just expired.
        """
        raw = self._raw_log(job_id, after, count)
        job = parse(job_id, raw)
        if raw[7] and self.expire(job_id):
            raw = self._raw_log(job_id, after, count)
            job = parse(job_id, raw)
        first = parse_entry(job_id, raw[5][0]) if raw[5] else None
        return Followed(job, first, [parse_entry(job_id, entry) for entry in raw[6]])

    def read_many(self, job_ids: Sequence[str]) -> Iterable[Job | None]:
        """Jobs as they are now; None for those that are gone. One round trip, and two for each that has
        just expired."""
        with self._redis.pipeline(transaction=False) as pipeline:
            for job_id in job_ids:
                self._scripts.read(keys=keys.lifecycle(job_id), args=[job_id], client=pipeline)
            answers = pipeline.execute()
        for job_id, raw in zip(job_ids, answers, strict=True):
            if raw[5] and self.expire(job_id):  # nobody else may, while no worker runs
                raw = self._scripts.read(keys=keys.lifecycle(job_id), args=[job_id])
            yield parse(job_id, raw) if _readable(raw) else None

    def tell(self, job: Job) -> None:
        """Append the event of a status that was set without one, unless the log has grown since `job` was read."""
        self._scripts.tell(
            keys=keys.lifecycle(job.id),
            args=[job.status, job.cursor, self._settings.max_events, dumps(_told(job))],
        )

    def untold(self, job_ids: Sequence[str]) -> list[str]:
        """Those of these jobs that are gone, have waited too long, or have a status that their log does not say.

        One round trip.
        """
        states = self._scripts.states(keys=[key for each in job_ids for key in (keys.job(each), keys.events(each))])
        of_each = zip(job_ids, states[::3], states[1::3], states[2::3], strict=True)
        return [
            job_id
            for job_id, status, last, late in of_each
            if status is None or late or untold(_word(status), _word(last))
        ]

    def active(self, model: str | None, limit: int) -> list[str]:
        """The ids of up to `limit` jobs that are not over, of one model or of all known. Two round trips."""
        queues: Any = self._redis.smembers(keys.QUEUES)
        names = [_word(each).removeprefix(keys.queue("")) for each in queues]
        wanted = [name for name in names if keys.model_of(name) == model or (model is None and name != DELIVERIES)]
        with self._redis.pipeline(transaction=False) as pipeline:
            for name in wanted:
                pipeline.zrange(keys.registry("wip", name), 0, limit - 1)
                pipeline.lrange(keys.queue(name), 0, limit - 1)
                pipeline.zrange(keys.registry("scheduled", name), 0, limit - 1)
            answers = pipeline.execute()
        return list(dict.fromkeys(keys.job_ids(chain.from_iterable(answers))))[:limit]

    def submitted_since(self, model: str | None, moment: float, limit: int) -> list[str]:
        """The ids of up to `limit` jobs that were submitted at a unix time or later, oldest first. One round trip."""
        index = keys.jobs_of(model) if model else keys.JOBS
        found: Any = self._redis.zrangebyscore(index, moment, "+inf", 0, limit)
        return keys.job_ids(found)

    def cancel(self, job_id: str) -> str:
        """Cancel a job that waits, or have a running one stopped: "canceled", "requested", or "done" if it was over.

        Raises JobNotFound, JobGone.
        """
        job = self.read(job_id)
        outcome: bytes = self._scripts.cancel(
            keys=[
                *keys.lifecycle(job_id),
                keys.queue(job.queue),
                *(keys.registry(name, job.queue) for name in ("scheduled", "deferred", "canceled")),
                keys.START_DEADLINES,
            ],
            args=[
                job_id,
                job.ttl("failure_ttl", self._settings.failure_ttl),
                self._settings.tombstone_ttl,
                self._settings.max_events,
                dumps({"command": "stop-job", "job_id": job_id, "by": "service"}),
                dumps({"mode": "dequeued"}),
            ],
        )
        if outcome == b"gone":
            raise JobGone(job_id)
        return outcome.decode()

    def erase(self, job_id: str) -> None:
        """Erase all of a job that is over; its id goes on to answer 410. Raises JobNotFound, JobGone, JobNotDone."""
        job = self.read(job_id)
        outcome: bytes = self._scripts.erase(
            keys=[
                *keys.lifecycle(job_id),
                *(keys.registry(name, job.queue) for name in ("finished", "failed", "canceled")),
                keys.JOBS,
                keys.jobs_of(job.model),
                keys.executions(job_id),
            ],
            args=[job_id, self._settings.tombstone_ttl],
        )
        if outcome == b"gone":
            raise JobGone(job_id)
        if outcome != b"erased":
            raise JobNotDone(outcome.decode())

    def expire(self, job_id: str, client: Any = None) -> bool:
        """Fail a job that has waited for longer than its start_timeout; whether it did. Also in a pipeline."""
        result = {**failed_result(EXPIRED["message"]), "worker_name": ""}
        return bool(
            self._scripts.expire(
                keys=[*keys.lifecycle(job_id), keys.START_DEADLINES],
                args=[
                    job_id,
                    self._settings.failure_ttl,
                    self._settings.tombstone_ttl,
                    self._settings.max_events,
                    dumps(EXPIRED),
                    dumps({"error": EXPIRED}),
                    *_flat(result),
                ],
                client=client,
            )
        )

    def _raw(self, job_id: str) -> Any:
        return _known(job_id, self._scripts.read(keys=keys.lifecycle(job_id), args=[job_id]))

    def _raw_log(self, job_id: str, after: str, count: int) -> Any:
        return _known(job_id, self._scripts.log(keys=keys.lifecycle(job_id), args=[after, count, LARGEST_PAGE]))


_drawn: list[bytes] = []
os.register_at_fork(after_in_child=_drawn.clear)


def _fresh_id() -> str:
    """As uuid.uuid4, its randomness drawn for many at once: os.urandom gives way to the other threads each time."""
    while True:
        try:
            return str(uuid.UUID(bytes=_drawn.pop(), version=4))
        except IndexError:
            many = os.urandom(256 * 16)
            _drawn.extend(many[start : start + 16] for start in range(0, len(many), 16))


def _word(text: bytes | None) -> str:
    """What Redis answered where a word is expected; somebody else may have written it."""
    return text.decode(errors="replace") if text else ""


def _known(job_id: str, raw: Any) -> Any:
    if not raw[3]:
        raise JobNotFound(job_id)
    if not _readable(raw):
        raise JobGone(job_id)
    return raw


def _readable(raw: list[Any]) -> bool:
    # A hash without its payload is what a late write leaves of an erased job: RQ does not count it either.
    return b"data" in raw[0][::2] and b"status" in raw[0][::2]


def _told(job: Job) -> dict[str, Any]:
    """The data of an event that nobody made when the job got its status."""
    match job.status:
        case "finished":
            return {"result_url": urls(job.id)["result"]} if job.has_large_output else {"output": job.output}
        case "failed":
            return {"error": job.error}
        case "queued":
            return {"queue": job.queue, "priority": job.fields.get("priority", "default")}
        case "started":
            return {"attempt": job.attempt_count, "worker": job.fields.get("worker_name", "")}
        case "scheduled":
            return {"at": None}
    return {"mode": job.fields.get("cancel_mode")}


@lru_cache(maxsize=1024)
def _queue(model: str, priority: str) -> tuple[str, list[str], str]:
    """A queue's name, the keys that submit.lua needs because of it, and the data of the event of a job in it."""
    name = keys.queue_name(model, priority)
    own = [keys.queue(name), keys.QUEUES, keys.JOBS, keys.jobs_of(model), keys.START_DEADLINES]
    all_of_model = [keys.queue(keys.queue_name(model, each)) for each in keys.PRIORITIES]
    return name, own + all_of_model, dumps({"queue": name, "priority": priority})


def _rq_fields(submission: Submission, queue: str, settings: Settings) -> dict[str, str]:
    """The fields of RQ's own job hash (rq/job.py:to_dict), so that its tools and workers read it.

    Without those that would be empty, which RQ writes too: to read them it makes no difference; and without
    created_at and enqueued_at, which the script writes, by Redis's clock.
    """
    return {
        "origin": queue,
        "description": submission.model,  # without the input: dashboards show it to operators
        "timeout": str(submission.timeout),
        "result_ttl": str(submission.result_ttl or settings.result_ttl),
        "failure_ttl": str(submission.result_ttl or settings.failure_ttl),
        "status": "queued",
        "retries_left": str(submission.retries),
    }


def _payload(submission: Submission) -> bytes:
    """RQ's `data`, as its JSONSerializer writes it: function, instance, args, kwargs.

    RQ compresses all, and reads both (rq/job.py:restore): what is short gains little by it, and a submit is slower.
    """
    data = dumps([ENTRY_POINT, None, [submission.model, submission.input], {}]).encode()
    return data if len(data) < _NOT_COMPRESSED else zlib.compress(data)


def _own_fields(submission: Submission) -> dict[str, str]:
    fields = {
        "model": submission.model,
        "version": submission.version,
        "priority": submission.priority,
        "retries": str(submission.retries),
    }
    if submission.secrets:
        fields["secrets"] = dumps(submission.secrets)
    if submission.metadata is not None:
        fields["metadata"] = dumps(submission.metadata)
    if policy := submission.retry_policy.to_json():
        fields["retry_policy"] = policy
    return fields


def _flat(fields: dict[str, Any]) -> Iterable[Any]:
    return chain.from_iterable(fields.items())
