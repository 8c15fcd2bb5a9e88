"""What is done with a peer: its jobs are queued, its worker is started and watched."""

from __future__ import annotations

import json
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from install import ROOT
from measure import NotMeasured
from peers.catalog import Peer
from processes import Running
from redis_server import RedisServer

DEADLINE = 120.0  # seconds; what takes longer is broken
LOOK = 0.01
SETTLED = 10  # the first tenth of the jobs is not timed: the worker starts and warms up


def client(peer: Peer, server: RedisServer, *arguments: object) -> Any:
    """Run peers/client.py in the peer's environment; what it prints."""
    command = [str(peer.bin / "python"), "-m", "peers.client", peer.client, *map(str, arguments)]
    answer = output(command, peer, server)
    return json.loads(answer) if answer else None


def output(command: list[str], peer: Peer, server: RedisServer) -> str:
    """Run a command in the peer's environment to its end; what it prints. Raises NotMeasured."""
    try:
        done = subprocess.run(
            command,
            cwd=ROOT,
            env=peer.environment(server),
            capture_output=True,
            text=True,
            timeout=DEADLINE,
        )
    except subprocess.TimeoutExpired:
        raise NotMeasured(f"{command[3]} took longer than {DEADLINE:.0f} s") from None
    if done.returncode:
        raise NotMeasured(f"{' '.join(command[1:6])}: {_last_line(done.stderr)}")
    return done.stdout


@contextmanager
def worker(peer: Peer, server: RedisServer) -> Iterator[Running]:
    """Its worker, running."""
    with tempfile.TemporaryDirectory() as folder:
        log = Path(folder) / "log"
        with Running(peer.command(server), peer.environment(server), ROOT, log) as running:
            yield running


def until(condition: Callable[[], bool], running: Running, look: float = LOOK) -> float:
    """The moment at which something became true. Raises NotMeasured if the worker ends before, or time is up."""
    deadline = time.monotonic() + DEADLINE
    while not condition():
        if not running.alive:
            raise NotMeasured(f"its worker ended: {_last_line(running.last_words())}")
        if time.monotonic() > deadline:
            raise NotMeasured(f"no end after {DEADLINE:.0f} s: {_last_line(running.last_words())}")
        time.sleep(look)
    return time.monotonic()


def drain(
    peer: Peer, server: RedisServer, running: Running, first: int, last: int, look: float = LOOK
) -> dict[str, float]:
    """The rate at which results are stored, between the first of them and the last; and Redis's work for each job.

    All counts are of stored results, read from Redis every 10 ms, for all peers in the same way.
    """
    looks = done = 0

    def reached(number: int) -> bool:
        nonlocal looks, done
        looks += 1
        done = peer.results(server)
        return done >= number

    began = until(lambda: reached(first), running, look)
    at_first, before, looks = done, server.traffic(), 0
    ended = until(lambda: reached(last), running, look)
    after, jobs = server.traffic(), done - at_first
    if jobs <= 0:
        raise NotMeasured("too few jobs: all were done at the first look")
    return {
        "rate": jobs / (ended - began),
        # Less our own looks, and one of the two questions for the traffic.
        "commands": (after.commands - before.commands - looks - 1) / jobs,
        "round trips": (after.reads - before.reads - looks - 1) / jobs,
    }


def queued_and_drained(peer: Peer, server: RedisServer, task: str, count: int) -> dict[str, float]:
    """Queue jobs, then start the worker; see `drain`."""
    peer.needs()
    server.clear()
    client(peer, server, "queue", task, count)
    with worker(peer, server) as running:
        return drain(peer, server, running, max(1, count // SETTLED), count)


def _last_line(text: str) -> str:
    lines = text.strip().splitlines()
    return lines[-1] if lines else "it printed nothing"
