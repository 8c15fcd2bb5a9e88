"""What others notice of callers that send half requests or do not read their answers: prints a Markdown table.

Usage: .venv/bin/python benchmarks/hostile_callers.py [--rounds 3] [--seconds 10] [--half 1000] [--unread 100]

Four callers send 80 POST and 80 GET a second to one web process, without anybody else and beside hostile ones, in
turns. The hostile ones keep open so many connections with half a head, half a request line, half a body, half a chunk
or a TLS hello on them (one that the service closes is opened again after 5 s), and so many that have asked for an
answer of 9 MB and read nothing of it. The web process has a core of its own; Redis and all callers have the other.
Exit code 1 if the p99 beside hostile callers is more than 3 times the other.
"""

from __future__ import annotations

import argparse
import importlib
import json
import multiprocessing
import os
import resource
import selectors
import signal
import socket
import sys
import time
import urllib.request
from collections import deque
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import replace
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
LARGE = 9_000_000
BAR = 3.0
AGAIN = 5.0
"""Seconds after which one that was closed is opened again."""
HALVES = (
    b"GET / HTTP/1.1\r\nHost: x\r\n",
    b"GET /v1/jo",
    b"POST /v1/models/add/jobs HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 900\r\n\r\n{",
    b"POST /v1/models/add/jobs HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nff\r\n{",
    bytes.fromhex("16030100c8010000c40303") + bytes(range(60)),
)
ENVIRONMENT = {
    "MAX_BODY_BYTES": str(2 * LARGE),
    # All of those that do not read are to stay: as it is, the service would close most.
    "MAX_PENDING_BYTES": str(4 * 2**30),
    "SEND_TIMEOUT": "600",
}


def main() -> None:
    options = _options()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that what was started is ended
    sys.path.append(str(ROOT))
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    machine = importlib.import_module("relay_parts.machine")
    os.sched_setaffinity(0, {machine.LOAD_CORE})
    print(f"{os.cpu_count()} cores, Python {sys.version.split()[0]}; {options.rounds} rounds: median (least-greatest).")
    sys.exit(0 if run(options) else 1)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Measure what hostile callers cost others.")
    parser.add_argument("--rounds", type=int, default=3, help="how often each is measured; 3")
    parser.add_argument("--seconds", type=float, default=10.0, help="for how long each time; 10")
    parser.add_argument("--half", type=int, default=1000, help="connections with half a request; 1000")
    parser.add_argument("--unread", type=int, default=100, help="connections with an answer that is not read; 100")
    return parser.parse_args()


def run(options: argparse.Namespace) -> bool:
    """Print the table; whether the bar was met."""
    measure = importlib.import_module("measure")
    peers = importlib.import_module("relay_parts.peers")
    ours = peers.PEERS_OF_OURS["ours"]
    ours = replace(ours, env={**ours.env, **ENVIRONMENT})
    beside = f"{options.half} half requests, {options.unread} unread answers"
    with importlib.import_module("redis_server").RedisServer() as server:
        _publish_models(server.client)
        with peers.serving(ours, server, 0) as serves:
            path = _large_job(serves.port)
            figures = measure.interleaved(
                options.rounds,
                {
                    "nobody else": partial(_measure, serves, options.seconds, path, 0, 0),
                    beside: partial(_measure, serves, options.seconds, path, options.half, options.unread),
                },
            )
    base, other = figures["nobody else"], figures[beside]
    measure.table(
        "Callers beside hostile ones, ms",
        ["call", "nobody else", beside, "ratio"],
        ([name, base[name], other[name], measure.times(other[name], base[name])] for name in base),
    )
    return all(other[name].median <= BAR * base[name].median for name in base if name.endswith("p99"))


def _publish_models(client: Any) -> None:
    registry, models = importlib.import_module("service.registry"), importlib.import_module("service.store.models")
    for folder in ("trivial", "kept"):
        found, _ = registry.find_models(ROOT / "benchmarks/models" / folder)
        models.Models(client).publish([vars(each.description) for each in found.values()])


def _large_job(port: int) -> str:
    """The path of a job that is as large as its answer is to be."""
    body = json.dumps({"input": {"text": "x" * LARGE}}).encode()
    url, headers = f"http://127.0.0.1:{port}/v1/models/kept/jobs", {"Content-Type": "application/json"}
    with urllib.request.urlopen(urllib.request.Request(url, body, headers)) as answer:  # noqa: S310
        path: str = json.load(answer)["urls"]["self"]
    return path


def _measure(serves: Any, seconds: float, path: str, half: int, unread: int) -> Mapping[str, float]:
    call_all = importlib.import_module("relay_parts.calls").call_all
    with _process(_be_hostile, serves.port, path, half, unread) as hostile:
        assert hostile.recv() == "all open"
        with _process(call_all, serves.port, seconds) as callers:
            taken = callers.recv()
    figures = {}
    for method, times in taken.items():
        ordered = sorted(times)
        figures[f"{method} p50"] = ordered[len(ordered) // 2] * 1000
        figures[f"{method} p99"] = ordered[len(ordered) * 99 // 100] * 1000
    return figures


@contextmanager
def _process(target: Any, *arguments: Any) -> Iterator[Connection]:
    """A process of its own, and what it sends."""
    ours, theirs = multiprocessing.get_context("fork").Pipe()
    process = multiprocessing.get_context("fork").Process(target=target, args=(*arguments, theirs))
    process.start()
    try:
        yield ours
    finally:
        process.kill()
        process.join()


def _be_hostile(port: int, path: str, half: int, unread: int, parent: Connection) -> None:
    importlib.import_module("service.process").die_with_parent()
    kept = [_connected(port, f"GET {path} HTTP/1.1\r\nHost: x\r\n\r\n".encode(), 4096) for _ in range(unread)]
    for sock in kept:
        sock.settimeout(300)
        sock.recv(1)  # so its answer is made, which is work like any other
    with selectors.DefaultSelector() as selector:
        for number in range(half):
            selector.register(_connected(port, HALVES[number % len(HALVES)]), selectors.EVENT_READ, number)
        parent.send("all open")
        closed: deque[tuple[float, int]] = deque()
        while True:
            for key, _ in selector.select(0.1):
                if _is_closed(key.fileobj):  # type: ignore[arg-type]  # all are sockets
                    selector.unregister(key.fileobj)
                    closed.append((time.monotonic() + AGAIN, key.data))
            while closed and closed[0][0] < time.monotonic():
                _, number = closed.popleft()
                selector.register(_connected(port, HALVES[number % len(HALVES)]), selectors.EVENT_READ, number)


def _is_closed(sock: socket.socket) -> bool:
    with suppress(ConnectionResetError):
        if sock.recv(4096):
            return False
    sock.close()
    return True


def _connected(port: int, sent: bytes, receives: int = 0) -> socket.socket:
    sock = socket.socket()
    if receives:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receives)
    sock.settimeout(30)
    sock.connect(("127.0.0.1", port))
    sock.sendall(sent)
    return sock


if __name__ == "__main__":
    main()
