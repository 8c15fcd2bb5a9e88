"""200 jobs that each wait for 1 s, on one worker with concurrency=200: seconds from the first submit to the last end.

Usage: .venv/bin/python benchmarks/concurrency.py
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

ROOT = Path(__file__).resolve().parent.parent
sys.path.append(str(ROOT))

from redis_server import RedisServer  # noqa: E402

from service.settings import Settings  # noqa: E402
from service.store.jobs import Jobs, Submission  # noqa: E402
from service.store.models import ModelNotFound, Models  # noqa: E402

JOBS, ROUNDS = 200, 5
MODEL = """
import asyncio
from service import model

@model(concurrency=200)
async def waits() -> None:
    await asyncio.sleep(1)
"""


def main() -> None:
    with RedisServer() as server, tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "waits.py").write_text(MODEL)
        environment = {**os.environ, "REDIS_URL": server.url, "JOBS_DIR": folder}
        worker = subprocess.Popen([sys.executable, "-m", "service", "worker"], env=environment, cwd=ROOT)
        try:
            _wait(lambda: _ready(Models(server.client)))
            seconds = [_round(server) for _ in range(ROUNDS)]
        finally:
            worker.terminate()
            worker.wait(30)
    print(f"{JOBS} jobs of 1 s: {median(seconds):.2f} s ({min(seconds):.2f}-{max(seconds):.2f}, {ROUNDS} rounds)")


def _ready(models: Models) -> bool:
    try:
        return models.get("waits").state == "ready"
    except ModelNotFound:
        return False


def _round(server: RedisServer) -> float:
    jobs = Jobs(server.client, Settings())
    before = server.client.zcard("rq:finished:waits")
    started = time.monotonic()
    for _ in range(JOBS):
        jobs.submit(Submission("waits", "", {}, timeout=30))
    _wait(lambda: server.client.zcard("rq:finished:waits") == before + JOBS)
    return time.monotonic() - started


def _wait(condition) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.005)


if __name__ == "__main__":
    main()
