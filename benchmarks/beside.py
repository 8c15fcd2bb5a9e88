"""This checkout beside another one, in turn, in one run: prints a Markdown table of ratios.

Usage: .venv/bin/python benchmarks/beside.py OTHER_CHECKOUT [--rounds 5] [--seconds 4]

Both run on the same Python, each round starts each of them anew with an embedded server of its own. Measured: submits
that one web process answers, jobs that one worker runs once they wait, a lone job from submit to result, and events
that one web process brings to its WebSockets. CPU is that of the process under test, a rate is what a caller sees. A
figure is the median of the rounds, with the least and the greatest.
"""

from __future__ import annotations

import argparse
import http.client
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent.parent
CONNECTIONS, WATCHERS, LONE = 32, 200, 200
MODELS = """
from service import model, progress

@model
def echo(x: int, y: int = 1) -> int:
    return x + y

@model(timeout=600)
def tells(events: int) -> int:
    import time
    for _ in range(events):
        progress(message="a word", fraction=0.5)
        time.sleep(0.06)
    return events
"""


def cpu(pids: list[int]) -> float:
    """Seconds of a processor that the threads of these processes have used. Source: proc(5), schedstat, nanoseconds."""
    used = (path.read_text() for pid in pids for path in Path(f"/proc/{pid}/task").glob("*/schedstat"))
    return sum(int(text.split()[0]) for text in used) / 1e9


def family(pid: int) -> list[int]:
    """A process and all below it."""
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return [pid, *(each for child in children for each in family(int(child)))]


class Deployed:
    """A checkout's web and worker on a server of its own."""

    def __init__(self, checkout: Path, folder: Path) -> None:
        (folder / "jobs").mkdir()
        (folder / "jobs" / "models.py").write_text(MODELS)
        self.port = 20000 + int.from_bytes(os.urandom(2), "big") % 30000
        self._environment = {
            **{name: value for name, value in os.environ.items() if name != "REDIS_URL"},
            "PYTHONPATH": str(checkout),
            "DATA_DIR": str(folder / "data"),
            "JOBS_DIR": str(folder / "jobs"),
            "PORT": str(self.port),
            "MAX_QUEUED": "0",
        }
        self._folder = folder
        script = "import sys; from pathlib import Path; from service.embedded import EmbeddedRedis\n"
        script += f"s = EmbeddedRedis(Path({str(folder / 'data')!r}), '/usr/bin/redis-server' if "
        script += "Path('/usr/bin/redis-server').exists() else None)\n"
        script += "s.start(); print(s.url, flush=True); sys.stdin.read(); s.stop()"
        self._redis = subprocess.Popen(
            [sys.executable, "-c", script],
            env=self._environment,
            cwd=folder,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self._redis.stdout is not None
        self._environment["REDIS_URL"] = self._redis.stdout.readline().strip()
        self.web = self._start("web")
        self.worker = self._start("worker")
        self._until(lambda: self.get("/readyz")["ready"])

    def _start(self, command: str) -> subprocess.Popen[bytes]:
        log = (self._folder / f"{command}.log").open("wb")
        return subprocess.Popen(
            [sys.executable, "-m", "service", command], env=self._environment, cwd=self._folder, stdout=log, stderr=log
        )

    def _until(self, true: Any) -> None:
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            try:
                if true():
                    return
            except (OSError, ValueError, KeyError, http.client.HTTPException):
                pass
            time.sleep(0.1)
        raise SystemExit(f"{self._environment['PYTHONPATH']} did not start: see {self._folder}")

    def get(self, path: str) -> Any:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        connection.request("GET", path)
        answer = json.loads(connection.getresponse().read())
        connection.close()
        return answer

    def post(self, connection: http.client.HTTPConnection, model: str, body: bytes, wait: str = "") -> Any:
        headers = {"Content-Type": "application/json", "Idempotency-Key": os.urandom(12).hex()}
        if wait:
            headers["Prefer"] = f"wait={wait}"
        connection.request("POST", f"/v1/models/{model}/jobs", body, headers)
        return json.loads(connection.getresponse().read())

    def close(self) -> None:
        for process in (self.web, self.worker):
            process.terminate()
        for process in (self.web, self.worker):
            process.wait(30)
        assert self._redis.stdin is not None
        self._redis.stdin.close()
        self._redis.wait(30)


@contextmanager
def deployed(checkout: Path) -> Iterator[Deployed]:
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        each = Deployed(checkout, Path(folder))
        try:
            yield each
        finally:
            each.close()


def measure(each: Deployed, seconds: float) -> dict[str, float]:
    """All figures of one checkout."""
    found: dict[str, float] = {}
    connection = http.client.HTTPConnection("127.0.0.1", each.port, timeout=60)
    for _ in range(50):
        each.post(connection, "echo", b'{"input": {"x": 1}}', wait="10")
    lone = []
    for _ in range(LONE):
        began = time.perf_counter()
        each.post(connection, "echo", b'{"input": {"x": 1}}', wait="10")
        lone.append(time.perf_counter() - began)
        connection.close()  # a held answer ends its connection
    found["a lone job, ms"] = statistics.median(lone) * 1000
    found.update(_events(each))
    found.update(_submits(each, seconds))
    return found


def _submits(each: Deployed, seconds: float) -> dict[str, float]:
    """Submits, while the worker stands still; then how fast it runs them."""
    web, worker = family(each.web.pid), family(each.worker.pid)
    for pid in worker:
        os.kill(pid, signal.SIGSTOP)
    counts, ends_at = [0] * CONNECTIONS, time.monotonic() + seconds

    def call(number: int) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", each.port, timeout=60)
        while time.monotonic() < ends_at:
            each.post(connection, "echo", b'{"input": {"x": 1, "y": 2}}')
            counts[number] += 1

    began = cpu(web)
    threads = [threading.Thread(target=call, args=(number,)) for number in range(CONNECTIONS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    done, before, total = cpu(web), cpu(worker), sum(counts)
    for pid in reversed(worker):
        os.kill(pid, signal.SIGCONT)
    started = time.monotonic()
    while sum(queue["depth"] + queue["running"] for queue in each.get("/v1/queues")["queues"]):
        time.sleep(0.02)
    return {
        "CPU of a submit, us": (done - began) / total * 1e6,
        "a job of a full queue, us": (time.monotonic() - started) / total * 1e6,
        "CPU of a job in the worker, us": (cpu(worker) - before) / total * 1e6,
    }


def _events(each: Deployed) -> dict[str, float]:
    """Events to many WebSockets on one job."""
    import websocket

    connection = http.client.HTTPConnection("127.0.0.1", each.port, timeout=60)
    job = each.post(connection, "tells", b'{"input": {"events": 60}}')
    with ExitStack() as stack:
        sockets = []
        for _ in range(WATCHERS):
            sockets.append(websocket.create_connection(f"ws://127.0.0.1:{each.port}/v1/jobs/{job['id']}/events"))
            stack.callback(sockets[-1].shutdown)
        web, received = family(each.web.pid), 0
        before = cpu(web)
        for watcher in sockets:
            while True:
                opcode, _ = watcher.recv_data()
                if opcode == websocket.ABNF.OPCODE_CLOSE:
                    break
                received += 1
        return {"CPU of an event to a WebSocket, us": (cpu(web) - before) / received * 1e6}


def main() -> None:
    parser = argparse.ArgumentParser(description="Compare two checkouts.")
    parser.add_argument("other", type=Path)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=4.0)
    options = parser.parse_args()
    results: dict[Path, list[dict[str, float]]] = {options.other.resolve(): [], HERE: []}
    for number in range(options.rounds):
        for checkout in list(results)[:: 1 if number % 2 else -1]:
            with deployed(checkout) as each:
                results[checkout].append(measure(each, options.seconds))
    other, ours = results.values()
    print(
        f"{os.cpu_count()} cores, Python {sys.version.split()[0]}, {options.rounds} rounds: median (least-greatest)\n"
    )
    print("| | other | this | ratio |\n|---|---:|---:|---:|")
    for name in ours[0]:
        theirs, mine = ([row[name] for row in rows] for rows in (other, ours))
        ratio = statistics.median(mine) / statistics.median(theirs)
        print(f"| {name} | {_figure(theirs)} | {_figure(mine)} | {ratio:.2f} |")


def _figure(values: list[float]) -> str:
    return f"{statistics.median(values):.4g} ({min(values):.4g}-{max(values):.4g})"


if __name__ == "__main__":
    main()
