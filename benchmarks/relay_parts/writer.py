"""What one worker writes: events as fast as it can, and what 20 of progress a second add to a job."""

from __future__ import annotations

import contextlib
import signal
import tempfile
import time
from argparse import Namespace
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from install import OURS, ROOT
from measure import NotMeasured, interleaved, number, table
from peers.catalog import HERE
from processes import Running, descendants
from redis_server import RedisServer

from relay_parts.machine import SERVER_CORE, cpu, on_core
from relay_parts.peers import PEERS_OF_OURS
from service.settings import Settings
from service.store import keys
from service.store.jobs import Jobs, Submission

SECONDS, SECONDS_QUICK = 5.0, 2.0
WITHIN = 60.0


def run(options: Namespace) -> bool:
    seconds = SECONDS_QUICK if options.quick else SECONDS
    with RedisServer() as server, _worker(server) as running:
        worker = _Worker(server, running)
        worker.run("steady", {"seconds": 0.1, "told": False})  # it has started and is warm
        figures = interleaved(
            options.rounds,
            {
                "flood": partial(_flood, worker, seconds),
                "silent": partial(_steady, worker, seconds, False),
                "telling": partial(_steady, worker, seconds, True),
            },
        )
    if len(figures) < 3:
        return False
    flood, silent, telling = (figures[name] for name in ("flood", "silent", "telling"))
    table(
        f"One worker, a generator that yields words for {seconds:.0f} s as fast as they are taken (ours)",
        ["events/s", "worker, CPU %", "Redis, CPU %"],
        [[flood[name] for name in ("rate", "worker", "redis")]],
    )
    table(
        f"A job of {seconds:.0f} s that does little (ours)",
        ["", "without progress", "20 progress events a second", "more, of the medians"],
        ([name, silent[name], telling[name], number(telling[name].median - silent[name].median)] for name in silent),
    )
    return True


@contextlib.contextmanager
def _worker(server: RedisServer) -> Iterator[Running]:
    with tempfile.TemporaryDirectory() as folder:
        environment = {
            **PEERS_OF_OURS["ours"].environment(server, 1, folder),
            "JOBS_DIR": str(HERE / "relay_parts/models"),
            "MAX_EVENTS": "10000000",  # all are counted
            "MAX_OUTPUT_BYTES": str(2**30),
        }
        with on_core(SERVER_CORE):
            command = [str(OURS / "python"), "-m", "service", "worker"]
            running = Running(command, environment, ROOT, Path(folder) / "log", signal.SIGTERM)
        with running:
            yield running


class _Worker:
    """Runs one job at a time."""

    def __init__(self, server: RedisServer, running: Running) -> None:
        self._redis: Any = server.client
        self._running = running
        self._redis_pid = int(server.client.info("server")["process_id"])
        self._jobs = Jobs(server.client, Settings())

    def run(self, model: str, value: dict[str, Any]) -> tuple[str, dict[str, float]]:
        """The job's id, and the seconds of CPU that were used from before it to its end."""
        before = self._used()
        job_id = self._jobs.submit(Submission(model, "", value, timeout=300)).id
        self._until(lambda: self._last(job_id)[1] in ("finished", "failed"))
        used = self._used()
        if self._last(job_id)[1] == "failed":
            raise NotMeasured(f"the job failed: {self._redis.xrevrange(keys.events(job_id), count=1)}")
        return job_id, {name: used[name] - before[name] for name in used}

    def seconds(self, job_id: str) -> float:
        """From the job's start to its end, as the ids in its log say."""
        started = next(
            event_id
            for event_id, fields in self._redis.xrange(keys.events(job_id), count=3)
            if fields[b"type"] == b"started"
        )
        return (self._last(job_id)[0] - _milliseconds(started)) / 1000

    def events(self, job_id: str) -> int:
        return int(self._redis.xlen(keys.events(job_id)))

    def forget(self, job_id: str) -> None:
        self._redis.delete(*keys.lifecycle(job_id))

    def _last(self, job_id: str) -> tuple[int, str]:
        ((event_id, fields),) = self._redis.xrevrange(keys.events(job_id), count=1)
        return _milliseconds(event_id), fields[b"type"].decode()

    def _used(self) -> dict[str, float]:
        return {"worker": cpu([self._running.pid, *descendants(self._running.pid)]), "redis": cpu([self._redis_pid])}

    def _until(self, condition: Callable[[], bool]) -> None:
        deadline = time.monotonic() + WITHIN
        while not condition():
            if not self._running.alive or time.monotonic() > deadline:
                raise NotMeasured(f"the job does not end: {self._running.last_words()[-300:]}")
            time.sleep(0.1)


def _milliseconds(event_id: bytes) -> int:
    return int(event_id.partition(b"-")[0])


def _flood(worker: _Worker, seconds: float) -> Mapping[str, float]:
    job_id, used = worker.run("flood", {"seconds": seconds})
    took = worker.seconds(job_id)
    written = worker.events(job_id) - 3  # less queued, started, finished
    worker.forget(job_id)  # so that the next one does not meet a larger Redis
    return {
        "rate": written / took,
        "worker": used["worker"] / took * 100,
        "redis": used["redis"] / took * 100,
    }


def _steady(worker: _Worker, seconds: float, told: bool) -> Mapping[str, float]:
    job_id, used = worker.run("steady", {"seconds": seconds, "told": told})
    took = worker.seconds(job_id)
    return {
        "seconds": took,
        "events": worker.events(job_id),
        "worker, CPU ms": used["worker"] * 1000,
        "Redis, CPU ms": used["redis"] * 1000,
    }
