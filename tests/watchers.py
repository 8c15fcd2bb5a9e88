"""Watchers of a job over each transport, which may go at any moment, without a word."""

from __future__ import annotations

import contextlib
import json
import random
import socket
import struct
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import httpx
import pytest
import websocket

from tests.deployment import NO_TLS, Api

Event = dict[str, Any]


class Closed(Exception):
    """A WebSocket was closed; the code and the reason."""

    def __init__(self, code: int, reason: Any) -> None:
        super().__init__(code, reason)
        self.code = code
        self.reason = reason


class Refused(Exception):
    """A request for events was not answered with events; the argument is the status."""


def events_of(watcher: websocket.WebSocket) -> Iterator[Event]:
    """Events to a normal close. Raises Closed for another one."""
    while True:
        opcode, data = watcher.recv_data()
        if opcode == websocket.ABNF.OPCODE_CLOSE:
            code = int.from_bytes(data[:2], "big")
            if code == 1000:
                return
            raise Closed(code, json.loads(data[2:] or b"null"))
        yield json.loads(data)


def cut(sock: socket.socket | None) -> None:
    """End a connection as a lost network does: no close frame, and what is under way is lost."""
    if sock is None:  # the other end was quicker
        return
    with contextlib.suppress(OSError):
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    sock.close()


@contextmanager
def over_websocket(api: Api, job_id: str, query: str = "") -> Iterator[Iterator[Event]]:
    """A WebSocket that is cut at the end."""
    watcher = api.socket(f"/v1/jobs/{job_id}/events{query}")
    try:
        yield events_of(watcher)
    finally:
        cut(watcher.sock)


@contextmanager
def over_event_stream(
    api: Api, job_id: str, query: str = "", headers: dict[str, str] | None = None
) -> Iterator[Iterator[Event]]:
    """An event stream that is cut at the end."""
    with httpx.Client(base_url=api.http.base_url, timeout=20, verify=NO_TLS) as http:
        accept = {"Accept": "text/event-stream", **(headers or {})}
        with http.stream("GET", f"/v1/jobs/{job_id}/events{query}", headers=accept) as response:
            if response.status_code != 200:
                raise Refused(response.status_code)
            yield (json.loads(line[6:]) for line in response.iter_lines() if line.startswith("data: "))


@contextmanager
def over_pages(api: Api, job_id: str, query: str = "") -> Iterator[Iterator[Event]]:
    """A caller that polls."""
    yield _pages(api, job_id, dict(httpx.QueryParams(query.removeprefix("?"))))


def _pages(api: Api, job_id: str, parameters: dict[str, str]) -> Iterator[Event]:
    done = False
    with httpx.Client(base_url=api.http.base_url, timeout=20, verify=NO_TLS) as http:
        while not done:
            page = http.get(f"/v1/jobs/{job_id}/events", params={**parameters, "limit": "7"}).json()
            yield from page["events"]
            parameters["after"], done = page["cursor"], page["done"]
            if not page["events"]:
                time.sleep(0.1)  # as a caller who polls does


TRANSPORTS = {"websocket": over_websocket, "event stream": over_event_stream, "pages": over_pages}


TERMINAL = {"finished", "failed", "stopped", "canceled"}
BROKEN = (OSError, EOFError, httpx.HTTPError, websocket.WebSocketException, Closed, ValueError, KeyError)
"""What a watcher meets whose connection, web process or Redis has gone."""


def watch_with_cuts(
    apis: Sequence[Api], job_id: str, rng: random.Random, cut_after: Iterator[int], within: float
) -> list[Event]:
    """All that a watcher gets who goes after so many events each time and comes back anywhere, in any way.

    The test fails if the job's end has not been seen within so many seconds.
    """
    seen: list[Event] = []
    deadline = time.monotonic() + within
    while time.monotonic() < deadline:
        api, transport = rng.choice(apis), rng.choice(list(TRANSPORTS))
        left = next(cut_after, 10**9)
        try:
            with TRANSPORTS[transport](api, job_id, f"?after={seen[-1]['id'] if seen else 0}") as events:
                for event in events:
                    seen.append(event)
                    left -= 1
                    if left <= 0:
                        break
                if seen and seen[-1]["type"] in TERMINAL:
                    return seen  # else it was cut off, or an event stream that ended with its process
        except BROKEN:
            time.sleep(0.05)  # a process that was killed, or is not there yet
        except Refused as refused:
            if refused.args == (204,):  # a stream that has told all
                return seen
            time.sleep(0.05)
    pytest.fail(f"not at the end of {job_id} after {len(seen)} events")


def log_of(api: Api, job_id: str) -> list[Event]:
    """A job's whole log."""
    events: list[Event] = []
    after, done = "0", False
    while not done:
        page = api.http.get(f"/v1/jobs/{job_id}/events", params={"after": after, "limit": "500"}).json()
        events += page["events"]
        after, done = page["cursor"], page["done"]
    return events
