"""Callers that send half, read nothing, or ask for more than a service should hold at once."""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Any

import websocket

from tests.deployment import Api
from tests.hostile.raw import crowd, request
from tests.hostile.situation import situation
from tests.hostile.stage import Stage
from tests.watchers import TERMINAL

HELD = 2.5
"""Seconds for which callers hold what they hold."""


# --- A4: half requests and those that do not read ---------------------------------------------------

POST = b"POST /v1/models/sleeps/jobs HTTP/1.1\r\nHost: x\r\n"
HALVES = {
    "half_a_head": b"GET / HTTP/1.1\r\nHost: x\r\n",
    "half_a_request_line": b"GET /v1/jo",
    "half_a_body": POST + b'Content-Type: application/json\r\nContent-Length: 90\r\n\r\n{"inp',
    "a_chunk_that_does_not_come": POST + b"Transfer-Encoding: chunked\r\n\r\n5\r\n",
    "a_tls_hello": bytes.fromhex("16030100c8010000c40303") + b"\x00" * 60,
    "nothing": b"",
    "a_head_and_wait_to_be_told_to_go_on": POST + b"Content-Length: 9\r\nExpect: 100-continue\r\n\r\n",
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


@situation("A4")
def callers_send_bodies_that_nobody_reads_and_stay(stage: Stage) -> None:
    """Of gunicorn: what the app leaves unread of a body, a thread reads for ever."""
    body = b"x" * 9_000
    for asks in (
        request("/nowhere", "POST", body),
        request("/v1/jobs", "DELETE", body),
        request("/v1/models/sleeps/jobs", "POST", body, Content_Type="text/plain"),
        request("/healthz", "GET", body),
    ):
        with crowd(stage.api, 30, asks) as connections:
            for connection in connections:
                connection.recv(100)
            job = stage.api.submit("sleeps", wait=10, input={"name": "beside them"})
            assert job["status"] == "finished"


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
    def wishes(number: int) -> str:
        return json.dumps({"subscribe": [{"job_id": f"{number}-{each:05}-{'x' * 60}"} for each in range(12_000)]})

    _says(stage, map(wishes, range(60)))


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
    assert events[-1]["type"] in TERMINAL or events[-1]["data"]["done"]  # a snapshot, if it was over by then
    assert code == 1000
    assert max(len(json.dumps(event)) for event in events) < 100_000
