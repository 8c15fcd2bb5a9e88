"""A real model, one sentence a job, on one core: jobs a second."""

from __future__ import annotations

import json
import socket
import tempfile
from argparse import Namespace
from functools import partial
from pathlib import Path

from install import OURS, PEERS, ROOT
from measure import interleaved, table, times
from peers.catalog import EMBED, HERE, Peer
from processes import Running
from redis_server import RedisServer
from runs import output, queued_and_drained

from parts import chosen, fewer

CALLS = 600
LEAST_CALLS = 256  # of 64 callers: fewer would end before it is steady
SECONDS = 3.0  # of the model alone, each way


def run(options: Namespace) -> bool:
    peers = chosen({**EMBED, **_WITHOUT_QUEUE}, options)
    measures = {}
    with RedisServer() as server:
        for name, peer in peers.items():
            if name == "bare":
                measures[name] = partial(_bare, peer, server, options)
            elif name == "litserve":
                measures[name] = partial(_litserve, peer, server, max(LEAST_CALLS, fewer(CALLS, options)))
            else:
                measures[name] = partial(queued_and_drained, peer, server, "embed", fewer(peer.jobs, options))
        figures = interleaved(options.rounds, measures)
    rates = {name: each["rate"] for name, each in figures.items() if "rate" in each}
    labels = {name: peer.label for name, peer in peers.items()}
    if "bare" in figures:
        rates["one"], rates["batches"] = figures["bare"]["one"], figures["bare"]["batches"]
        labels |= {"one": "the model alone, one at a time", "batches": "the model alone, in batches of 32"}
    table(
        "MiniLM embeddings, one sentence a job",
        ["worker", "jobs/s", "x stock RQ", "of the model alone, one at a time", "of the model alone, in batches"],
        (
            [
                labels[name],
                rate,
                times(rate, rates.get("rq")),
                times(rate, rates.get("one")),
                times(rate, rates.get("batches")),
            ]
            for name, rate in rates.items()
        ),
    )
    return True


def _no_results(server: RedisServer) -> int:
    return 0


_WITHOUT_QUEUE = {
    "litserve": Peer("LitServe, batches, 64 callers, nothing stored", "", PEERS, [], _no_results, CALLS),
    "bare": Peer("", "", OURS, [], _no_results, 0),
}


def _bare(peer: Peer, server: RedisServer, options: Namespace) -> dict[str, float]:
    seconds = SECONDS / 3 if options.quick else SECONDS
    return json.loads(output([str(peer.bin / "python"), str(HERE / "bare.py"), str(seconds)], peer, server))


def _litserve(peer: Peer, server: RedisServer, calls: int) -> dict[str, float]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    python = str(peer.bin / "python")
    with tempfile.TemporaryDirectory() as folder:
        command = [python, "-m", "peers.litserve", port]
        with Running(command, peer.environment(server), ROOT, Path(folder) / "log"):
            callers = [python, "-m", "peers.callers", port, str(calls)]
            return {"rate": json.loads(output(callers, peer, server))}
