"""How many jobs a second each web process accepts, and what that costs."""

from __future__ import annotations

import sys
import time
from argparse import Namespace
from collections.abc import Mapping
from functools import partial

from install import HERE
from measure import Figures, NotMeasured, interleaved, table, times
from redis_server import RedisServer
from relay_parts.machine import cpu
from relay_parts.peers import serving

from service.registry import find_models
from service.store.models import Models
from submit_parts.load import Load
from submit_parts.peers import TAKERS, Taker

WARM = 1.0  # seconds at first that do not count: threads and connections to Redis are made


def run(options: Namespace) -> bool:
    """Print the tables; whether ours was measured, if it was to be."""
    takers = {name: taker for name, taker in TAKERS.items() if not options.only or name in options.only}
    if not takers:
        sys.exit(f"error: none of {', '.join(options.only)} is among {', '.join(TAKERS)}")
    good = True
    for connections in options.connections:
        measures = {name: partial(_measure, taker, connections, options.seconds) for name, taker in takers.items()}
        figures = interleaved(options.rounds, measures)
        _show(connections, figures)
        good &= all(name in figures for name, taker in takers.items() if taker.web.ours)
    return good


def _show(connections: int, figures: Mapping[str, Figures]) -> None:
    bases = [figures.get(name, {}).get("rate") for name in TAKERS if name != "ours"]
    table(
        f"Jobs accepted, {connections} connections",
        ["web process", "POST/s", "x Flask + RQ", "x FastAPI + RQ", "x FastAPI + Celery", "POST a CPU second"]
        + ["p50 ms", "p99 ms", "Redis commands a POST", "round trips a POST"]
        + ["its CPU %", "callers' CPU %", "Redis's CPU %"],
        (
            [
                TAKERS[name].web.label,
                each["rate"],
                *(times(each["rate"], base) for base in bases),
                *(each[quantity] for quantity in ("of CPU", "p50 ms", "p99 ms", "commands", "round trips")),
                *(each[quantity] for quantity in ("web %", "callers %", "redis %")),
            ]
            for name, each in figures.items()
        ),
    )


def _measure(taker: Taker, connections: int, seconds: float) -> Mapping[str, float]:
    with RedisServer() as server:
        redis_pid = _durable(server)
        _publish_model(server)
        with serving(taker.web, server, 0) as serves, Load(serves.port, taker.path, connections) as load:
            load.run(WARM)
            load.taken.clear()
            used, before = (serves.cpu(), time.process_time(), cpu([redis_pid])), server.traffic()
            took = load.run(seconds)
            after = server.traffic()
            busy = (serves.cpu(), time.process_time(), cpu([redis_pid]))
            taken = sorted(load.taken)
            load.finish()
            if (queued := int(server.client.llen(taker.queue))) != load.sent:
                raise NotMeasured(f"{load.sent} jobs were accepted and {queued} are queued")
    web, callers, redis = ((end - start) / took * 100 for start, end in zip(used, busy, strict=True))
    return {
        "rate": len(taken) / took,
        "of CPU": len(taken) / took / web * 100,  # which says more where others use the core too
        "p50 ms": taken[len(taken) // 2] * 1000,
        "p99 ms": taken[len(taken) * 99 // 100] * 1000,
        # Less one of the two questions for the traffic.
        "commands": (after.commands - before.commands - 1) / len(taken),
        "round trips": (after.reads - before.reads - 1) / len(taken),
        "web %": web,
        "callers %": callers,
        "redis %": redis,
    }


def _durable(server: RedisServer) -> int:
    """Have it write an append-only file as in production; its pid.

    It is not rewritten meanwhile: that would fall into one measurement and not into the next.
    """
    server.client.config_set("auto-aof-rewrite-percentage", 0)
    server.client.config_set("appendfsync", "everysec")
    server.client.config_set("appendonly", "yes")
    deadline = time.monotonic() + 10
    while server.client.info("persistence")["aof_rewrite_in_progress"]:  # the first file, which is empty
        if time.monotonic() > deadline:
            raise NotMeasured("Redis does not begin its append-only file")
        time.sleep(0.02)
    return int(server.client.info("server")["process_id"])


def _publish_model(server: RedisServer) -> None:
    found, _ = find_models(HERE / "models/trivial")
    Models(server.client).publish([vars(each.description) for each in found.values()])
