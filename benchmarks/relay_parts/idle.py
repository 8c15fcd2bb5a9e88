"""Sockets on which nothing happens: how long they take to open, and what they cost."""

from __future__ import annotations

import time
from argparse import Namespace
from collections.abc import Mapping
from functools import partial

from measure import interleaved, table
from redis_server import RedisServer

from relay_parts.clients import Idle
from relay_parts.peers import PEERS_OF_OURS, serving
from relay_parts.step import submitted

SECONDS, SECONDS_QUICK = 60.0, 20.0


def run(options: Namespace) -> bool:
    seconds = SECONDS_QUICK if options.quick else SECONDS
    with RedisServer() as server:
        measures = {"ours": partial(_measure, server, options.waiters, seconds)}
        figures = interleaved(options.rounds, measures).get("ours")
    if figures is None:
        return False
    table(
        f"{options.waiters:,} idle sockets, each on its own job (ours)",
        ["all open and greeted, s", "sockets/s", "kB a socket", f"CPU %, {seconds:.0f} s", "pings/s", "threads before"]
        + ["threads with them"],
        [[figures[name] for name in ("open", "rate", "memory", "cpu", "pings", "before", "after")]],
    )
    return True


def _measure(server: RedisServer, sockets: int, seconds: float) -> Mapping[str, float]:
    server.clear()
    ids = submitted(server, sockets)
    with serving(PEERS_OF_OURS["ours"], server, sockets) as serves:
        memory, threads = serves.memory(), serves.threads()
        with Idle(serves.port, ids) as idle:
            took = idle.open()
            idle.pings = 0
            began, cpu = time.monotonic(), serves.cpu()
            idle.run(began + seconds)
            lasted = time.monotonic() - began
            return {
                "open": took,
                "rate": sockets / took,
                "memory": (serves.memory() - memory) / sockets,
                "cpu": (serves.cpu() - cpu) / lasted * 100,
                "pings": idle.pings / lasted,
                "before": threads,
                "after": serves.threads(),
            }
