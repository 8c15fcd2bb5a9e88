"""Redis says "not now" in one of its many ways, is slow, says nothing, or comes back empty."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
import redis

from tests.deployment import Api, eventually
from tests.hostile.raw import answer, request, status
from tests.hostile.situation import forgetting, situation
from tests.hostile.stage import Stage
from tests.watchers import Closed, events_of

HELD = 3.5
"""Seconds for which Redis is so: longer than the lease of the stage's workers."""
DEADLINE = 2.0
"""Seconds that a request's whole dealings with Redis may take, by default."""


@contextmanager
def a_job_meanwhile(stage: Stage, seconds: float = HELD / 2, within: float = 25.0) -> Iterator[None]:
    """Jobs that begin before and end within: each ends in one attempt, with its output."""
    jobs = [stage.api.submit(model, input={"name": "meanwhile", "seconds": seconds}) for model in ("waits", "sleeps")]
    for job in jobs:
        stage.api.started(job["id"])
    yield

    def over(job_id: str) -> None:
        got = stage.api.http.get(f"/v1/jobs/{job_id}")
        assert got.status_code == 200, got.text
        job = got.json()
        assert job["done"], job
        assert (job["status"], len(job["attempts"])) == ("finished", 1), job["attempts"]

    for job in jobs:
        eventually(lambda job_id=job["id"]: over(job_id), within)  # type: ignore[misc]


def assert_not_now(stage: Stage) -> None:
    """What a caller is told meanwhile: not now, soon; and /readyz says so, too."""

    def told() -> None:
        got = stage.api.post("sleeps", input={"name": "not now"})
        assert got.status_code == 503, f"{got.status_code} {got.text}"
        assert "Retry-After" in got.headers
        assert "application/problem+json" in got.headers["Content-Type"]
        assert stage.api.http.get("/healthz").status_code == 200
        ready = stage.api.http.get("/readyz")
        assert ready.status_code == 503, ready.text

    eventually(told, within=HELD / 2)


# --- B1: in Redis's words ---------------------------------------------------------------------------

AT_SCRIPT = " script: f, on @user_script:1."
WORDS = {
    "a_full_disk_in_the_words_of_7": "MISCONF Errors writing to the AOF file: No space left on device" + AT_SCRIPT,
    "a_full_disk_in_the_words_of_6": "ERR Error running script (call to f_0): @user_script:9: "
    "@user_script: 9: -MISCONF Errors writing to the AOF file: No space left on device",
    "a_failed_snapshot": "MISCONF Redis is configured to save RDB snapshots, but it's currently unable to persist to "
    "disk. Commands that may modify the data set are disabled",
    "no_memory_in_the_words_of_7": "OOM command not allowed when used memory > 'maxmemory'." + AT_SCRIPT,
    "no_memory_in_the_words_of_6": "ERR Error running script (call to f_0): @user_script:9: "
    "@user_script: 9: -OOM command not allowed when used memory > 'maxmemory'.",
    "a_replica_in_the_words_of_7": "READONLY You can't write against a read only replica." + AT_SCRIPT,
    "a_replica_in_the_words_of_6": "ERR Error running script (call to f_0): @user_script:9: "
    "@user_script: 9: -READONLY You can't write against a read only replica.",
    "that_it_loads": "LOADING Redis is loading the dataset in memory",
    "too_many_clients": "ERR max number of clients reached",
    "that_it_is_busy": "BUSY Redis is busy running a script. You can only call SCRIPT KILL or SHUTDOWN NOSAVE.",
    "that_its_master_is_away": "MASTERDOWN Link with MASTER is down and replica-serve-stale-data is set to 'no'.",
    "too_few_replicas": "NOREPLICAS Not enough good replicas to write.",
    "that_its_cluster_is_down": "CLUSTERDOWN The cluster is down",
    "try_again": "TRYAGAIN Multiple keys request during rehashing of slot",
    "that_we_must_log_in": "NOAUTH Authentication required.",
    "that_it_was_unblocked": "UNBLOCKED force unblock from blocking operation, instance state changed",
    "that_a_quota_is_used_up": "ERR max requests limit exceeded. Limit: 500000, Usage: 500000.",
}
WRITES = frozenset(b"EVALSHA EVAL EXEC HSET HSETNX ZADD SET SADD EXPIRE ZREM DEL HDEL HINCRBY XADD".split())


def _refuses(words: str) -> Callable[[list[bytes]], bytes | None]:
    writes_only = words.startswith(("MISCONF", "OOM", "READONLY", "NOREPLICAS")) or "-" in words.partition("@")[2][:40]

    def refuse(command: list[bytes]) -> bytes | None:
        name = command[0].upper()
        if name in (b"HELLO", b"CLIENT", b"SELECT") and not words.startswith(("LOADING", "ERR max", "NOAUTH")):
            return None
        return None if writes_only and name not in WRITES else b"-" + words.encode() + b"\r\n"

    return refuse


def _says(words: str) -> Callable[[Stage], None]:
    def redis_says(stage: Stage) -> None:
        with a_job_meanwhile(stage, seconds=0.7):
            with stage.proxy.refusing(_refuses(words)):
                assert_not_now(stage)
                time.sleep(1)
            eventually(lambda: stage.api.submit("sleeps", input={"name": "again"}))

    return redis_says


for _name, _words in WORDS.items():
    _do = _says(_words)
    _do.__name__ = f"redis_says_{_name}"
    situation("B1", touches="redis")(_do)


@situation("B1", touches="redis")
def the_disk_of_redis_is_full(stage: Stage) -> None:
    with a_job_meanwhile(stage), stage.full_disk():
        time.sleep(HELD)


@situation("B1", touches="redis")
def a_snapshot_of_redis_fails(stage: Stage) -> None:
    with a_job_meanwhile(stage), stage.configured(save="1 1", stop_writes_on_bgsave_error="yes"), stage.full_disk():
        with suppress(redis.exceptions.ResponseError):
            stage.redis.bgsave()
        time.sleep(HELD)
    with suppress(redis.exceptions.ResponseError):
        stage.redis.bgsave()


@situation("B1", touches="redis")
def redis_has_no_memory_left(stage: Stage) -> None:
    with a_job_meanwhile(stage), stage.configured(maxmemory="1mb"):
        assert_not_now(stage)
        time.sleep(HELD / 2)


@situation("B1", touches="redis")
def redis_becomes_a_replica(stage: Stage) -> None:
    with a_job_meanwhile(stage), _replica(stage):
        assert_not_now(stage)
        time.sleep(HELD / 2)


@situation("B1", touches="redis")
def redis_becomes_a_replica_that_answers_nothing(stage: Stage) -> None:
    with a_job_meanwhile(stage), stage.configured(replica_serve_stale_data="no"), _replica(stage):
        assert_not_now(stage)
        time.sleep(HELD / 2)


@contextmanager
def _replica(stage: Stage) -> Iterator[None]:
    stage.redis.execute_command("REPLICAOF", "127.0.0.1", "1")
    try:
        yield
    finally:
        stage.redis.execute_command("REPLICAOF", "NO", "ONE")


@situation("B1", touches="redis")
def redis_runs_a_script_that_does_not_end(stage: Stage) -> None:
    with a_job_meanwhile(stage), stage.configured(lua_time_limit="100"):
        endless = threading.Thread(target=_run_endless, args=(stage.server.url,))
        endless.start()
        time.sleep(HELD)
        stage.redis.execute_command("SCRIPT", "KILL")
        endless.join()


def _run_endless(url: str) -> None:
    with redis.Redis.from_url(url, socket_timeout=30) as client, suppress(redis.exceptions.RedisError):
        client.eval("while true do end", 0)


@situation("B1", touches="redis")
def redis_takes_no_more_clients(stage: Stage) -> None:
    used = stage.redis.info("clients")["connected_clients"]
    with stage.configured(maxclients=str(max(used - 5, 4))) as own:
        own.execute_command("CLIENT", "KILL", "TYPE", "pubsub")
        own.execute_command("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
        time.sleep(HELD)


@situation("B1", touches="redis")
def redis_cuts_all_connections_again_and_again(stage: Stage) -> None:
    for _ in range(8):
        stage.redis.execute_command("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
        stage.redis.execute_command("CLIENT", "KILL", "TYPE", "pubsub")
        time.sleep(0.3)


@situation("B1", touches="redis")
def redis_forgets_all_scripts_again_and_again(stage: Stage) -> None:
    for _ in range(20):
        stage.redis.script_flush()
        time.sleep(0.1)


@situation("B1", touches="redis")
def redis_is_killed_and_comes_back(stage: Stage) -> None:
    with a_job_meanwhile(stage):
        stage.restart_redis(away=HELD / 2)


# --- B2: what we may not do -------------------------------------------------------------------------

RULES = {
    "publish": ("resetchannels", "allchannels"),
    "run_scripts": ("-evalsha -eval", "+@all"),
    "write": ("-@write", "+@all"),
    "add_to_streams": ("-xadd", "+@all"),
    "ask_what_it_is": ("-info -config", "+@all"),
    "touch_any_key": ("resetkeys", "allkeys"),
}


def _forbids(taken: str, given: str) -> Callable[[Stage], None]:
    def redis_forbids(stage: Stage) -> None:
        key = {"Idempotency-Key": f"forbidden-{time.monotonic_ns()}"}
        with a_job_meanwhile(stage):
            stage.redis.execute_command("ACL", "SETUSER", "default", *taken.split())
            try:
                got = stage.api.post("sleeps", headers=key, input={"name": "forbidden"})
                assert got.status_code in (202, 503), f"{got.status_code} {got.text}"
                time.sleep(HELD / 2)
            finally:
                stage.redis.execute_command("ACL", "SETUSER", "default", *given.split())
        job = eventually(lambda: stage.api.submit("sleeps", headers=key, input={"name": "forbidden"}))
        assert stage.api.done(job["id"])["status"] == "finished"

    return redis_forbids


for _name, (_taken, _given) in RULES.items():
    _do = _forbids(_taken, _given)
    _do.__name__ = f"we_may_not_{_name}"
    situation("B2", touches="redis")(_do)


# --- B3: it comes back empty ------------------------------------------------------------------------


@situation("B3", touches="redis", forgets=True)
def redis_is_flushed(stage: Stage) -> None:
    with stage.long_job() as job_id:
        watcher = stage.api.socket(f"/v1/jobs/{job_id}/events")
        ends = threading.Timer(25, watcher.sock.shutdown, [socket.SHUT_RDWR])  # pings would keep it from timing out
        ends.start()
        try:
            with forgetting(stage):
                stage.api.started(job_id)
                stage.redis.flushall()
                stage.until_ready(10)
                with pytest.raises(Closed) as closed:
                    list(events_of(watcher))
            assert closed.value.code in (4404, 4410)
        finally:
            ends.cancel()
            watcher.shutdown()


@situation("B3", touches="redis", forgets=True)
def redis_is_flushed_while_jobs_wait_and_run(stage: Stage) -> None:
    with forgetting(stage):
        for _ in range(3):
            for number in range(10):
                stage.api.post("sleeps", input={"name": str(number), "seconds": 0.3})
            stage.redis.flushdb()
            time.sleep(0.5)
    stage.until_ready(10)


@situation("B3", touches="redis", forgets=True)
def redis_comes_back_without_its_files(stage: Stage) -> None:
    with forgetting(stage):
        stage.redis.config_set("appendonly", "no")
        stage.redis.config_set("save", "")
        folder = Path(stage.redis.config_get("dir")["dir"])

        def remove_all() -> None:
            for path in sorted(folder.rglob("*"), reverse=True):
                path.unlink() if path.is_file() else path.rmdir()

        stage.restart_redis(away=1, meanwhile=remove_all)
    stage.until_ready(15)


# --- B5: it hangs or is slow ------------------------------------------------------------------------


@situation("B5", touches="redis")
def redis_hangs_while_forty_ask(stage: Stage) -> None:
    with a_job_meanwhile(stage), ThreadPoolExecutor(40) as callers:
        with stage.stopped(stage.redis_pid):
            asked = [callers.submit(_ask, stage.api) for _ in range(40)]
            answers = [each.result(timeout=100) for each in asked]
        slow = [(told, round(seconds, 1)) for told, seconds in answers if told != 503 or seconds > DEADLINE + 3]
        assert not slow, slow


def _ask(api: Api) -> tuple[int, float]:
    """The status of an answer on a new connection, and how long it took."""
    began = time.monotonic()
    return status(answer(api, request("/v1/jobs/none"), within=90)), time.monotonic() - began


@situation("B5", touches="redis")
def redis_hangs_again_and_again(stage: Stage) -> None:
    for _ in range(6):
        with stage.stopped(stage.redis_pid):
            time.sleep(0.7)
        time.sleep(0.2)


@situation("B5", touches="redis")
def redis_is_slow(stage: Stage) -> None:
    with a_job_meanwhile(stage), stage.proxy.delayed(0.3):
        time.sleep(HELD)


@situation("B5", touches="redis")
def connections_to_redis_die_without_a_word(stage: Stage) -> None:
    """Of bullmq and others: a firewall or balancer has forgotten a connection; new ones work."""
    with a_job_meanwhile(stage):
        stage.proxy.silence()
        time.sleep(HELD)
        stage.proxy.silence()


@situation("B5", touches="redis")
def redis_pauses_its_clients(stage: Stage) -> None:
    stage.redis.execute_command("CLIENT", "PAUSE", "3000", "ALL")
    time.sleep(HELD)


@situation("B6", on="threads", touches="redis")
def redis_pauses_while_ninety_ask(stage: Stage) -> None:
    for _ in range(2):
        with ThreadPoolExecutor(90) as callers:
            stage.redis.execute_command("CLIENT", "PAUSE", "2000", "ALL")
            for each in [callers.submit(_ask, stage.api) for _ in range(90)]:
                each.result(timeout=100)
        for path in ("/v1/models", "/readyz", "/v1/queues"):
            began = time.monotonic()
            assert stage.api.http.get(path).status_code == 200
            assert time.monotonic() - began < 5
