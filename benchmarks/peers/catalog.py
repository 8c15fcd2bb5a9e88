"""Which peers there are: how each one's worker is started and how its stored results are counted."""

from __future__ import annotations

import importlib
import os
from collections.abc import Callable
from dataclasses import dataclass, field, fields
from pathlib import Path

from install import OURS, PEERS, ROOT
from measure import NotMeasured
from redis_server import RedisServer

from service.model import Options

HERE = ROOT / "benchmarks"


def _in_database(server: RedisServer) -> int:
    return int(server.results.dbsize())


def _in_hash(server: RedisServer) -> int:
    return int(server.client.hlen("huey.results.bench"))


def _in_registry(queue: str) -> Callable[[RedisServer], int]:
    return lambda server: int(server.client.zcard(f"rq:finished:{queue}"))


def _nothing() -> None:
    return None


def _needs_warm_worker() -> None:
    if not hasattr(importlib.import_module("service.worker"), "WarmWorker"):
        raise NotMeasured("there is no service.worker.WarmWorker yet")


def _needs_batches() -> None:
    if "max_batch_size" not in {each.name for each in fields(Options)}:
        raise NotMeasured("@model takes no max_batch_size yet")


@dataclass(frozen=True)
class Peer:
    """One way to run jobs."""

    label: str
    client: str
    """Module in peers/ that submits and waits."""
    bin: Path
    """Where its Python and its programs are."""
    worker: list[str]
    results: Callable[[RedisServer], int]
    """How many jobs have their result stored."""
    jobs: int
    """How many take it one to three seconds."""
    env: dict[str, str] = field(default_factory=dict)
    needs: Callable[[], None] = _nothing
    """Raises NotMeasured, where the service does not offer something yet."""

    def environment(self, server: RedisServer) -> dict[str, str]:
        """For its worker and its clients."""
        own = {
            "BENCH_REDIS": server.url,
            "REDIS_URL": server.url,
            "PYTHONPATH": f"{HERE}{os.pathsep}{ROOT}",
            "EMBED_THREADS": "1",
            **{f"{library}_NUM_THREADS": "1" for library in ("OPENBLAS", "OMP", "MKL")},
        }
        kept = {name: os.environ[name] for name in ("PATH", "HOME", "LANG", "TMPDIR") if name in os.environ}
        return {**kept, **own, **self.env}

    def command(self, server: RedisServer) -> list[str]:
        """What starts its worker."""
        program, *arguments = (part.format(url=server.url) for part in self.worker)
        return [str(self.bin / program), *arguments]


def _rq(label: str, worker: str, jobs: int, needs: Callable[[], None] = _nothing) -> Peer:
    command = ["rq", "worker", "--url", "{url}", "--quiet", "-w", worker]
    return Peer(label, "rq_jobs", OURS, command, _in_registry("default"), jobs, needs=needs)


def _ours(label: str, models: str, queue: str, jobs: int, needs: Callable[[], None] = _nothing) -> Peer:
    env = {"JOBS_DIR": str(HERE / "models" / models)}
    command = ["python", "-m", "service", "worker"]
    return Peer(label, "ours", OURS, command, _in_registry(queue), jobs, env, needs)


_CELERY = ["celery", "-A", "peers.celery", "worker", "-c", "1", "--pool", "prefork", "--loglevel", "WARNING"]
_CELERY += ["--without-gossip", "--without-mingle"]
_DRAMATIQ = ["dramatiq", "peers.dramatiq", "--processes", "1", "--threads", "8"]
_TASKIQ = ["taskiq", "worker", "peers.taskiq:broker", "--workers", "1", "--log-level", "WARNING"]
_HUEY = ["huey_consumer", "peers.huey.queue", "--workers", "1", "--worker-type", "process", "--quiet"]

TRIVIAL = {
    "rq": _rq("RQ `Worker`", "rq.worker.Worker", 150),
    "rq-simple": _rq("RQ `SimpleWorker` (cannot be killed)", "rq.worker.SimpleWorker", 800),
    "celery": Peer("Celery, prefork, `-c 1`", "celery", PEERS, _CELERY, _in_database, 4000),
    "dramatiq": Peer("Dramatiq, 1 process of 8 threads", "dramatiq", PEERS, _DRAMATIQ, _in_database, 5000),
    "taskiq": Peer("Taskiq, 1 process, list broker", "taskiq", PEERS, _TASKIQ, _in_database, 6000),
    "huey": Peer("Huey, 1 process", "huey", PEERS, _HUEY, _in_hash, 8000),
    "warm": _rq("ours, any RQ job: `WarmWorker`", "service.worker.WarmWorker", 5000, _needs_warm_worker),
    "ours": _ours("**ours, the service**, with events", "trivial", "add", 10000),
}
"""Adding two integers."""

EMBED = {
    "rq": _rq("RQ `Worker`, loads the model in the job", "rq.worker.Worker", 6),
    "rq-preloaded": Peer(
        "RQ `Worker`, model loaded before the fork",
        "rq_jobs",
        OURS,
        ["python", "-m", "peers.rq_preloaded"],
        _in_registry("default"),
        60,
    ),
    "celery": Peer("Celery, prefork, keeps the model", "celery", PEERS, _CELERY, _in_database, 300),
    "warm": _rq("ours, any RQ job: `WarmWorker`", "service.worker.WarmWorker", 300, _needs_warm_worker),
    "ours": _ours("**ours, the service**, one at a time", "embed", "embed", 300),
    "ours-batched": _ours("**ours, the service**, in batches", "embed_batched", "embed", 500, _needs_batches),
}
"""One sentence a job."""
