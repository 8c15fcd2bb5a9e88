"""Which servers there are, and how each is started."""

from __future__ import annotations

import contextlib
import http.client
import os
import socket
import tempfile
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from install import OURS, PEERS, ROOT
from measure import NotMeasured
from processes import Running, descendants, memory
from redis_server import RedisServer

from relay_parts.machine import SERVER_CORE, cpu, on_core, threads

HERE = ROOT / "benchmarks"
READY_WITHIN = 60.0


@dataclass(frozen=True)
class Peer:
    """One server, of one web process."""

    label: str
    bin: Path
    command: str
    jobs: int
    """With how many sockets, each on its own job, the search begins."""
    watchers: int
    """The same, all on one job."""
    env: dict[str, str] = field(default_factory=dict)
    ours: bool = False

    def environment(self, server: RedisServer, port: int, folder: str) -> dict[str, str]:
        kept = {name: os.environ[name] for name in ("PATH", "HOME", "LANG", "TMPDIR") if name in os.environ}
        own = {"REDIS_URL": server.url, "HOST": "127.0.0.1", "PORT": str(port), "DATA_DIR": folder, "JOBS_DIR": folder}
        return {**kept, **own, "PYTHONPATH": f"{HERE}{os.pathsep}{ROOT}", **self.env}


_NAIVE = (
    # A thread for each socket, and some that stay free.
    "gunicorn --bind 127.0.0.1:{port} --worker-class gthread --threads {threads} --worker-connections {threads} "
    "--no-control-socket --log-level warning relay_parts.servers.naive:app"
)
_ASGI = (
    "uvicorn --host 127.0.0.1 --port {port} --loop uvloop --http httptools --ws websockets-sansio --no-access-log "
    "--log-level warning relay_parts.servers.asgi:app"
)
PEERS_OF_OURS: Mapping[str, Peer] = {
    "naive": Peer("Flask, gunicorn: a thread and a Redis connection a socket", PEERS, _NAIVE, 1_000, 500),
    "starlette": Peer("Starlette, uvicorn: one subscription, a queue a socket", PEERS, _ASGI, 2_500, 1_500),
    "ours": Peer(
        "**ours**",
        OURS,
        "python -m service web",
        5_000,
        5_000,
        {
            "WEB_THREADS": os.environ.get("WEB_THREADS", "16"),
            "MAX_WATCHERS": "20000",
            "LOG_LEVEL": "warning",
        },
        True,
    ),
}


@dataclass
class Serving:
    """A server that answers."""

    running: Running
    port: int

    @property
    def pids(self) -> list[int]:
        return [self.running.pid, *descendants(self.running.pid)]

    def cpu(self) -> float:
        return cpu(self.pids)

    def threads(self) -> int:
        return threads(self.pids)

    def memory(self) -> float:
        """Resident memory of its processes, kB."""
        return sum(memory(pid)[0] for pid in self.pids) * 1024


@contextlib.contextmanager
def serving(peer: Peer, server: RedisServer, sockets: int) -> Iterator[Serving]:
    """Start it on its core and wait until it answers. Raises NotMeasured."""
    port = _free_port()
    program, *arguments = peer.command.format(port=port, threads=sockets + 50).split()
    with tempfile.TemporaryDirectory() as folder:
        environment = peer.environment(server, port, folder)
        with on_core(SERVER_CORE):
            running = Running([str(peer.bin / program), *arguments], environment, ROOT, Path(folder) / "log")
        with running:
            _until_ready(running, port)
            yield Serving(running, port)


def _free_port() -> int:
    # Another one for each server: the client's ports are then all free again, whatever is in TIME_WAIT.
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _until_ready(running: Running, port: int) -> None:
    deadline = time.monotonic() + READY_WITHIN
    while True:
        try:
            connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
            connection.request("GET", "/", headers={"Connection": "close"})
            connection.getresponse().read()
            connection.close()
            return
        except OSError:
            time.sleep(0.05)
        if not running.alive or time.monotonic() > deadline:
            raise NotMeasured(f"the server does not answer: {running.last_words()[-300:]}")
