"""The whole service for a test: an embedded Redis, a web process and a worker, which end with it."""

from __future__ import annotations

import json
import os
import socket
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from service.cli.processes import Processes
from service.cli.up import PROCFILE
from service.embedded import EmbeddedRedis
from service.failure import Failure
from service.registry import model_files
from service.webhooks.signature import new_secret

READY_WITHIN, END_WITHIN = 60.0, 15.0
ONE_WAIT = 20
TRIES = 3
"""How often it is started: between the choice of a port and its use somebody else may take it."""

_HERE = urllib.request.build_opener(urllib.request.ProxyHandler({}))  # this machine is reached without a proxy


class Refused(Exception):
    """The service has answered with a problem; `status` is the code of HTTP, `problem` the body."""

    def __init__(self, status: int, problem: dict[str, Any]) -> None:
        super().__init__(f"{status} {problem.get('detail') or problem}")
        self.status = status
        self.problem = problem


class Served:
    """A service that runs: where it is, and how to give it jobs."""

    def __init__(self, url: str, redis_url: str, log: Path) -> None:
        self.url = url
        self.redis_url = redis_url
        self._log = log

    @property
    def log(self) -> str:
        """What its processes have written."""
        return self._log.read_text(errors="replace")

    def run(self, model: str, input: dict[str, Any] | None = None, timeout: float = 60.0, **body: Any) -> Any:
        """Submit a job and return it when it is done, as GET /v1/jobs/{id} shows it. Raises Refused, TimeoutError.

        `body`: other fields of the submit, such as metadata or retries.
        """
        return self.done(self.submit(model, input, **body)["id"], timeout)

    def submit(self, model: str, input: dict[str, Any] | None = None, **body: Any) -> Any:
        """Submit a job and return it as it was accepted. Raises Refused."""
        return self.request("POST", f"/v1/models/{model}/jobs", {"input": input or {}, **body})

    def done(self, job_id: str, timeout: float = 60.0) -> Any:
        """A job once it is done. Raises Refused, TimeoutError."""
        deadline = time.monotonic() + timeout
        while True:
            left = deadline - time.monotonic()
            job = self.request("GET", f"/v1/jobs/{job_id}?wait={max(0, min(ONE_WAIT, left)):.3f}")
            if job["done"]:
                return job
            if left <= 0:
                raise TimeoutError(f"job {job_id} is {job['status']} after {timeout:g} s")

    def events(self, job_id: str) -> list[dict[str, Any]]:
        """All events of a job so far: [{"id", "type", "time", "data", ...}]. Raises Refused."""
        events: list[dict[str, Any]] = []
        while True:
            after = f"?after={events[-1]['id']}" if events else ""
            page = self.request("GET", f"/v1/jobs/{job_id}/events{after}")["events"]
            events += page
            if not page:
                return events

    def request(self, method: str, path: str, body: Any = None) -> Any:
        """The JSON that a request is answered with. Raises Refused."""
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(  # noqa: S310 -- it is ours
            self.url + path, data, {"Content-Type": "application/json"}, method=method
        )
        try:
            with _HERE.open(request, timeout=ONE_WAIT + 30) as answer:
                return json.load(answer)
        except urllib.error.HTTPError as error:
            with error:
                raise Refused(error.code, json.load(error)) from None


@contextmanager
def served(jobs_dir: str | Path, **environment: str) -> Iterator[Served]:
    """The models of a folder, served until the block ends; `environment` are settings, such as LOG_LEVEL="info".

    All is new: a Redis of its own, a free port. Its processes end whatever happens to the test. Raises Failure.
    """
    folder = Path(jobs_dir).resolve()
    if not model_files(folder):
        raise Failure(f"{jobs_dir} has no model file" if folder.is_dir() else f"{jobs_dir} is no folder")
    with (
        tempfile.TemporaryDirectory(prefix="served-", ignore_cleanup_errors=True) as data,
        EmbeddedRedis(Path(data) / "data") as server,
    ):
        (Path(data) / "log").touch()
        for last in (False,) * (TRIES - 1) + (True,):
            with _started(Path(data) / "log", server, folder, environment) as (each, processes):
                if _ready(each, processes, last):
                    yield each
                    return


@contextmanager
def _started(
    log: Path, server: EmbeddedRedis, folder: Path, environment: dict[str, str]
) -> Iterator[tuple[Served, Processes]]:
    port = _free_port()
    with log.open("ab") as output:
        processes = Processes(PROCFILE, _environment(folder, server.url, port, environment), server.watch, output)
        try:
            processes.start()
            yield Served(f"http://127.0.0.1:{port}", server.url, log), processes
        finally:
            _end(processes)


def _environment(folder: Path, redis_url: str, port: int, chosen: dict[str, str]) -> dict[str, str]:
    root = str(PROCFILE.parent)
    return {
        **os.environ,
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', os.defpath)}",
        "PYTHONPATH": os.pathsep.join(filter(None, [root, os.environ.get("PYTHONPATH", "")])),
        "JOBS_DIR": str(folder),
        "WEBHOOK_SECRET": new_secret(),
        "GRACE_PERIOD": "0",
        **chosen,
        "REDIS_URL": redis_url,
        "HOST": "127.0.0.1",
        "PORT": str(port),
    }


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _ready(service: Served, processes: Processes, last: bool) -> bool:
    """Whether web and worker answer; False if the port was taken, and it is not the `last` try. Raises Failure."""
    deadline = time.monotonic() + READY_WITHIN
    while time.monotonic() < deadline:
        if (ended := processes.ended()) is not None:
            if "cannot listen" in service.log and not last:
                return False
            raise Failure(f"{ended} ended at its start: {service.log[-2000:].strip()}")
        try:
            service.request("GET", "/readyz")
            return bool(service.request("GET", "/v1/models"))
        except (Refused, OSError, ValueError):
            time.sleep(0.05)
    raise Failure(f"web and worker do not answer within {READY_WITHIN:g} s: {service.log[-2000:].strip()}")


def _end(processes: Processes) -> None:
    processes.ask()
    deadline = time.monotonic() + END_WITHIN
    while processes.running() and time.monotonic() < deadline:
        time.sleep(0.02)
    processes.kill()
