"""A job as Redis holds it, and the one JSON shape in which every answer shows it.

RQ's hash of the job carries fields of ours beside RQ's own, which RQ keeps untouched: model, version,
priority, metadata (JSON), secrets (JSON: what the payload has masked), start_deadline (unix), retries
(how many it has in all), retry_policy (JSON, unless it is the default), crashes (count), scheduled_at
(unix), waits_for (a version) and waits_until (unix) while it waits for a worker with its version
(apart.lua), attempts (count), attempt:<n> (JSON), traceback:<n> (packed, of the last failed attempts),
error (JSON), ended_execution, requeued_by (the request that did it last), cancel_requested_at,
cancel_acknowledged_at, cancel_mode, webhook (JSON) and deliveries (ids); and those of a delivery
webhook_of (a job's id) and webhook_event. Progress and metrics are in RQ's meta, where rq-dashboard
shows them.
"""

from __future__ import annotations

import json
import math
import re
import zlib
from base64 import b64decode, b64encode
from dataclasses import dataclass
from typing import Any, Literal

from service.secret_fields import Kept, restored
from service.store import keys
from service.store.clock import from_rq, rfc3339, to_unix
from service.store.events import LARGEST_INLINE_OUTPUT

ENTRY_POINT = "service.worker.entry.run"
"""The one function that a worker of this service runs; its arguments are a model's name and its input."""

ID = re.compile(keys.JOB_ID_PATTERN)
"""What the id of a job can be."""
LARGEST_PAYLOAD, LARGEST_REASON = 64 * 2**20, 2**20
"""Bytes that a job's payload, and the reason for its failure, may unpack to."""
LONGEST_TTL = 10 * 365 * 86_400
_NUMBER = re.compile(r"-?[0-9]{1,10}")
_NUMBERS = ("timeout", "retries_left", "result_ttl", "failure_ttl", "attempts", "retries", "crashes")

DONE = frozenset({"finished", "failed", "stopped", "canceled"})
WAITING = frozenset({"queued", "scheduled", "deferred"})
_SAYS_STARTED = frozenset({"started", "progress", "output", "log"})
_TOLD = DONE | {"queued", "scheduled", "started"}
RESULT_SUCCESSFUL, _RESULT_FAILED, _RESULT_RETRIED = "1", "2", "4"  # rq.results.Result.Type


class UnreadableJob(Exception):
    """The payload of this job was not written by this service."""


@dataclass(frozen=True)
class Job:
    """One job, read in one round trip. `cursor` and `last_event` are id and type of the last event of its log."""

    id: str
    fields: dict[str, str]
    payload: bytes
    result: dict[str, str]
    position: int | None = None
    cursor: str = "0-0"
    last_event: str = ""
    replayed: bool = False
    """Whether a submission gave it that was accepted before."""

    @property
    def status(self) -> str:
        return self.fields["status"]

    @property
    def done(self) -> bool:
        return self.status in DONE

    @property
    def untold(self) -> bool:
        """Whether it has a status that its log does not say: somebody else than this service set it."""
        return untold(self.status, self.last_event)

    @property
    def queue(self) -> str:
        return self.fields.get("origin", "")

    @property
    def model(self) -> str:
        return self.fields.get("model", "")

    @property
    def version(self) -> str:
        """That of the model by which it was accepted; empty if nobody has said."""
        return self.fields.get("version", "")

    @property
    def timeout(self) -> int:
        return self.number("timeout")

    @property
    def retries_left(self) -> int:
        return self.number("retries_left")

    @property
    def tries_failed(self) -> int:
        """How many of its tries have failed, since it was submitted or brought back."""
        return max(0, self.number("retries") - self.retries_left)

    @property
    def crashes(self) -> int:
        """How often its process has died."""
        return self.number("crashes")

    @property
    def attempt_count(self) -> int:
        return self.number("attempts")

    @property
    def created_at(self) -> float:
        """When it was submitted, in unix time; 0 if that cannot be read."""
        return to_unix(from_rq(self.fields.get("created_at")))

    @property
    def start_deadline(self) -> float:
        """When it must have started, in Redis's unix time; infinity if it may wait for ever."""
        try:
            return float(self.fields.get("start_deadline") or "inf")
        except ValueError:
            return math.inf

    def number(self, name: str) -> int:
        """A field that is a whole number; 0 if it is missing, or is none: others may write to the hash too."""
        text = self.fields.get(name, "")
        return int(text) if _NUMBER.fullmatch(text) else 0

    def ttl(self, name: Literal["result_ttl", "failure_ttl"], default: int) -> int:
        """Seconds to keep it once it is over; a foreign job may say 0 or -1, which mean other things to RQ."""
        ttl = self.number(name)
        return ttl if 0 < ttl <= LONGEST_TTL else default

    def call(self) -> tuple[str, dict[str, Any]]:
        """The model's name and the input. Raises UnreadableJob: never trust a hash that others may write."""
        try:
            text = _inflate(self.payload, LARGEST_PAYLOAD).decode("utf-8", "surrogatepass")
            function, instance, args, kwargs = _strict.decode(text)
            model, value = args
        except (ValueError, TypeError, RecursionError, zlib.error):
            raise UnreadableJob("the job's payload is not this service's") from None
        for name in _NUMBERS:
            if not _NUMBER.fullmatch(self.fields.get(name, "0")):
                raise UnreadableJob(f"the job's {name} is {self.fields[name][:40]!r}: expected a whole number")
        if function != ENTRY_POINT or instance is not None or kwargs != {}:
            raise UnreadableJob(f"the job calls {str(function)[:200]!r}: only {ENTRY_POINT} is run")
        if not isinstance(model, str) or not isinstance(value, dict):
            raise UnreadableJob("the job's payload is not this service's")
        return model, value

    def given(self) -> tuple[str, dict[str, Any]]:
        """The same, with the secrets: for nobody but the model. Raises UnreadableJob."""
        model, value = self.call()
        try:
            return model, restored(value, self.secrets)
        except (LookupError, TypeError, ValueError):
            raise UnreadableJob("the job's secrets are not those of its input") from None

    @property
    def secrets(self) -> Kept:
        """What its input shows masked, and where."""
        if "secrets" not in self.fields:  # as in most
            return []
        kept = self._json("secrets")
        good = isinstance(kept, list) and all(isinstance(each, list) and len(each) == 2 and each[0] for each in kept)
        return kept if good else []

    @property
    def has_large_output(self) -> bool:
        """Whether its output is too large for an event, which then links to it."""
        return len(self.result.get("return_value", "")) * 3 // 4 > LARGEST_INLINE_OUTPUT

    @property
    def output(self) -> Any:
        """What a finished job returned; None before."""
        value = self.result.get("return_value") if self.status == "finished" else None
        try:
            return _loads(b64decode(value)) if value else None
        except ValueError:  # no base64
            return None

    @property
    def error(self) -> dict[str, str] | None:
        """Why a failed job failed: {type, message}."""
        if self.status != "failed":
            return None
        error = self._json("error")
        if isinstance(error, dict) and isinstance(error.get("type"), str) and isinstance(error.get("message"), str):
            return error
        # Failed by a stock RQ worker, or by RQ's maintenance.
        lines = _unpacked(self.result.get("exc_string", "")).strip().splitlines()
        return {"type": "failed", "message": lines[-1] if lines else "no reason was recorded"}

    @property
    def attempts(self) -> list[dict[str, Any]]:
        """Each try: {number, worker, started_at, ended_at, error}."""
        kept = [_loads(text) for name, text in self.fields.items() if name.startswith("attempt:")]
        return sorted((shown for each in kept if (shown := _attempt(each))), key=lambda shown: shown["number"])

    def attempts_with_tracebacks(self) -> list[dict[str, Any]]:
        """The same for operators: each with the `traceback` of what the model raised, null for one that has none."""
        return [
            {**each, "traceback": _unpacked(self.fields.get(traceback_field(each["number"]), "")) or None}
            for each in self.attempts
        ]

    def to_json(self, output: bool = True, root: str = "") -> dict[str, Any]:
        """The job as every answer, page and event shows it; without its `output`, that is null.

        `root` is the path under which the service is.
        """
        try:
            value: Any = self.call()[1]
        except UnreadableJob:
            value = None
        summary = self.summary(root)
        state = {name: summary.pop(name) for name in ("id", "model", "version", "status", "done")}
        return {**state, "input": value, "output": self.output if output else None, **summary}

    def summary(self, root: str = "") -> dict[str, Any]:
        """The job as lists show it: without what it was given and what it gave."""
        meta = self._meta()
        return {
            "id": self.id,
            "model": self.model,
            "version": self.fields.get("version"),
            "status": self.status,
            "done": self.done,
            "error": self.error,
            "progress": meta.get("progress"),
            "metrics": meta.get("metrics") or {},
            "priority": self.fields.get("priority", "default"),
            **self._waits_for(),
            "position": self.position if self.status == "queued" else None,
            "attempts": self.attempts,
            "cancellation": self._cancellation(),
            "timeout": self.timeout,
            "metadata": self._json("metadata"),
            "webhook": self._webhook(),
            "created_at": from_rq(self.fields.get("created_at")),
            "scheduled_at": self._scheduled_at(),
            "started_at": from_rq(self.fields.get("started_at")),
            "ended_at": from_rq(self.fields.get("ended_at")) if self.done else None,
            "urls": urls(self.id, root),
        }

    def _meta(self) -> dict[str, Any]:
        meta = self._json("meta")
        return meta if isinstance(meta, dict) else {}

    def _json(self, name: str) -> Any:
        """A field that is JSON; None if it is missing, as most are, or if somebody has made something else of it."""
        text = self.fields.get(name)
        return _loads(text) if text and text != "null" else None

    def _webhook(self) -> dict[str, Any] | None:
        webhook = self._json("webhook")
        return {each: webhook.get(each) for each in ("url", "events")} if isinstance(webhook, dict) else None

    def _scheduled_at(self) -> str | None:
        """When a job that is scheduled is queued again; None if this service did not schedule it."""
        try:
            return rfc3339(float(self.fields["scheduled_at"])) if self.status == "scheduled" else None
        except (KeyError, ValueError, OverflowError, OSError):
            return None

    def _waits_for(self) -> dict[str, Any]:
        """What a job that is scheduled waits for, if not the time: a worker with its version of the model."""
        version = self.fields.get("waits_for")
        if version is None or self.status != "scheduled":
            return {}
        why = f"the workers that serve {self.model} now refuse its input; one with version {version} would take it"
        return {"waits_for": {"version": version, "reason": why}}

    def _cancellation(self) -> dict[str, Any] | None:
        if "cancel_requested_at" not in self.fields:
            return None
        return {
            "requested_at": self.fields["cancel_requested_at"],
            "acknowledged_at": self.fields.get("cancel_acknowledged_at"),
            "mode": self.fields.get("cancel_mode"),
        }


def untold(status: str, last_event: str) -> bool:
    """Whether the last event of a log, by its type, leaves unsaid that the job has this status."""
    said = "started" if last_event in _SAYS_STARTED else last_event
    return status != said and status in _TOLD


def urls(job_id: str, root: str = "") -> dict[str, str]:
    """Where a job and all that belongs to it are, so that no client builds a path; `root` is where the service is."""
    base = f"{root}/v1/jobs/{job_id}"
    return {"self": base, **{each: f"{base}/{each}" for each in ("result", "cancel", "retry", "events", "deliveries")}}


SUMMARY = (
    *("status", "origin", "model", "version", "priority", "metadata", "webhook", "meta", "error", "attempts"),
    *("timeout", "start_deadline", "created_at", "scheduled_at", "started_at", "ended_at", "waits_for"),
    *("cancel_requested_at", "cancel_acknowledged_at", "cancel_mode"),
)
"""The fields of which a summary is made, beside those of the attempts."""


def traceback_field(attempt: int) -> str:
    """The field that holds the traceback of an attempt, packed."""
    return f"traceback:{attempt}"


def failed_result(reason: str) -> dict[str, str]:
    """The fields of RQ's result of a failed or stopped job: it has no type of its own for a stop."""
    return {"type": _RESULT_FAILED, "exc_string": packed(reason)}


def packed(text: str) -> str:
    """A text that nobody looks for, as RQ keeps the reason for a failure."""
    return b64encode(zlib.compress(text.encode(errors="replace"))).decode()


def _unpacked(text: str) -> str:
    try:
        return _inflate(b64decode(text), LARGEST_REASON).decode(errors="replace")
    except ValueError:  # others may write to the hash too
        return ""


def parse(job_id: str, raw: list[Any]) -> Job:
    """A job from the answer of read.lua."""
    fields, results, position, _known, last = raw[:5]
    payload, named = split(fields)
    result = latest_result(results[0][1] if results else [])
    if not last:
        return Job(job_id, named, payload, result, position)
    (event_id, event), *_ = last
    return Job(job_id, named, payload, result, position, event_id.decode(), _text_fields(event).get("type", ""))


def latest_result(flat: list[bytes]) -> dict[str, str]:
    """The fields of RQ's result of a job, unless it is that of a try that was followed by another."""
    result = _text_fields(flat)
    return result if result.get("type") != _RESULT_RETRIED else {}


def split(flat: list[bytes]) -> tuple[bytes, dict[str, str]]:
    """RQ's binary payload, and all other fields of a job's hash as text, from a flat HGETALL."""
    pairs = dict(zip(flat[::2], flat[1::2], strict=True))
    return pairs.pop(b"data", b""), _text(pairs)


def _text_fields(flat: list[bytes]) -> dict[str, str]:
    return _text(dict(zip(flat[::2], flat[1::2], strict=True)))


def _text(fields: dict[bytes, bytes]) -> dict[str, str]:
    return {name.decode(errors="replace"): value.decode(errors="replace") for name, value in fields.items()}


def _inflate(data: bytes, most: int) -> bytes:
    """What RQ may have compressed. Raises ValueError if it is more than `most` bytes."""
    if data[:1] == b"[":  # as most of ours are
        return data
    unpacking = zlib.decompressobj()
    try:
        unpacked = unpacking.decompress(data, most)
    except zlib.error:  # RQ reads an uncompressed payload too
        return data
    if unpacking.unconsumed_tail:
        raise ValueError(f"more than {most} bytes")
    return unpacked


def _loads(text: str | bytes) -> Any:
    """JSON; None for what is none."""
    try:
        return json.loads(text, parse_constant=_refuse, parse_float=_finite)
    except (ValueError, RecursionError):
        return None


def _refuse(name: str) -> None:
    raise ValueError(f"{name} is no JSON")


_strict = json.JSONDecoder(parse_constant=_refuse)  # json.loads would make one for each job


def _finite(text: str) -> float:
    number = float(text)
    if math.isinf(number):
        raise ValueError(f"{text[:40]} is more than a double holds")
    return number


def _attempt(kept: Any) -> dict[str, Any] | None:
    if not isinstance(kept, dict) or not isinstance(kept.get("number"), int):
        return None
    return {name: kept.get(name) for name in ("number", "worker", "version", "started_at", "ended_at", "error")}
