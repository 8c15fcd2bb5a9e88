"""Records in Redis that nobody of this service wrote: members that are no text, keys of the wrong type, forged jobs."""

from __future__ import annotations

import time
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from tests.deployment import eventually
from tests.hostile.situation import situation
from tests.hostile.stage import Stage

SEEN = 1.6
"""Seconds in which the recovery loop and all heartbeats have met a record."""
NOT_TEXT = b"\xff\xfe\x80"


def _keys(stage: Stage, *patterns: str) -> list[bytes]:
    return [key for pattern in patterns for key in stage.redis.scan_iter(pattern, count=10_000)]


def _pages_answer(stage: Stage) -> None:
    """What lists and looks at everything is no error of ours."""
    for path in ("/readyz", "/v1/models", "/v1/jobs?limit=100", "/v1/queues", "/v1/workers", "/v1/models/victim"):
        got = stage.api.http.get(path)
        assert got.status_code < 500, f"{path}: {got.status_code} {got.text[:500]}"


# --- members that are no text ---------------------------------------------------------------------------

SORTED = (
    "rq:wip:victim",
    "rq:scheduled:victim",
    "rq:finished:victim",
    "rq:failed:victim",
    "rq:canceled:victim",
    "rq:deferred:victim",
    "service:start-deadlines",
    "service:jobs",
    "service:jobs:victim",
)
MEMBERS = (
    NOT_TEXT,
    NOT_TEXT + b":" + NOT_TEXT,
    b"",
    b":",
    b"no-such-job:no-such-execution",
    b"x" * 100_000,
    b"a:b:c:d",
)


@situation("B4", touches="records")
def sorted_sets_with_members_that_are_no_text(stage: Stage) -> None:
    try:
        for key in SORTED:
            for member in MEMBERS:
                stage.redis.zadd(key, {member: 1.0})
        time.sleep(SEEN)
        _pages_answer(stage)
    finally:
        for key in SORTED:
            stage.redis.zrem(key, *MEMBERS)


@situation("B4", touches="records")
def sets_and_queues_with_members_that_are_no_text(stage: Stage) -> None:
    sets = ("rq:workers", "rq:queues", "service:paused")
    members = (NOT_TEXT, b"rq:worker:" + NOT_TEXT, b"rq:worker:none", b"rq:queue:" + NOT_TEXT, b"")
    try:
        for member in members:
            for key in sets:
                stage.redis.sadd(key, member)
        for queue in (
            "rq:queue:victim",
            "rq:queue:victim-high",
            "rq:queue:sleeps",
            "rq:queue:waits",
            "rq:queue:together",
        ):
            stage.redis.lpush(queue, NOT_TEXT, b"", b"no-such-job", b"x" * 100_000)
        time.sleep(SEEN)
        _pages_answer(stage)
        for queue in ("victim", "sleeps"):
            assert stage.redis.llen(f"rq:queue:{queue}") < 4, "they are never dropped"
    finally:
        for key in sets:
            stage.redis.srem(key, *members)


@situation("B4", touches="records")
def scores_that_are_no_time(stage: Stage) -> None:
    """Infinite, before the world, after its end."""
    scores = {"a:a": "-inf", "b:b": "inf", "c:c": 1e300, "d:d": -1e300}
    try:
        for key in SORTED:
            stage.redis.zadd(key, scores)
        time.sleep(SEEN)
        _pages_answer(stage)
    finally:
        for key in SORTED:
            stage.redis.zrem(key, *scores)


@situation("B4", touches="records")
def descriptions_of_models_that_cannot_be_read(stage: Stage) -> None:
    fields: dict[bytes, bytes] = {
        NOT_TEXT: b"{}",
        b"broken": b"{",
        b"list": b"[]",
        b"empty": b"{}",
        b"null": b"null",
        b"deep": b"[" * 5000,
        b"odd": b'{"name": 5, "input_schema": "x"}',
        b"schema": b'{"name": "schema", "input_schema": {"type": 5}}',
    }
    try:
        stage.redis.hset("service:models", mapping=fields)  # type: ignore[arg-type]
        time.sleep(SEEN)
        _pages_answer(stage)
        for name in ("broken", "list", "empty", "odd", "schema", "deep"):
            got = stage.api.post(name, input={})
            assert got.status_code != 500, f"{name}: {got.text}"
    finally:
        stage.redis.hdel("service:models", *fields)


@situation("B4", touches="records")
def reports_of_workers_that_cannot_be_read(stage: Stage) -> None:
    reports: dict[bytes, bytes] = {
        NOT_TEXT: b"{}",
        b"broken": b"{",
        b"list": b"[]",
        b"until": b'{"state": "ready", "until": "tomorrow"}',
        b"rate": b'{"state": "ready", "until": 99999999999, "rate": "fast"}',
        b"state": b'{"state": 5, "until": 99999999999}',
    }
    try:
        for model in ("victim", "sleeps"):
            stage.redis.hset(f"service:model:{model}:workers", mapping=reports)  # type: ignore[arg-type]
        _pages_answer(stage)
        time.sleep(SEEN)
        _pages_answer(stage)
    finally:
        for model in ("victim", "sleeps"):
            stage.redis.hdel(f"service:model:{model}:workers", *reports)


# --- keys of the wrong type -------------------------------------------------------------------------


@contextmanager
def _of_another_type(stage: Stage, keys: list[str]) -> Iterator[None]:
    """Within it each of these keys is a string, or a list where it was a string."""
    try:
        for key in keys:
            stage.redis.delete(key)
            stage.redis.set(key, "junk")
        yield
    finally:
        for key in keys:
            if stage.redis.type(key) == b"string":
                stage.redis.delete(key)


@situation("B4", touches="records")
def a_string_where_a_list_or_set_should_be(stage: Stage) -> None:
    names = ("queue", "wip", "scheduled", "finished", "failed", "canceled")
    with _of_another_type(stage, [f"rq:{name}:victim-low" for name in names]):
        time.sleep(SEEN)
        _pages_answer(stage)
        got = stage.api.post("victim", input={"name": "x"}, priority="low")
        assert got.status_code in (202, 503), got.text


@situation("B4", touches="records")
def a_string_where_the_deadlines_should_be(stage: Stage) -> None:
    with _of_another_type(stage, ["service:start-deadlines", "service:paused"]):
        time.sleep(SEEN)
        _pages_answer(stage)


@situation("B4", touches="records")
def a_list_where_a_worker_should_be(stage: Stage) -> None:
    try:
        stage.redis.rpush("rq:worker:odd", "x")
        stage.redis.sadd("rq:workers", "rq:worker:odd")
        stage.redis.hset("rq:worker:odder", mapping={"birth": "never", "state": NOT_TEXT, "last_heartbeat": "x"})
        stage.redis.sadd("rq:workers", "rq:worker:odder")
        time.sleep(SEEN)
        _pages_answer(stage)
    finally:
        stage.redis.srem("rq:workers", "rq:worker:odd", "rq:worker:odder")
        stage.redis.delete("rq:worker:odd", "rq:worker:odder")


@situation("B4", touches="records")
def workers_are_deleted_from_the_books(stage: Stage) -> None:
    """Of RQ: a worker that lost its registration never came back into the list."""
    for key in _keys(stage, "rq:worker:*", "rq:workers*"):
        stage.redis.delete(key)

    def all_are_back() -> None:
        known = {worker["name"] for worker in stage.api.http.get("/v1/workers").json()["workers"]}
        assert known >= set(stage.names.values()), known

    eventually(all_are_back, within=10)


# --- forged jobs --------------------------------------------------------------------------------------

VALUES: tuple[bytes, ...] = (
    b"9" * 400,
    b"-1",
    b"1e999",
    b"nan",
    b"{",
    b"[]",
    b"null",
    NOT_TEXT,
    b"",
    b"yesterday",
    b"\0",
)
FORGED: dict[str, tuple[bytes, ...]] = {
    **dict.fromkeys(("timeout", "result_ttl", "failure_ttl", "retries", "retries_left", "crashes"), VALUES),
    **dict.fromkeys(("created_at", "enqueued_at", "start_deadline", "scheduled_at", "ttl"), VALUES),
    **dict.fromkeys(("retry_policy", "webhook", "deliveries", "metadata", "meta", "error"), VALUES),
    **dict.fromkeys(("model", "version", "priority", "origin", "attempt:1", "status"), VALUES),
    "attempts": (b"9999999999", *VALUES),
    "webhook_of": (b"none", NOT_TEXT),
    "data": (NOT_TEXT, b"[]", b"{", b"[" * 5000, zlib.compress(b'["x"' + b" " * 200_000_000, 9), b"\x80\x04."),
}


def _copy_of_a_job(stage: Stage) -> bytes:
    """The key of a job whose hash is as it is while it is queued, and which is in no queue."""
    job = stage.api.submit("victim", wait=15, input={"name": "original"})
    (key,) = _keys(stage, f"rq:job:{job['id']}")
    copy = b"rq:job:forged-original"
    stage.redis.delete(copy)
    stage.redis.copy(key.decode(), copy.decode())
    stage.redis.hset(copy.decode(), mapping={"status": "queued", "attempts": 0})
    stage.redis.hdel(copy.decode(), "ended_at", "started_at", "ended_execution", "attempt:1", "worker_name")
    stage.redis.persist(copy.decode())
    return copy


def _forge(stage: Stage, original: bytes, number: int, field: str, value: bytes, status: str) -> str:
    job_id = f"forged-{number}"
    key = f"rq:job:{job_id}"
    stage.redis.delete(key)
    stage.redis.copy(original.decode(), key)
    forged: dict[str, Any] = {"status": status, field: value}
    stage.redis.hset(key, mapping=forged)
    stage.redis.zadd("service:jobs", {job_id: time.time()})
    if status == "queued":
        stage.redis.rpush("rq:queue:victim", job_id)
    return job_id


@contextmanager
def _all_forged(stage: Stage, status: str) -> Iterator[list[str]]:
    original = _copy_of_a_job(stage)
    forged = [(field, value) for field, values in FORGED.items() for value in values]
    ids = [_forge(stage, original, number, *each, status) for number, each in enumerate(forged)]
    try:
        yield ids
    finally:
        for key in _keys(stage, "*forged-*"):
            stage.redis.delete(key)
        for registry in _keys(stage, "rq:*:victim*", "service:jobs*", "service:start-deadlines"):
            _drop(stage, registry.decode(), ids)


def _drop(stage: Stage, key: str, ids: list[str]) -> None:
    kind = stage.redis.type(key)
    if kind == b"zset":
        stage.redis.zrem(key, *ids)
    elif kind == b"list":
        for job_id in ids:
            stage.redis.lrem(key, 0, job_id)


@situation("B4", touches="records")
def forged_jobs_are_queued(stage: Stage) -> None:
    """Each field of a job in turn holds each of many things that it never should."""
    with _all_forged(stage, "queued") as ids:
        last = stage.api.submit("victim", input={"name": "behind them"})
        assert stage.api.done(last["id"], within=40)["status"] == "finished"
        for job_id in ids:
            got = stage.api.http.get(f"/v1/jobs/{job_id}")
            assert got.status_code < 500 or got.status_code == 503, f"{job_id}: {got.status_code} {got.text[:300]}"

        def none_waits() -> None:
            assert stage.redis.llen("rq:queue:victim") == 0

        eventually(none_waits, within=20)


@situation("B4", touches="records")
def forged_jobs_are_read_and_canceled(stage: Stage) -> None:
    for status in ("finished", "failed", "scheduled"):
        with _all_forged(stage, status) as ids:
            for job_id in ids:
                for path in (f"/v1/jobs/{job_id}", f"/v1/jobs/{job_id}/result", f"/v1/jobs/{job_id}/events"):
                    got = stage.api.http.get(path, timeout=10)
                    assert got.status_code != 500, f"{path}: {got.text[:300]}"
                if status == "scheduled":
                    assert stage.api.cancel(job_id).status_code != 500
            _pages_answer(stage)


@situation("B4", touches="records")
def forged_jobs_are_held_by_a_dead_worker(stage: Stage) -> None:
    """Their lease has ended: whoever holds the recovery loop takes them back."""
    with _all_forged(stage, "started") as ids:
        stage.redis.zadd("rq:wip:victim", {f"{job_id}:e{number}": 1.0 for number, job_id in enumerate(ids)})
        try:
            time.sleep(SEEN)

            def all_are_met() -> None:
                assert stage.redis.zcount("rq:wip:victim", 0, 2) == 0

            eventually(all_are_met, within=15)
        finally:
            stage.redis.zremrangebyscore("rq:wip:victim", 0, 2)


@situation("B4", touches="records")
def forged_jobs_are_due(stage: Stage) -> None:
    with _all_forged(stage, "scheduled") as ids:
        stage.redis.zadd("rq:scheduled:victim", dict.fromkeys(ids, 1.0))
        stage.redis.zadd("service:start-deadlines", dict.fromkeys(ids, 1.0))
        time.sleep(SEEN)
        _pages_answer(stage)


@situation("B4", touches="records")
def results_that_cannot_be_read(stage: Stage) -> None:
    bomb = zlib.compress(b" " * 200_000_000, 9)
    for fields in (
        {"type": "1", "return_value": "?"},
        {"type": NOT_TEXT},
        {"x": "y"},
        {"type": "2", "exc_string": bomb},
    ):
        job = stage.api.submit("victim", wait=15, input={"name": "x"})
        (key,) = _keys(stage, f"rq:results:{job['id']}")
        stage.redis.xadd(key, fields)  # type: ignore[arg-type]
        for path in ("", "/result", "/events"):
            got = stage.api.http.get(f"/v1/jobs/{job['id']}{path}", timeout=10)
            assert got.status_code != 500, got.text[:300]
        stage.api.http.delete(f"/v1/jobs/{job['id']}")
