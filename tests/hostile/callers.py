"""Callers that hang up, send half, read nothing, ask for too much, or send what nobody can read."""

from __future__ import annotations

import json
import random
import socket
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from typing import Any

import websocket

from tests.deployment import Api
from tests.hostile.raw import answer, crowd, opened, read_answer, request, reset, status
from tests.hostile.situation import situation
from tests.hostile.stage import Stage
from tests.watchers import TERMINAL

HELD = 3.0
"""Seconds for which callers hold what they hold."""


@contextmanager
def long_job(stage: Stage, seconds: float = 60) -> Iterator[str]:
    """A job that runs within it, and is canceled at the end."""
    job = stage.api.submit("waits", input={"name": "long", "seconds": seconds})
    try:
        yield job["id"]
    finally:
        stage.api.cancel(job["id"])


# --- A1: hanging up ---------------------------------------------------------------------------------


def _hang_up(stage: Stage, asks: Callable[[str], bytes], after: float, end: Callable[[socket.socket], None]) -> None:
    """Some rounds of many that ask, and go at about the moment at which they are answered."""
    rng = random.Random(1)
    with long_job(stage) as job_id:
        for _ in range(5):
            moment = time.monotonic()
            gone_at = sorted((moment + after + rng.uniform(-0.03, 0.07), number) for number in range(80))
            with crowd(stage.api, 80, asks(job_id)) as connections:
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
    _hang_up(stage, lambda _: asks, 0.5, reset)


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
    with long_job(stage) as job_id, crowd(stage.api, 1, request(f"/v1/jobs/{job_id}?wait=5")):
        feed = stage.api.socket("/v1/events")
        feed.send(json.dumps({"model": "waits"}))
        for _ in range(3):
            for channel in stage.redis.pubsub_channels():
                for junk in JUNK:
                    stage.redis.publish(channel, junk)
            time.sleep(0.3)
        feed.shutdown()


@situation("A3")
def entries_without_a_type_in_an_event_log(stage: Stage) -> None:
    with long_job(stage) as job_id:
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


# --- A4: half requests and those that do not read ---------------------------------------------------

HALVES = {
    "half_a_head": b"GET / HTTP/1.1\r\nHost: x\r\n",
    "half_a_request_line": b"GET /v1/jo",
    "half_a_body": request("/v1/models/sleeps/jobs", "POST", b'{"inp', Content_Type="application/json")[:-2],
    "a_chunk_that_does_not_come": b"POST /v1/models/sleeps/jobs HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n5\r\n",
    "a_tls_hello": bytes.fromhex("16030100c8010000c40303") + b"\x00" * 60,
    "nothing": b"",
    "a_continue_that_it_waits_for": b"POST /v1/models/sleeps/jobs HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\nExpect: 100-continue\r\n\r\n",
    "a_whole_request_and_half_of_the_next": b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\nGET /hea",
}


def _half(data: bytes) -> Callable[[Stage], None]:
    def send_half(stage: Stage) -> None:
        with crowd(stage.api, 64, data):
            time.sleep(HELD)
            job = stage.api.submit("sleeps", wait=10, input={"name": "beside them"})
            assert job["status"] == "finished"

    return send_half


for _name, _data in HALVES.items():
    _do = _half(_data)
    _do.__name__ = f"callers_send_{_name}"
    situation("A4")(_do)


@situation("A4")
def callers_send_a_body_byte_by_byte(stage: Stage) -> None:
    head = b"POST /v1/models/sleeps/jobs HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\n"
    with crowd(stage.api, 40, head) as connections:
        for _ in range(10):
            for connection in connections:
                with suppress(OSError):
                    connection.sendall(b" ")
            time.sleep(HELD / 10)


def _large_job(stage: Stage) -> str:
    job: dict[str, Any] = stage.api.submit("large", wait=20, input={"name": "x", "size": 9_000_000})
    return str(job["id"])


@situation("A4")
def callers_read_nothing_of_a_large_answer(stage: Stage) -> None:
    job_id = _large_job(stage)
    with crowd(stage.api, 24, request(f"/v1/jobs/{job_id}/result"), receive_buffer=4096):
        time.sleep(HELD)


@situation("A4")
def callers_ask_many_times_on_one_connection_and_read_nothing(stage: Stage) -> None:
    with crowd(stage.api, 24, request("/v1/models") * 400, receive_buffer=4096):
        time.sleep(HELD)


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
    with long_job(stage, seconds=1.5) as job_id, opened(stage.api, request(f"/v1/jobs/{job_id}?wait=15")) as connection:
        connection.shutdown(socket.SHUT_WR)
        got = read_answer(connection)
    assert b'"finished"' in got, got


@situation("A5")
def a_client_shuts_down_its_sending_side_and_watches(stage: Stage) -> None:
    with long_job(stage, seconds=1.5) as job_id:
        path = f"/v1/jobs/{job_id}/events?after=0"
        with opened(stage.api, request(path, Accept="text/event-stream")) as connection:
            connection.shutdown(socket.SHUT_WR)
            got = b""
            while b"finished" not in got and (more := connection.recv(1 << 16)):
                got += more
    assert b"event: finished" in got or b'"finished"' in got, got


# --- A6: the memory of one socket ---------------------------------------------------------------------


def _says(stage: Stage, messages: Iterator[str], seconds: float = 8.0) -> None:
    """One socket that says all this and reads nothing, for as long as it is let."""
    watcher = stage.api.socket("/v1/events", sockopt=[(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)])
    deadline = time.monotonic() + seconds
    watcher.settimeout(1)
    try:
        for message in messages:
            if time.monotonic() > deadline:
                break
            watcher.send(message)
    except (OSError, websocket.WebSocketException):
        pass  # it is closed, or nobody reads it
    finally:
        watcher.shutdown()


@situation("A6")
def a_socket_wishes_and_wishes_and_does_not_read(stage: Stage) -> None:
    _says(stage, (json.dumps({"subscribe": [{"job_id": f"{n}-{i:05}-" + "x" * 60} for i in range(12_000)]}) for n in range(60)))


@situation("A6")
def a_socket_watches_the_same_large_job_again_and_again(stage: Stage) -> None:
    job_id = _large_job(stage)
    _says(stage, (json.dumps({"subscribe": [{"job_id": job_id}]}) for _ in range(2_000)), seconds=3)


@situation("A6")
def a_socket_asks_for_the_feeds_of_many_models(stage: Stage) -> None:
    _says(stage, iter([json.dumps({"subscribe": [{"model": f"m{n}"} for n in range(30_000)]})]))
    _says(stage, (json.dumps({"model": f"m{n}"}) for n in range(30_000)), seconds=3)


@situation("A6")
def a_socket_sends_one_message_that_does_not_end(stage: Stage) -> None:
    watcher = stage.api.socket("/v1/events")
    frame = websocket.ABNF(fin=0, opcode=websocket.ABNF.OPCODE_TEXT, data=b"x" * 500_000)
    try:
        for _ in range(100):
            watcher.send_frame(frame)
            frame = websocket.ABNF(fin=0, opcode=websocket.ABNF.OPCODE_CONT, data=b"x" * 500_000)
    except (OSError, websocket.WebSocketException):
        pass
    finally:
        watcher.shutdown()


# --- A7: lists ------------------------------------------------------------------------------------------


@situation("A7")
def lists_of_large_jobs_are_asked_for(stage: Stage) -> None:
    for _ in range(24):
        stage.api.submit("large", input={"name": "x", "filler": "y" * 900_000, "size": 1_000_000})
    with ThreadPoolExecutor(8) as callers:
        answers = list(callers.map(lambda _: _list(stage.api), range(8)))
    assert max(len(each) for each in answers) < 2_000_000, [len(each) for each in answers]
    for job in json.loads(answers[0])["jobs"]:
        assert "y" * 1000 not in json.dumps(job)


def _list(api: Api) -> bytes:
    own = Api(api.port)
    try:
        got = own.http.get("/v1/jobs", params={"limit": 100})
        assert got.status_code == 200, got.text
        return got.content
    finally:
        own.http.close()


@situation("A7")
def a_job_with_a_large_input_is_watched(stage: Stage) -> None:
    job = stage.api.submit("large", input={"name": "x", "filler": "y" * 900_000})
    events, code, _ = stage.api.watch(f"/v1/jobs/{job['id']}/events")
    assert events[-1]["type"] in TERMINAL
    assert code == 1000
    assert max(len(json.dumps(event)) for event in events) < 100_000


def refused(stage: Stage, data: bytes, *statuses: int) -> None:
    """This is answered with one of these statuses, in problem details."""
    got = answer(stage.api, data)
    head = got.partition(b"\r\n\r\n")[0].lower()
    assert status(got) in statuses, f"{data[:200]!r}: {got[:500]!r}"
    assert b"application/problem+json" in head, f"{data[:200]!r}: {got[:500]!r}"
