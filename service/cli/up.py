"""`up`: everything on one machine: the embedded Redis if none is set, and the processes of the Procfile."""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from service import logs
from service.cli.web import check_port
from service.embedded import EmbeddedRedis, RedisUnavailable
from service.process import die_with_parent
from service.registry import MISSING_LIBRARY
from service.settings import Settings
from service.store.connection import check, check_permissions, connect
from service.webhooks.signature import new_secret

PROCFILE = Path(__file__).resolve().parents[2] / "Procfile"
SECRET_FILE = "webhook-secret"  # noqa: S105 -- its name, in DATA_DIR
READY_WITHIN = 60.0
RESTART_PAUSE = 1.0
LOOK_INTERVAL = 0.2


class NotReady(RedisUnavailable):
    """A process ended before all answered, or they did not answer in time."""


def run(options: argparse.Namespace, settings: Settings) -> int:
    """Start all, print where it is, and keep it running until asked to stop. Raises RedisUnavailable, PortTaken."""
    logs.set_up(settings)
    check_port(settings)
    stop = threading.Event()
    with _redis(settings) as server, _Processes(_environment(settings, server)) as processes:

        def end(*_: object) -> None:
            stop.set()
            processes.stop()

        signal.signal(signal.SIGINT, end)
        signal.signal(signal.SIGTERM, end)
        ready = _wait_until_ready(settings, processes, stop)
        if ready is not None:
            _announce(settings, server, ready)
            _watch(settings if options.reload else None, server, processes, stop)
        processes.stop()
        processes.wait()
    return 0


@contextmanager
def _redis(settings: Settings) -> Iterator[EmbeddedRedis | None]:
    if settings.redis_url:
        connection = connect(settings)
        check(connection, settings)
        check_permissions(connection, settings)
        yield None
        return
    with EmbeddedRedis(settings.data_dir) as server:
        yield server


def _environment(settings: Settings, server: EmbeddedRedis | None) -> dict[str, str]:
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', os.defpath)}"
    # All processes must mean the same, whatever a setting's default is.
    url = server.url if server else settings.redis_url
    ours = {"PATH": path, "REDIS_URL": url, "HOST": settings.host, "PORT": str(settings.port)}
    return {**os.environ, **ours, "WEBHOOK_SECRET": " ".join(settings.webhook_secret) or _kept_secret(settings)}


def _kept_secret(settings: Settings) -> str:
    """The secret that signs webhooks here: made once, and kept beside the data."""
    path = settings.data_dir / SECRET_FILE
    with suppress(FileNotFoundError):
        return path.read_text().strip()
    settings.data_dir.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w") as file:
        file.write(new_secret() + "\n")
    return path.read_text().strip()


class _Processes:
    """The processes of the Procfile. One that ends is started again."""

    def __init__(self, environment: dict[str, str]) -> None:
        self._environment = environment
        self._commands = dict(_lines(PROCFILE.read_text()))
        self._running: dict[str, subprocess.Popen[bytes]] = {}
        self._expected: set[str] = set()
        self._stopping = False

    def __enter__(self) -> _Processes:
        for name in self._commands:
            self._start(name)
        return self

    def __exit__(self, *_: object) -> None:
        for process in self._running.values():
            if process.poll() is None:
                process.kill()
                process.wait()

    def ended(self) -> str | None:
        """The name of a process that has ended."""
        return next((name for name, process in self._running.items() if process.poll() is not None), None)

    def keep_running(self) -> None:
        """Start again what has ended."""
        name = self.ended()
        if name is None or self._stopping:
            return
        if name in self._expected:
            self._expected.remove(name)
        else:
            print(f"{name} ended with code {self._running[name].returncode}: starting it again", file=sys.stderr)
            time.sleep(RESTART_PAUSE)
        self._start(name)

    def restart(self, name: str) -> None:
        """End one, gently; keep_running starts it again."""
        if name not in self._expected and self._running[name].poll() is None:
            self._expected.add(name)
            self._running[name].terminate()

    def stop(self) -> None:
        """Ask all to end. The first time they finish what they do; asked again, a worker stops its job."""
        self._stopping = True
        for process in self._running.values():
            if process.poll() is None:
                process.terminate()

    def wait(self) -> None:
        """Return when all have ended: each has a grace period of its own."""
        for process in self._running.values():
            process.wait()

    def _start(self, name: str) -> None:
        self._running[name] = subprocess.Popen(
            ["/bin/sh", "-c", f"exec {self._commands[name]}"],
            env=self._environment,
            start_new_session=True,  # Ctrl-C on the terminal reaches it once, through us
            preexec_fn=lambda: die_with_parent(signal.SIGTERM),
        )


def _lines(text: str) -> Iterator[tuple[str, str]]:
    for line in text.splitlines():
        name, colon, command = line.partition(":")
        if colon and not name.lstrip().startswith("#"):
            yield name.strip(), command.strip()


def _wait_until_ready(settings: Settings, processes: _Processes, stop: threading.Event) -> dict[str, Any] | None:
    """What /v1/models says, once Redis, web and worker answer; None if asked to stop before."""
    deadline = time.monotonic() + READY_WITHIN
    while time.monotonic() < deadline and not stop.is_set():
        ended = processes.ended()
        if ended is not None:
            raise NotReady(f"{ended} ended at its start; what it wrote is above")
        try:
            _get(settings, "/readyz")
            return _get(settings, "/v1/models")
        except (urllib.error.URLError, OSError, ValueError):
            stop.wait(0.05)
    if stop.is_set():
        return None
    raise NotReady(f"web and worker do not answer within {READY_WITHIN:g} s")


def _get(settings: Settings, path: str) -> dict[str, Any]:
    with urllib.request.urlopen(_base(settings) + path, timeout=5) as answer:  # noqa: S310 -- our own http address
        body: dict[str, Any] = json.load(answer)
    return body


def _base(settings: Settings) -> str:
    host = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}.get(settings.host, settings.host)  # noqa: S104 -- compared only
    return f"http://{f'[{host}]' if ':' in host and '[' not in host else host}:{settings.port}"


def _announce(settings: Settings, server: EmbeddedRedis | None, models: dict[str, Any]) -> None:
    print(f"ready      {_base(settings)}")
    print(f"dashboard  {_base(settings)}/dashboard/")
    print(f"models     {', '.join(model['name'] for model in models['models'] if model['state'] != 'failed')}")
    failed = [model for model in models["models"] if model["state"] == "failed"]
    for model in failed:
        if MISSING_LIBRARY not in model["error"]:
            print(f"           {model['name']} cannot be served: {model['error']}")
    if waiting := [model["name"] for model in failed if MISSING_LIBRARY in model["error"]]:
        print(f"           {', '.join(waiting)}: not without their libraries, which `make models` installs")
    if server is not None:
        print(f"redis      {server.url}")
    if not settings.webhook_secret:
        print(f"webhooks   signed with {settings.data_dir / SECRET_FILE}")
    print("Ctrl-C ends it", flush=True)


def _watch(reload: Settings | None, server: EmbeddedRedis | None, processes: _Processes, stop: threading.Event) -> None:
    before = _state_of_files(reload)
    while not stop.wait(LOOK_INTERVAL):
        if server is not None and server.died():
            print("the embedded Redis ended: starting it again", file=sys.stderr)
            server.restart()
        processes.keep_running()
        if (state := _state_of_files(reload)) != before:
            before = state
            print("a model file has changed: restarting the worker", file=sys.stderr)
            processes.restart("worker")


def _state_of_files(settings: Settings | None) -> dict[Path, int]:
    state = {}
    for path in settings.jobs_dir.glob("*.py") if settings else ():
        try:
            state[path] = path.stat().st_mtime_ns
        except FileNotFoundError:  # between the two calls
            continue
    return state
