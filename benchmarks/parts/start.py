"""From the start of a worker to its first job done, with a model to load; and the memory it takes."""

from __future__ import annotations

from argparse import Namespace
from functools import partial

from measure import interleaved, table, times
from peers.catalog import EMBED, Peer
from processes import Running, descendants, memory
from redis_server import RedisServer
from runs import client, until, worker

from parts import chosen

AFTER = 5  # jobs while which memory is looked at: RQ's work-horse is there only while a job runs
LOOK = 0.02


def run(options: Namespace) -> bool:
    peers = chosen(EMBED, options)
    with RedisServer() as server:
        figures = interleaved(options.rounds, {name: partial(_measure, peer, server) for name, peer in peers.items()})
    base = figures.get("rq", {}).get("seconds")
    table(
        "Start of a worker for MiniLM embeddings, and its memory in MB: resident (proportional: RSS, PSS)",
        ["worker", "to the first job done, s", "x stock RQ", "parent RSS", "PSS", "work-horse RSS", "PSS"],
        (
            [
                peers[name].label,
                each["seconds"],
                times(each["seconds"], base),
                *(each[quantity] for quantity in ("parent RSS", "parent PSS", "horse RSS", "horse PSS")),
            ]
            for name, each in figures.items()
        ),
    )
    return True


def _measure(peer: Peer, server: RedisServer) -> dict[str, float]:
    peer.needs()
    server.clear()
    client(peer, server, "queue", "embed", 1)
    with worker(peer, server) as running:
        seconds = until(lambda: peer.results(server) >= 1, running, 0.002) - running.started
        client(peer, server, "queue", "embed", AFTER)
        greatest = {"parent RSS": 0.0, "parent PSS": 0.0, "horse RSS": 0.0, "horse PSS": 0.0}
        until(lambda: _look(running, greatest) and peer.results(server) > AFTER, running, LOOK)
        _look(running, greatest)
    return {"seconds": seconds, **greatest}


def _look(running: Running, greatest: dict[str, float]) -> bool:
    horses = [memory(pid) for pid in descendants(running.pid)]
    sizes = {"parent": memory(running.pid), "horse": max(horses, default=(0.0, 0.0))}
    for who, (resident, proportional) in sizes.items():
        greatest[f"{who} RSS"] = max(greatest[f"{who} RSS"], resident)
        greatest[f"{who} PSS"] = max(greatest[f"{who} PSS"], proportional)
    return True
