"""Memory over many jobs that come, run and expire: Redis, the web process, the worker and its work-horse.

Usage: .venv/bin/python benchmarks/memory.py [--jobs 100000]

Jobs are submitted over HTTP with an Idempotency-Key each, by a few clients that wait while 1,000 are queued; one in
ten fails. All that is kept of a job is kept for 10 s here instead of days, so that what is left of the first ones would
show. Prints a row for each tenth of the jobs, and what is left in Redis when the last have expired. Exit code 1 if
something is left, or if what is taken grows by more than 10 % from the third tenth to the last.
"""

from __future__ import annotations

import argparse
import http.client
import itertools
import json
import os
import socket
import sys
import tempfile
import threading
import time
from pathlib import Path

import redis

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
sys.path += [str(ROOT), str(HERE)]

from processes import Running, descendants, memory  # noqa: E402 -- after the path is known

from service.embedded import EmbeddedRedis  # noqa: E402

CLIENTS = 4
MOST_QUEUED = 1_000
KEPT = "10"  # seconds
SETTLED_WITHIN = 120.0
ALLOWED_GROWTH = 1.1
MODEL = """
from service import model

@model
def add(x: int, y: int) -> int:
    if x % 10 == 0:
        raise ValueError("one in ten")
    return x + y
"""
KEPT_FOR = ("RESULT_TTL", "FAILURE_TTL", "TOMBSTONE_TTL", "IDEMPOTENCY_TTL")
LASTING = {b"rq:queues", b"rq:workers", b"service:models", b"service:recovery", b"service:model:add:workers"}
"""What stays, whatever was submitted; and what a worker has of its own, below."""
OF_WORKERS = (b"rq:worker", b"service:worker:")


class Load:
    """Clients that submit jobs, numbered from 1."""

    def __init__(self, port: int, client: redis.Redis, jobs: int) -> None:
        self._port, self._redis, self._jobs = port, client, jobs
        self._numbers = itertools.count(1)
        self.submitted = 0
        self._lock = threading.Lock()
        self._threads = [threading.Thread(target=self._submit, daemon=True) for _ in range(CLIENTS)]
        for thread in self._threads:
            thread.start()

    @property
    def alive(self) -> bool:
        return any(thread.is_alive() for thread in self._threads)

    def _submit(self) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=60)
        while (number := next(self._numbers)) <= self._jobs:
            body = json.dumps({"input": {"x": number, "y": 1}})
            headers = {"Content-Type": "application/json", "Idempotency-Key": f"job-{number}"}
            connection.request("POST", "/v1/models/add/jobs", body, headers)
            answer = connection.getresponse()
            answer.read()
            assert answer.status == 202, answer.status
            with self._lock:
                self.submitted += 1
            while number % 50 == 0 and self._redis.llen("rq:queue:add") > MOST_QUEUED:
                time.sleep(0.05)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--jobs", type=int, default=100_000, help="how many; 100,000")
    jobs = parser.parse_args().jobs
    with tempfile.TemporaryDirectory() as text:
        folder = Path(text)
        (folder / "jobs").mkdir()
        (folder / "jobs" / "add.py").write_text(MODEL)
        with EmbeddedRedis(folder / "redis") as server:
            port = _free_port()
            kept = dict.fromkeys(KEPT_FOR, KEPT)
            environment = {**os.environ, **kept, "REDIS_URL": server.url, "PORT": str(port), "PYTHONPATH": str(ROOT)}
            environment |= {"JOBS_DIR": str(folder / "jobs")}
            command = [sys.executable, "-m", "service"]
            with (
                Running([*command, "worker"], environment, folder, folder / "worker.log") as worker,
                Running([*command, "web"], environment, folder, folder / "web.log") as web,
                redis.Redis.from_url(server.url) as client,
            ):
                _ready(port)
                rows = _measure(Load(port, client, jobs), jobs, client, {"web": web.pid, "worker": worker.pid})
                left = _left(client)
    print(f"left when all have expired: {', '.join(sorted(left)) or 'nothing'}")
    sys.exit(1 if left or _grown(rows) else 0)


def _measure(load: Load, jobs: int, client: redis.Redis, pids: dict[str, int]) -> list[list[float]]:
    print("| jobs | Redis, MB | keys | web, MB | worker, MB | work-horse, MB |\n|---:|---:|---:|---:|---:|---:|")
    rows: list[list[float]] = []
    while load.alive or len(rows) < 10:
        if not load.alive or load.submitted >= (len(rows) + 1) * jobs // 10:
            rows.append(_row(client, pids))
            used, keys, *processes = rows[-1]
            print(
                f"| {load.submitted:,} | {used:.1f} | {keys:,} | "
                + " | ".join(f"{each:.1f}" for each in processes)
                + " |"
            )
        time.sleep(0.05)
    return rows


def _row(client: redis.Redis, pids: dict[str, int]) -> list[float]:
    web = sum(memory(pid)[1] for pid in [pids["web"], *descendants(pids["web"])])
    horse = sum(memory(pid)[1] for pid in descendants(pids["worker"]))
    used = client.info("memory")["used_memory"] / 2**20
    return [used, client.dbsize(), web, memory(pids["worker"])[1], horse]


def _grown(rows: list[list[float]]) -> bool:
    """Whether something, but for the number of keys, has grown since the third row."""
    settled, last = rows[2], rows[-1]
    return any(last[n] > ALLOWED_GROWTH * settled[n] for n in (0, 2, 3, 4))


def _left(client: redis.Redis) -> set[str]:
    """The keys that are there when nothing should be, once there are no fewer any more."""
    deadline = time.monotonic() + SETTLED_WITHIN
    while True:
        found = {key for key in client.scan_iter(count=1000) if key not in LASTING and not key.startswith(OF_WORKERS)}
        if not found or time.monotonic() > deadline:
            return {key.decode() for key in found}
        time.sleep(1)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _ready(port: int) -> None:
    deadline = time.monotonic() + 60
    while True:
        try:
            connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
            connection.request("GET", "/readyz")
            answer = connection.getresponse()
            answer.read()
            if answer.status == 200:
                return
        except OSError:
            pass
        if time.monotonic() > deadline:
            sys.exit("error: web and worker are not ready")
        time.sleep(0.1)


if __name__ == "__main__":
    main()
