"""What submitting and reading a job take, with nobody waiting and with thousands who do."""

from __future__ import annotations

import contextlib
import multiprocessing
import socket
import time
from argparse import Namespace
from collections.abc import Iterator, Mapping
from functools import partial

from measure import NotMeasured, interleaved, table, times
from peers.catalog import HERE
from redis_server import RedisServer

from relay_parts.calls import CALLERS, PAUSE, call_all
from relay_parts.clients import Idle, close, opened
from relay_parts.peers import PEERS_OF_OURS, Serving, serving
from relay_parts.step import submitted
from service.registry import find_models
from service.store.models import Models

SECONDS, SECONDS_QUICK = 20.0, 6.0
SETTLED_WITHIN = 20.0
SHARES = (0.3, 0.1, 0.1)
"""Of --waiters: WebSockets, event streams, long polls."""


def run(options: Namespace) -> bool:
    sockets, streams, polls = (round(options.waiters * share) for share in SHARES)
    seconds = SECONDS_QUICK if options.quick else SECONDS
    beside = f"{sockets:,} WebSockets, {streams:,} SSE, {polls:,} long polls"
    with RedisServer() as server:
        figures = interleaved(
            options.rounds,
            {
                "nobody waits": partial(_measure, server, seconds, 0, 0, 0),
                beside: partial(_measure, server, seconds, sockets, streams, polls),
            },
        )
    base, other = figures.get("nobody waits", {}), figures.get(beside, {})
    table(
        f"{CALLERS} callers, {CALLERS / PAUSE:.0f} POST and as many GET a second (ours), ms",
        ["call", "nobody waits", beside, "ratio"],
        ([name, base[name], other.get(name, ""), times(other.get(name), base[name])] for name in base),
    )
    return bool(base and other)


def _measure(server: RedisServer, seconds: float, sockets: int, streams: int, polls: int) -> Mapping[str, float]:
    server.clear()
    _publish_model(server)
    ids = submitted(server, sockets + streams + polls)
    with serving(PEERS_OF_OURS["ours"], server, sockets) as serves, Idle(serves.port, ids[:sockets]) as idle:
        idle.open()
        with _asking(serves.port, ids[sockets : sockets + streams], ids[sockets + streams :]):
            _settle(serves, idle)
            before, began = serves.cpu(), time.monotonic()
            calls = _called(serves.port, seconds, idle)
            used = (serves.cpu() - before) / (time.monotonic() - began)
    return {**calls, "CPU %": used * 100}


def _publish_model(server: RedisServer) -> None:
    found, _ = find_models(HERE / "models/trivial")
    Models(server.client).publish([vars(each.description) for each in found.values()])


def _settle(serves: Serving, idle: Idle) -> None:
    """A long poll that is waiting says nothing: that all are is seen from what the server has left to do."""
    deadline = time.monotonic() + SETTLED_WITHIN
    while time.monotonic() < deadline:
        before = serves.cpu()
        idle.run(time.monotonic() + 0.5)
        if serves.cpu() - before < 0.1:
            return
    raise NotMeasured(f"the server is still busy with those who wait after {SETTLED_WITHIN:.0f} s")


@contextlib.contextmanager
def _asking(port: int, streams: list[str], polls: list[str]) -> Iterator[None]:
    """Event streams and long polls, all open. They are not read: too little comes to fill a buffer."""
    held: list[socket.socket] = []
    try:
        for sock, rest in opened(port, [_stream(each) for each in streams], b"200"):
            held.append(sock)
            if rest.startswith(b"{"):
                raise NotMeasured("the server knows no event streams")
        waiting = [_poll(port, each) for each in polls]
        held += waiting
        yield
        if answered := sum(map(_has_answer, waiting)):
            raise NotMeasured(f"{answered} of {len(polls)} long polls were answered too soon")
    finally:
        close(held)


def _has_answer(sock: socket.socket) -> bool:
    sock.setblocking(False)
    with contextlib.suppress(BlockingIOError):
        sock.recv(1)
        return True
    return False


def _stream(job_id: str) -> bytes:
    return (f"GET /v1/jobs/{job_id}/events HTTP/1.1\r\nHost: 127.0.0.1\r\nAccept: text/event-stream\r\n\r\n").encode()


def _poll(port: int, job_id: str) -> socket.socket:
    sock = socket.create_connection(("127.0.0.1", port), timeout=10)
    sock.sendall(f"GET /v1/jobs/{job_id}?wait=60 HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n".encode())
    return sock


def _called(port: int, seconds: float, idle: Idle) -> dict[str, float]:
    """What the callers, in a process of their own, took; the sockets answer pings meanwhile."""
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=call_all, args=(port, seconds, theirs), daemon=True)
    process.start()
    try:
        while process.is_alive() and not ours.poll():
            idle.run(time.monotonic() + 0.1)
        if not ours.poll():
            raise NotMeasured("the callers met an error")
        taken: dict[str, list[float]] = ours.recv()
    finally:
        process.kill()
        process.join()
    return {
        f"{method} p{share}": sorted(values)[len(values) * share // 100] * 1000
        for method, values in taken.items()
        for share in (50, 99)
    }
