"""Clients that send half a request, or drop by drop: it costs their connection, and nobody else anything."""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Iterator
from contextlib import ExitStack

import httpx
import pytest

from tests.deployment import NO_TLS, Api, deployment, until
from tests.raw_http import Raw, in_chunks, request

MODELS = """
    from service import model

    @model
    def echo(value: str = "") -> str:
        return value
"""

BODY = json.dumps({"input": {"value": "x" * 50}}).encode()
SUBMIT = request("POST", "/v1/models/echo/jobs", BODY)
CHUNKED = in_chunks("POST", "/v1/models/echo/jobs", BODY[:7], BODY[7:20], BODY[20:])
TLS = bytes.fromhex("16030100c8010000c40303") + bytes(range(189))

HALVES = {
    "a half line": b"GET /hea",
    "a half head": b"GET / HTTP/1.1\r\nHost: x\r\n",
    "a half field": b"GET / HTTP/1.1\r\nHost: x\r\nX-Long: " + b"y" * 5000,
    "a half body": SUBMIT[:-1],
    "a head without its body": SUBMIT[: -len(BODY)],
    "a half chunk": CHUNKED[: -len(BODY)],
    "half the end of the chunks": CHUNKED[:-2],
    "half a trailer": CHUNKED[:-2] + b"X-Sum: 5",
    "nothing": b"",
}
"""What a client may send before it says no more."""

NO_REQUESTS = {
    "a TLS hello": TLS,
    "bytes": bytes(range(256)),
    "NUL": b"\0" * 100,
    "a NUL in the line": b"GET /\0 HTTP/1.1\r\nHost: x\r\n\r\n",
    "a NUL in a field": b"GET / HTTP/1.1\r\nHost: x\0\r\n\r\n",
    "no version": b"GET /\r\n\r\n",
    "HTTP/2": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "a line of nothing": b"\r\n\r\n",
    "lines without CR": b"GET / HTTP/1.1\nHost: x\n\n",
    "a field without a colon": b"GET / HTTP/1.1\r\nHost\r\n\r\n",
    "a host that is no name": "GET / HTTP/1.1\r\nHost: é\r\n\r\n".encode(),
    "two lengths": b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n",
    "a length that is no number": b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: -1\r\n\r\n",
    "a length and chunks": b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n",
    "a size that is no number": in_chunks("POST", "/v1/models/echo/jobs", end=b"zz\r\n"),
    "a negative size": in_chunks("POST", "/v1/models/echo/jobs", end=b"-1\r\n"),
    "a size of many digits": in_chunks("POST", "/v1/models/echo/jobs", end=b"f" * 200 + b"\r\n"),
    "a size without an end": in_chunks("POST", "/v1/models/echo/jobs", end=b"0" * 9000),
    "a chunk that is longer than it says": in_chunks("POST", "/v1/models/echo/jobs", end=b"1\r\nabc\r\n"),
    "a wrong extension": in_chunks("POST", "/v1/models/echo/jobs", end=b"1;=\r\na\r\n0\r\n\r\n"),
    "a trailer that is no field": in_chunks("POST", "/v1/models/echo/jobs", BODY, end=b"0\r\nnothing\r\n\r\n"),
}
"""What is no request, as can be seen at once."""


@pytest.fixture(scope="module")
def api(service: Api, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Api]:
    """Another web process of the same service: two threads, short deadlines."""
    with deployment(tmp_path_factory.mktemp("hostile"), service.redis_url) as each:  # type: ignore[attr-defined]
        api = each.web(
            WEB_THREADS="2", HEAD_TIMEOUT="3", BODY_TIMEOUT="3", MIN_BODY_RATE="100", MAX_BODY_BYTES="100000"
        )
        until(lambda: api.http.get("/v1/models/echo").status_code == 200)
        yield api
        assert "Traceback" not in api.process.log.read_text()  # type: ignore[attr-defined]


def serves(api: Api) -> None:
    """A stranger is served as if nobody else was there."""
    with httpx.Client(base_url=api.http.base_url, timeout=10, verify=NO_TLS) as stranger:
        assert stranger.get("/healthz").status_code == 200
        assert stranger.get("/v1/models/echo").status_code == 200
        assert stranger.post("/v1/models/echo/jobs", json={"input": {}}).status_code == 202


@pytest.mark.parametrize("half", HALVES.values(), ids=HALVES)
def test_half_requests_take_no_thread(api: Api, half: bytes) -> None:
    with ExitStack() as stack:
        for _ in range(40):
            stack.enter_context(Raw(api.port)).sendall(half)

        serves(api)


@pytest.mark.parametrize(
    "half", [half for half in HALVES.values() if half], ids=[name for name in HALVES if HALVES[name]]
)
def test_a_request_that_is_not_whole_in_time_is_408(api: Api, half: bytes) -> None:
    with Raw(api.port) as client:
        client.sendall(half)

        assert client.answer().problem(408)["type"] == "/problems/request-timeout"
        assert client.has_ended()


def test_a_connection_on_which_nothing_comes_is_closed_without_a_word(api: Api) -> None:
    with Raw(api.port) as client:
        assert client.has_ended()


@pytest.mark.parametrize(
    "half", [half for half in HALVES.values() if half], ids=[name for name in HALVES if HALVES[name]]
)
def test_a_client_that_ends_its_side_within_a_request_is_told_so(api: Api, half: bytes) -> None:
    with Raw(api.port) as client:
        client.sendall(half)
        client.half_close()

        client.answer().problem(400)
        assert client.has_ended()


@pytest.mark.parametrize("sent", [request("GET", "/healthz"), SUBMIT, CHUNKED], ids=["GET", "POST", "chunks"])
def test_a_client_that_ends_its_side_after_a_request_gets_its_answer(api: Api, sent: bytes) -> None:
    with Raw(api.port) as client:
        client.sendall(sent)
        client.half_close()

        assert client.answer().status in (200, 202)
        assert client.has_ended()


@pytest.mark.parametrize("sent", NO_REQUESTS.values(), ids=NO_REQUESTS)
def test_what_is_no_request_is_400_at_once(api: Api, sent: bytes) -> None:
    with Raw(api.port) as client:
        began = time.monotonic()
        client.sendall(sent)

        assert client.answer().problem(400)["type"] == "/problems/bad-request"
        assert time.monotonic() - began < 2.9  # not only when its time was over
        assert client.has_ended()


@pytest.mark.parametrize("sent", [request("GET", "/healthz"), SUBMIT, CHUNKED], ids=["GET", "POST", "chunks"])
def test_a_request_that_comes_byte_by_byte_is_answered(api: Api, sent: bytes) -> None:
    with Raw(api.port) as client:
        for place in range(len(sent)):
            client.sendall(sent[place : place + 1])

        assert client.answer().status in (200, 202)


def test_a_head_that_comes_drop_by_drop_is_not_waited_for_longer(api: Api) -> None:
    with Raw(api.port) as client:
        client.settimeout(0.2)
        began, received = time.monotonic(), b""
        client.sendall(b"GET / HTTP/1.1\r\n")
        while not received and time.monotonic() - began < 20:
            client.sendall(b"X-Drop: y\r\n")
            with contextlib.suppress(TimeoutError):
                received = client.recv(12)

        assert received == b"HTTP/1.1 408"


@pytest.mark.parametrize(
    "head",
    [
        SUBMIT[: -len(BODY)].replace(b": 79", b": 9999"),
        CHUNKED[: -len(CHUNKED)] + in_chunks("POST", "/v1/models/echo/jobs", end=b"fff\r\n"),
    ],
    ids=["length", "chunks"],
)
def test_a_body_that_comes_drop_by_drop_is_not_waited_for_longer(api: Api, head: bytes) -> None:
    with Raw(api.port) as client:
        client.settimeout(0.2)
        began, received = time.monotonic(), b""
        client.sendall(head)
        while not received and time.monotonic() - began < 20:
            client.sendall(b"1")  # 5 bytes a second, and 100 are wanted
            with contextlib.suppress(TimeoutError):
                received = client.recv(12)

        assert received == b"HTTP/1.1 408"


def test_a_body_that_comes_slowly_and_fast_enough_is_waited_for(api: Api) -> None:
    body = json.dumps({"input": {"value": "x" * 2000}}).encode()
    sent = request("POST", "/v1/models/echo/jobs", body)
    with Raw(api.port) as client:
        client.settimeout(0.25)
        client.sendall(sent[: -len(body)])
        for place in range(0, len(body), 100):  # 400 bytes a second: 5 s, and 3 are allowed without a byte
            client.sendall(body[place : place + 100])
            with pytest.raises(TimeoutError):
                client.recv(1)
            if place + 200 > len(body):
                client.settimeout(20)
                break
        client.sendall(body[place + 100 :])

        assert client.answer().status == 202


def test_an_idle_connection_is_kept_for_longer_than_a_head_may_take(api: Api) -> None:
    with Raw(api.port) as client:
        client.sendall(request("GET", "/healthz"))
        assert client.answer().status == 200
        client.settimeout(5)
        with pytest.raises(TimeoutError):
            client.recv(1)

        client.settimeout(20)
        client.sendall(request("GET", "/healthz"))
        assert client.answer().status == 200


@pytest.mark.parametrize("half", [*HALVES.values(), *NO_REQUESTS.values()], ids=[*HALVES, *NO_REQUESTS])
def test_a_client_that_hangs_up_costs_its_connection_only(api: Api, half: bytes) -> None:
    for _ in range(10):
        client = Raw(api.port)
        client.sendall(half)
        client.reset()

    serves(api)
