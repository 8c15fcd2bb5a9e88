"""Callers that hang up, or send what nobody can read."""

from __future__ import annotations

import json
import random
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

import websocket

from tests.hostile.raw import crowd, opened, read_answer, request, reset, status
from tests.hostile.situation import situation
from tests.hostile.stage import Stage


@contextmanager
def closing_at_the_end(watcher: websocket.WebSocket) -> Iterator[websocket.WebSocket]:
    """A socket that is shut down whatever happens."""
    try:
        yield watcher
    finally:
        watcher.shutdown()


# --- A1: hanging up ---------------------------------------------------------------------------------


def _hang_up(
    stage: Stage, asks: Callable[[str], bytes], after: float, end: Callable[[socket.socket], None], count: int = 80
) -> None:
    """Some rounds of many that ask, and go at about the moment at which they are answered."""
    rng = random.Random(1)
    with stage.long_job() as job_id:
        for _ in range(3):
            moment = time.monotonic()
            gone_at = sorted((moment + after + rng.uniform(-0.03, 0.07), number) for number in range(count))
            with crowd(stage.api, count, asks(job_id)) as connections:
                for at, number in gone_at:
                    time.sleep(max(0.0, at - time.monotonic()))
                    end(connections[number])


@situation("A1")
def callers_close_as_their_wait_ends(stage: Stage) -> None:
    _hang_up(stage, lambda job: request(f"/v1/jobs/{job}?wait=1"), 1.0, socket.socket.close)


@situation("A1")
def callers_reset_as_their_wait_ends(stage: Stage) -> None:
    _hang_up(stage, lambda job: request(f"/v1/jobs/{job}/result?wait=1"), 1.0, reset)


@situation("A1")
def callers_shut_down_both_ways_as_their_wait_ends(stage: Stage) -> None:
    def shut_down(connection: socket.socket) -> None:
        with suppress(OSError):
            connection.shutdown(socket.SHUT_RDWR)

    _hang_up(stage, lambda job: request(f"/v1/jobs/{job}", Prefer="wait=1"), 1.0, shut_down)


@situation("A1")
def submitters_hang_up_as_their_wait_ends(stage: Stage) -> None:
    body = b'{"input": {"name": "left alone", "seconds": 0.5}}'
    asks = request("/v1/models/waits/jobs", "POST", body, Prefer="wait=1", Content_Type="application/json")
    _hang_up(stage, lambda _: asks, 0.5, reset, count=12)


@situation("A1")
def watchers_of_streams_and_sockets_reset_while_events_come(stage: Stage) -> None:
    key = "dGhlIHNhbXBsZSBub25jZQ=="
    upgrade = {"Upgrade": "websocket", "Connection": "Upgrade", "Sec_WebSocket_Key": key, "Sec_WebSocket_Version": "13"}
    for number in range(30):
        job = stage.api.submit("streams", input={"name": "x", "parts": 400})
        path = f"/v1/jobs/{job['id']}/events"
        asks = request(path, Accept="text/event-stream") if number % 2 else request(path, **upgrade)
        with crowd(stage.api, 5, asks) as connections:
            for connection in connections:
                reset(connection)


@situation("A1")
def callers_hang_up_amid_a_large_answer(stage: Stage) -> None:
    job = stage.api.submit("large", wait=20, input={"name": "x", "size": 5_000_000})
    for _ in range(10):
        with crowd(stage.api, 10, request(f"/v1/jobs/{job['id']}/result?wait=5"), 4096) as connections:
            for connection in connections:
                connection.recv(1000)
                reset(connection)


@situation("A1")
def a_job_with_a_large_output_ends_before_those_that_wait_and_do_not_read(stage: Stage) -> None:
    for _ in range(3):
        job = stage.api.submit("large", input={"name": "x", "size": 3_000_000})
        with crowd(stage.api, 20, request(f"/v1/jobs/{job['id']}?wait=5"), 4096) as connections:
            stage.api.done(job["id"])
            for connection in connections:
                connection.recv(1)
                with suppress(OSError):
                    connection.shutdown(socket.SHUT_RDWR)


# --- A2: what cannot be encoded -----------------------------------------------------------------------

UNREADABLE: list[Any] = [
    {"subscribe": [{"job_id": "\ud800"}]},
    {"subscribe": [{"job_id": "x\udfff" * 9}]},
    {"model": "\ud800"},
    {"subscribe": [{"model": "\ud800"}]},
    {"unsubscribe": ["\ud800"]},
    {"subscribe": [{"job_id": "x", "after": "\ud800"}]},
    {"subscribe": [{"job_id": "x", "after": "9" * 400 + "-1"}]},
    {"subscribe": [{"job_id": "\0\r\n"}]},
    {"subscribe": [{"job_id": 10**400}]},
    {"subscribe": {"job_id": ["x"]}},
    {"\ud800": 1},
    {"types": ["\ud800"]},
]


@situation("A2")
def messages_with_lone_surrogates(stage: Stage) -> None:
    for message in [*map(json.dumps, UNREADABLE), "[" * 50_000, '{"a":' * 50_000, "NaN", '"\\ud800"', "1e999", ""]:
        watcher = stage.api.socket("/v1/events")
        try:
            watcher.send(message)
            watcher.settimeout(0.05)
            while watcher.recv():
                pass
        except (OSError, websocket.WebSocketException):
            pass  # a word, a close or nothing: as long as it is this one's alone
        finally:
            watcher.shutdown()


@situation("A2")
def submits_with_lone_surrogates(stage: Stage) -> None:
    evil = "\\ud800"
    bodies = [
        ("PUT", "/v1/jobs/surrogate-1", '{"model":"%s","input":{}}'),
        ("PUT", "/v1/jobs/surrogate-2", '{"model":"sleeps","input":{"name":"%s"}}'),
        ("PUT", "/v1/jobs/surrogate-3", '{"model":"sleeps","input":{"%s":1}}'),
        ("POST", "/v1/models/sleeps/jobs", '{"input":{"name":"x"},"metadata":{"%s":"%s"}}'.replace("%s", evil)),
        ("POST", "/v1/models/sleeps/jobs", '{"input":{"name":"x"},"priority":"%s"}'),
        ("POST", "/v1/models/sleeps/jobs", '{"input":{"name":"x"},"%s":1}'),
        ("POST", "/v1/models/sleeps/jobs", '{"input":{"name":"x"},"fatal":["%s"]}'),
        ("POST", "/v1/models/sleeps/jobs", '{"input":{"name":"x"},"webhook":{"url":"http://%s/"}}'),
        ("POST", "/v1/models/%ED%A0%80/jobs", '{"input":{}}'),
        ("GET", "/v1/jobs/%ED%A0%80", ""),
        ("GET", "/v1/jobs/x%00/events", ""),
        ("GET", "/v1/jobs?model=%ED%A0%80", ""),
    ]
    for method, path, body in bodies:
        got = stage.api.http.request(method, path, content=body.replace("%s", evil).encode() if body else None)
        assert got.status_code < 500, f"{method} {path} {body}: {got.status_code} {got.text}"


# --- A3: messages on channels -----------------------------------------------------------------------

JUNK = [b"", b"onlyone", b"\xff\xfe", b"a b c d e", b" ", b"{", b"[]", b"\0" * 100, b"1-1 ", b"x y {", b"z" * 3_000_000]


@situation("A3")
def junk_on_every_channel(stage: Stage) -> None:
    with (
        stage.long_job() as job_id,
        crowd(stage.api, 1, request(f"/v1/jobs/{job_id}?wait=5")),
        closing_at_the_end(stage.api.socket("/v1/events")) as feed,
    ):
        feed.send(json.dumps({"model": "waits"}))
        for _ in range(3):
            for channel in stage.redis.pubsub_channels():
                for junk in JUNK:
                    stage.redis.publish(channel, junk)
            time.sleep(0.3)


@situation("A3")
def entries_without_a_type_in_an_event_log(stage: Stage) -> None:
    with stage.long_job() as job_id:
        path = f"/v1/jobs/{job_id}/events"
        with crowd(stage.api, 2, request(path, Accept="text/event-stream")):
            (log,) = stage.redis.scan_iter(f"*{job_id}:events", count=10_000)
            for fields in ({"foo": "bar"}, {"type": b"\xff", "data": b"\xff"}, {"type": "output"}, {"data": "{"}):
                stage.redis.xadd(log, fields)
                stage.redis.publish(log, "9999999999999-0")
            for page in (path, f"/v1/jobs/{job_id}", f"/v1/jobs/{job_id}?wait=0.1"):
                got = stage.api.http.get(page)
                assert got.status_code < 500, f"{page}: {got.status_code} {got.text}"
            stage.api.cancel(job_id)
            stage.api.done(job_id)


# --- A5: a client that has shut down its sending side -----------------------------------------------


@situation("A5")
def a_client_shuts_down_its_sending_side_and_waits(stage: Stage) -> None:
    body = b'{"input": {"name": "half closed", "seconds": 1}}'
    asks = request("/v1/models/waits/jobs", "POST", body, Prefer="wait=15", Content_Type="application/json")
    with opened(stage.api, asks) as connection:
        connection.shutdown(socket.SHUT_WR)
        got = read_answer(connection)
    assert status(got) == 200, got
    assert b"half closed" in got


@situation("A5")
def a_client_shuts_down_its_sending_side_and_polls(stage: Stage) -> None:
    with stage.long_job(seconds=1.5) as job_id, opened(stage.api, request(f"/v1/jobs/{job_id}?wait=15")) as connection:
        connection.shutdown(socket.SHUT_WR)
        got = read_answer(connection)
    assert b'"finished"' in got, got


@situation("A5")
def a_client_shuts_down_its_sending_side_and_watches(stage: Stage) -> None:
    with stage.long_job(seconds=1.5) as job_id:
        path = f"/v1/jobs/{job_id}/events?after=0"
        with opened(stage.api, request(path, Accept="text/event-stream")) as connection:
            connection.shutdown(socket.SHUT_WR)
            got = b""
            while b"finished" not in got and (more := connection.recv(1 << 16)):
                got += more
    assert b"event: finished" in got or b'"finished"' in got, got
