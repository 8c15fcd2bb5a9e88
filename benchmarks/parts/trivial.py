"""Trivial jobs, many queued, one worker process, results stored: jobs a second."""

from __future__ import annotations

from argparse import Namespace
from functools import partial

from measure import interleaved, table, times
from peers.catalog import TRIVIAL
from redis_server import RedisServer
from runs import queued_and_drained

from parts import chosen, fewer


def run(options: Namespace) -> bool:
    peers = chosen(TRIVIAL, options)
    with RedisServer() as server:
        figures = interleaved(
            options.rounds,
            {
                name: partial(queued_and_drained, peer, server, "add", fewer(peer.jobs, options))
                for name, peer in peers.items()
            },
        )
    base = figures.get("rq", {}).get("rate")
    table(
        "Trivial jobs",
        ["worker", "jobs/s", "x stock RQ", "Redis commands a job", "round trips a job"],
        (
            [peers[name].label, each["rate"], times(each["rate"], base), each["commands"], each["round trips"]]
            for name, each in figures.items()
        ),
    )
    return True
