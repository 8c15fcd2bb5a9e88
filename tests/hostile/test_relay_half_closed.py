"""Callers that shut down their sending side once they have asked, as some proxies and `nc -N` do, and callers that
have gone."""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
import redis

from tests.deployment import Api, Deployment, deployment, eventually, until
from tests.raw_sockets import CLOSE, TEXT, answer, asked, close_code, frames, masked, upgraded
from tests.suspension import suspended

MODELS = """
    from service import model

    @model
    def echo(value: str = "") -> str:
        return value

    @model
    def large(size: int) -> str:
        return "x" * size
"""


@pytest.fixture
def connected(service: Api) -> Iterator[redis.Redis]:
    with redis.Redis.from_url(service.redis_url) as client:  # type: ignore[attr-defined]
        yield client


@pytest.fixture
def other(service: Api, tmp_path: Path) -> Iterator[Deployment]:
    """A deployment of this test's own on the same Redis."""
    with deployment(tmp_path, service.redis_url) as each:  # type: ignore[attr-defined]
        yield each


def listened_to(connection: redis.Redis, job_id: str) -> None:
    """Wait until somebody watches this job."""
    until(lambda: bool(connection.pubsub_numsub(f"service:job:{job_id}:events")[0][1]))


def pause(seconds: float = 0.3) -> None:
    """Give the web process time to see that a caller says nothing more."""
    time.sleep(seconds)


@pytest.mark.parametrize("size", [1, 3 * 2**20])
def test_a_submit_that_waits_is_answered(service: Api, size: int) -> None:
    with suspended(service):
        body = {"input": {"size": size}}
        caller = asked(service, "/v1/models/large/jobs", "POST", body, Prefer="wait=20")
        caller.shutdown(socket.SHUT_WR)
        pause()
    status, text = answer(caller)

    assert (status, json.loads(text)["status"]) == (200, "finished")
    assert len(json.loads(text)["output"]) == size


@pytest.mark.parametrize("end", ["?wait=20", "/result?wait=20"])
def test_a_long_poll_is_answered_when_the_job_is_done(service: Api, connected: redis.Redis, end: str) -> None:
    with suspended(service):
        job = service.submit("echo", input={"value": "x"})
        caller = asked(service, job["urls"]["self"] + end)
        caller.shutdown(socket.SHUT_WR)
        listened_to(connected, job["id"])
        pause()
    status, text = answer(caller)

    assert status == 200
    assert json.loads(text) in ("x", service.job(job["id"]))


def test_a_long_poll_is_answered_when_its_time_is_over(service: Api) -> None:
    with suspended(service):
        job = service.submit("echo")
        caller = asked(service, job["urls"]["self"] + "?wait=0.7")
        caller.shutdown(socket.SHUT_WR)
        status, text = answer(caller)
        service.cancel(job["id"])

    assert (status, json.loads(text)["status"]) == (200, "queued")


def test_an_event_stream_is_told_to_its_end(service: Api, connected: redis.Redis) -> None:
    with suspended(service):
        job = service.submit("large", input={"size": 10})
        caller = asked(service, job["urls"]["events"] + "?after=0", Accept="text/event-stream")
        caller.shutdown(socket.SHUT_WR)
        listened_to(connected, job["id"])
        pause()
    status, text = answer(caller)

    assert status == 200
    assert [json.loads(line[6:]) for line in text.splitlines() if line.startswith(b"data: ")] == service.log(job["id"])


def test_a_socket_is_told_to_its_end_and_closed_with_its_code(service: Api, connected: redis.Redis) -> None:
    with suspended(service):
        job = service.submit("echo")
        caller = upgraded(service, job["urls"]["events"] + "?after=0")
        caller.shutdown(socket.SHUT_WR)
        listened_to(connected, job["id"])
        pause()
    seen = list(frames(caller))

    assert [json.loads(data) for opcode, data in seen if opcode == TEXT] == service.log(job["id"])
    assert (seen[-1][0], int.from_bytes(seen[-1][1][:2], "big")) == (CLOSE, 1000)


def test_a_socket_that_says_that_it_closes_and_shuts_down_is_answered(service: Api) -> None:
    with suspended(service):
        job = service.submit("echo")
        caller = upgraded(service, job["urls"]["events"])
        caller.sendall(masked(CLOSE, b"\x03\xe8"))
        caller.shutdown(socket.SHUT_WR)

        assert close_code(caller) == 1000
        service.cancel(job["id"])


# --- those who have gone --------------------------------------------------------------------------


def brief_poll(api: Api, job_id: str) -> int:
    return api.http.get(f"/v1/jobs/{job_id}?wait=0.01").status_code


def watching(api: Api, path: str, transport: str) -> socket.socket:
    """A watcher that has been told something; fails if there is no place for it."""
    if transport == "socket":
        caller, expected = upgraded(api, path), b"\x81"
    else:
        caller, expected = asked(api, path, Accept="text/event-stream"), b"HTTP/1.1 200"
    if caller.recv(len(expected)) != expected:
        caller.close()
        raise AssertionError("refused")
    return caller


@pytest.mark.parametrize("transport", ["event stream", "socket"])
def test_a_watcher_that_has_gone_gives_its_place_back_at_once(
    service: Api, other: Deployment, connected: redis.Redis, transport: str
) -> None:
    web = other.web(MAX_WATCHERS="1")
    with suspended(service):
        job = web.submit("echo")
        for _ in range(3):
            caller = eventually(lambda: watching(web, job["urls"]["events"], transport))
            until(lambda: brief_poll(web, job["id"]) == 503)
            caller.close()
            until(lambda: brief_poll(web, job["id"]) == 200, within=8)
        web.cancel(job["id"])


def test_a_long_poll_whose_caller_shut_down_and_then_broke_off_gives_its_place_back(
    service: Api, other: Deployment, connected: redis.Redis
) -> None:
    web = other.web(MAX_WATCHERS="1")
    with suspended(service):
        job = web.submit("echo")
        caller = asked(web, job["urls"]["self"] + "?wait=50")
        listened_to(connected, job["id"])
        caller.shutdown(socket.SHUT_WR)
        pause()
        assert brief_poll(web, job["id"]) == 503
        caller.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\0\0\0\0\0\0\0")
        caller.close()

        until(lambda: brief_poll(web, job["id"]) == 200, within=10)
        web.cancel(job["id"])


def test_a_caller_that_waits_and_goes_on_talking_is_answered_and_costs_no_memory(service: Api) -> None:
    with suspended(service):
        job = service.submit("echo")
        caller = asked(service, job["urls"]["self"] + "?wait=1")
        caller.setblocking(False)
        sent = 0
        with suppress(BlockingIOError):
            while sent < 50 * 2**20:
                sent += caller.send(b"x" * 65536)
        caller.settimeout(20)

        assert caller.recv(12) == b"HTTP/1.1 200"
        caller.close()
        service.cancel(job["id"])
