"""A deployment to test: real web and worker processes on a real Redis, which surely end."""

from __future__ import annotations

import json
import os
import signal
import socket
import ssl
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, TypeVar

import httpx
import websocket

T = TypeVar("T")

ROOT = Path(__file__).resolve().parent.parent
NO_TLS = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
"""For httpx, which else reads all authorities of this machine for each client: 50 ms, and nothing here uses them."""


def eventually(check: Callable[[], T], within: float = 30.0) -> T:
    """Call `check` until it stops failing, return its value; after `within` seconds its failure is the test's."""
    deadline = time.monotonic() + within
    pause = 0.01
    while True:
        try:
            return check()
        except (AssertionError, IndexError, StopIteration, httpx.TransportError):
            if time.monotonic() > deadline:
                raise
            time.sleep(pause)
            pause = min(pause * 1.2, 0.1)  # who waits for long must not take the machine from what is waited for


def until(true: Callable[[], bool], within: float = 30.0) -> None:
    """Wait until a condition holds; the test fails if it does not within so many seconds."""

    def check() -> None:
        assert true()

    eventually(check, within)


def free_port() -> int:
    """A port that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def python(*arguments: str, log: Path, environment: dict[str, str]) -> subprocess.Popen[bytes]:
    """Start Python in the folder of `log`, which takes what it writes and is the process's `log`."""
    with log.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, *arguments],
            env=environment,
            cwd=log.parent,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    process.log = log  # type: ignore[attr-defined]
    return process


class Api:
    """The service as a caller sees it."""

    def __init__(self, port: int) -> None:
        self.port = port
        self.http = httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=60, verify=NO_TLS)

    def submit(self, model: str, wait: float | None = None, headers: dict[str, str] | None = None, **body: Any) -> Any:
        """POST a job and return its JSON."""
        response = self.post(model, wait, headers, **body)
        assert response.status_code in (200, 202), response.text
        return response.json()

    def post(
        self, model: str, wait: float | None = None, headers: dict[str, str] | None = None, **body: Any
    ) -> httpx.Response:
        """POST a job and return the answer as it is."""
        preference = {} if wait is None else {"Prefer": f"wait={wait}"}
        body.setdefault("input", {})
        return self.http.post(f"/v1/models/{model}/jobs", json=body, headers={**preference, **(headers or {})})

    def job(self, job_id: str, wait: float | None = None) -> Any:
        """GET a job; with `wait` as a long poll."""
        response = self.http.get(f"/v1/jobs/{job_id}", params={} if wait is None else {"wait": wait})
        assert response.status_code == 200, response.text
        return response.json()

    def done(self, job_id: str, within: float = 30.0) -> Any:
        """The job once it is done."""
        job = self.job(job_id, wait=within)
        assert job["done"], job
        return job

    def started(self, job_id: str, within: float = 30.0) -> Any:
        """The job once it runs."""

        def check() -> Any:
            job = self.job(job_id)
            assert job["status"] == "started", job
            return job

        return eventually(check, within)

    def cancel(self, job_id: str) -> httpx.Response:
        return self.http.post(f"/v1/jobs/{job_id}/cancel")

    def log(self, job_id: str) -> list[dict[str, Any]]:
        """All events of a job so far."""
        events: list[dict[str, Any]] = self.http.get(f"/v1/jobs/{job_id}/events").json()["events"]
        return events

    def socket(self, path: str, **options: Any) -> websocket.WebSocket:
        """An open WebSocket."""
        url = f"ws://127.0.0.1:{self.port}{path}"
        return websocket.create_connection(url, timeout=20, class_=_Closable, **options)

    def watch(self, path: str) -> tuple[list[dict[str, Any]], int, str]:
        """All that a WebSocket sends: the events, the code of its close and the reason."""
        events: list[dict[str, Any]] = []
        watcher = self.socket(path)
        try:
            while True:
                opcode, data = watcher.recv_data()
                if opcode == websocket.ABNF.OPCODE_CLOSE:
                    return events, int.from_bytes(data[:2], "big"), data[2:].decode()
                events.append(json.loads(data))
        finally:
            watcher.shutdown()  # close() would leave the socket open once a close frame has come


class _Closable(websocket.WebSocket):
    """A WebSocket that has been closed though whoever closed it has gone before the answer to that."""

    def send_close(self, *args: Any, **options: Any) -> None:
        with suppress(OSError, websocket.WebSocketException):
            super().send_close(*args, **options)


class Deployment:
    """Starts processes of the service over one Redis and one jobs folder; `close` ends them all."""

    def __init__(self, folder: Path, redis_url: str, **environment: str) -> None:
        self.folder = folder
        self.redis_url = redis_url
        self.jobs_dir = folder / "jobs"
        self.jobs_dir.mkdir(exist_ok=True)
        self.environment = {
            **{name: value for name, value in os.environ.items() if name not in ("REDIS_URL", "PORT", "HOST")},
            "REDIS_URL": redis_url,
            "JOBS_DIR": str(self.jobs_dir),
            "DATA_DIR": str(folder / "data"),
            "LEASE": "3",
            "LOG_LEVEL": "info",
            "PYTHONPATH": str(ROOT),
            **environment,
        }
        self.processes: list[subprocess.Popen[bytes]] = []
        self.apis: list[Api] = []

    def api(self, port: int) -> Api:
        """A caller of the service at a port."""
        self.apis.append(Api(port))
        return self.apis[-1]

    def write(self, text: str, file: str = "models.py") -> Path:
        """Put a model file into the jobs folder."""
        path = self.jobs_dir / file
        path.write_text(textwrap.dedent(text))
        return path

    def run(self, *arguments: str, **environment: str) -> subprocess.Popen[bytes]:
        """Start `python -m service ...`; what it writes goes to <folder>/<command>-<number>.log."""
        log = self.folder / f"{arguments[0]}-{len(self.processes)}.log"
        process = python("-m", "service", *arguments, log=log, environment={**self.environment, **environment})
        self.processes.append(process)
        return process

    def worker(self, *options: str, **environment: str) -> subprocess.Popen[bytes]:
        """Start a worker and wait until it listens."""
        process = self.run("worker", *options, **environment)

        def check() -> None:
            assert process.poll() is None, process.log.read_text()  # type: ignore[attr-defined]
            assert "worker started" in process.log.read_text()  # type: ignore[attr-defined]

        eventually(check)
        return process

    def web(self, **environment: str) -> Api:
        """Start a web process and wait until it answers."""
        port = free_port()
        process = self.run("web", PORT=str(port), **environment)
        api = self.api(port)
        api.process = process  # type: ignore[attr-defined]

        def check() -> None:
            assert process.poll() is None, process.log.read_text()  # type: ignore[attr-defined]
            assert api.http.get("/healthz").status_code == 200

        eventually(check)
        return api

    def close(self) -> None:
        """End all processes, with all that they started."""
        for api in self.apis:
            api.http.close()
        for process in self.processes:
            if process.poll() is None:
                process.kill()
            process.wait()


@contextmanager
def deployment(folder: Path, redis_url: str, **environment: str) -> Iterator[Deployment]:
    """A deployment that is closed at the end."""
    each = Deployment(folder, redis_url, **environment)
    try:
        yield each
    finally:
        each.close()


def children(pid: int) -> list[int]:
    """The child processes of a process."""
    text = Path(f"/proc/{pid}/task/{pid}/children").read_text()
    return [int(child) for child in text.split()]


def kill_horse(worker: subprocess.Popen[bytes]) -> None:
    """SIGKILL the work-horse of a worker."""
    for pid in children(worker.pid):
        os.kill(pid, signal.SIGKILL)
