"""One trivial job at a time on an idle worker: from submit to the result that its submitter sees."""

from __future__ import annotations

import statistics
from argparse import Namespace
from functools import partial

from measure import interleaved, table, times
from peers.catalog import TRIVIAL, Peer
from redis_server import RedisServer
from runs import client, worker

from parts import chosen, fewer

JOBS = 300
JOBS_OF_THE_SLOW = 60  # RQ's fork, and Huey's and Taskiq's own ways to wait, in which they sleep


def run(options: Namespace) -> bool:
    peers = chosen(TRIVIAL, options)
    with RedisServer() as server:
        figures = interleaved(
            options.rounds, {name: partial(_measure, peer, server, options) for name, peer in peers.items()}
        )
    base = figures.get("rq", {}).get("p50")
    table(
        "Latency of one job on an idle worker, ms",
        ["worker", "p50", "p99", "p99 / p50", "stock RQ is x slower", "p50 as it waits itself", "p99"],
        (
            [
                peers[name].label,
                each["p50"],
                each["p99"],
                times(each["p99"], each["p50"]),
                times(base, each["p50"]),
                each["own p50"],
                each["own p99"],
            ]
            for name, each in figures.items()
        ),
    )
    print("\nThe first three: the result looked for in Redis every 0.2 ms, for all alike.")
    return True


def _measure(peer: Peer, server: RedisServer, options: Namespace) -> dict[str, float]:
    peer.needs()
    server.clear()
    slow = peer.client in ("huey", "taskiq")
    with worker(peer, server):
        jobs = JOBS_OF_THE_SLOW if peer.jobs < JOBS else JOBS
        polled = client(peer, server, "latency", "add", fewer(jobs, options), "poll")
        own = client(peer, server, "latency", "add", fewer(JOBS_OF_THE_SLOW if slow else jobs, options), "native")
    return {
        "p50": statistics.median(polled) * 1000,
        "p99": _p99(polled),
        "own p50": statistics.median(own) * 1000,
        "own p99": _p99(own),
    }


def _p99(seconds: list[float]) -> float:
    return sorted(seconds)[int(len(seconds) * 0.99)] * 1000
