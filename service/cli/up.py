"""`up`: everything on one machine: the embedded Redis if none is set, and the processes of the Procfile."""

from __future__ import annotations

import argparse
import json
import os
import socket
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Protocol

import redis

from service import listen, logs
from service.cli.notices import Notices
from service.cli.processes import Processes
from service.cli.terminal import SECOND_ASK, Asked, say
from service.data_folder import told
from service.embedded import PATIENCE, EmbeddedRedis
from service.failure import Failure, RedisUnavailable
from service.not_served import LIBRARIES_MISSING
from service.process import Guardian, children_of
from service.settings import Settings
from service.store.connection import check, check_permissions, connect
from service.store.workers import Workers
from service.webhooks.signature import new_secret, parse_secret

PROCFILE = Path(__file__).resolve().parents[2] / "Procfile"
SECRET_FILE = "webhook-secret"  # noqa: S105 -- its name, in DATA_DIR
READY_WITHIN = 60.0
LOOK_INTERVAL = 0.2
PORT_FREE_WITHIN = 3.0  # seconds: the web process of one that was killed may still be ending
AT_ONCE = 5.0  # seconds that giving a job back and saying goodbye may take
LATE = 10.0  # seconds after the grace period: what has not ended then never will

_HERE = urllib.request.build_opener(urllib.request.ProxyHandler({}))  # this machine is reached without a proxy


class NotReady(Failure):
    """A process ended before all answered, or they did not answer in time."""


class _Redis(Protocol):
    """Redis, ours or another's, with a guardian who ends the processes that use it if we are killed."""

    url: str

    def watch(self, pids: Iterable[int]) -> None: ...
    def died(self) -> bool: ...
    def restart(self) -> None: ...


class _Elsewhere:
    """A Redis that is not ours: there is the guardian only."""

    def __init__(self, settings: Settings) -> None:
        self.url = settings.redis_url
        self._patience = _patience(settings)
        self._guardian = Guardian(self._patience)
        self._watched: list[int] = []

    def __enter__(self) -> _Elsewhere:
        return self

    def __exit__(self, *_: object) -> None:
        self._guardian.stop()

    def watch(self, pids: Iterable[int]) -> None:
        """These are ended if this process is killed."""
        self._watched = list(pids)
        self._guardian.watch(self._watched)

    def died(self) -> bool:
        """Never, as far as we are concerned; a guardian that has ended is replaced."""
        if self._guardian.ended():
            self._guardian = Guardian(self._patience)
            self._guardian.watch(self._watched)
        return False

    def restart(self) -> None:
        """Not ours to start."""


def run(options: argparse.Namespace, settings: Settings) -> int:
    """Start all, print where it is, and keep it running until asked to stop. Raises Failure."""
    logs.set_up(settings)
    listen.check(settings, within=PORT_FREE_WITHIN)
    with _redis(settings) as server:
        asked = Asked()  # not before: Ctrl-C while Redis reads a large file ends it by itself
        processes = Processes(PROCFILE, _environment(options, settings, server), server.watch)
        try:
            processes.start()
            ready = _wait_until_ready(settings, processes, asked)
            if ready is not None:
                _announce(settings, server, ready)
                _watch(server, processes, asked, Notices(settings, server.url))
        finally:
            _end(settings, server, processes, asked)
    return 0


def _redis(settings: Settings) -> EmbeddedRedis | _Elsewhere:
    if settings.redis_url:
        connection = connect(settings)
        check(connection, settings)
        check_permissions(connection, settings)
        return _Elsewhere(settings)
    return EmbeddedRedis(settings.data_dir, patience=_patience(settings))


def _patience(settings: Settings) -> float:
    return PATIENCE + settings.stop_grace


def _environment(options: argparse.Namespace, settings: Settings, server: _Redis) -> dict[str, str]:
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', os.defpath)}"
    # All processes must mean the same, whatever a setting's default is.
    ours = {"PATH": path, "REDIS_URL": server.url, "HOST": settings.host, "PORT": str(settings.port)}
    ours |= {"WORKERS": str(options.workers or settings.workers), "RELOAD": str(options.reload or settings.reload)}
    return {**os.environ, **ours, "WEBHOOK_SECRET": " ".join(settings.webhook_secret) or _kept_secret(settings)}


def _kept_secret(settings: Settings) -> str:
    """The secret that signs webhooks here: made once, and kept beside the data."""
    path = settings.data_dir / SECRET_FILE
    with told(settings.data_dir):
        if not path.exists():
            settings.data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
            descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            with os.fdopen(descriptor, "w") as file:
                file.write(new_secret() + "\n")
        secret = path.read_text(errors="replace").strip()
    try:
        parse_secret(secret)
    except ValueError as error:
        raise Failure(f"{path} holds no secret ({error}): remove it, and a new one is made") from None
    return secret


def _wait_until_ready(settings: Settings, processes: Processes, asked: Asked) -> dict[str, Any] | None:
    """What /v1/models says, once Redis, web and worker answer; None if asked to stop before."""
    deadline = time.monotonic() + READY_WITHIN
    while time.monotonic() < deadline and not asked.times:
        ended = processes.ended()
        if ended is not None:
            raise NotReady(f"{ended} ended at its start; what it wrote is above")
        try:
            _get(settings, "/readyz")
            return _get(settings, "/v1/models")
        except (urllib.error.URLError, OSError, ValueError):
            time.sleep(0.05)
    if asked.times:
        return None
    raise NotReady(f"web and worker do not answer within {READY_WITHIN:g} s")


def _get(settings: Settings, path: str) -> dict[str, Any]:
    with _HERE.open(listen.base_url(settings) + path, timeout=5) as answer:
        body: dict[str, Any] = json.load(answer)
    return body


def _announce(settings: Settings, server: _Redis, models: dict[str, Any]) -> None:
    base = listen.base_url(settings)
    served = [model["name"] for model in models["models"] if _is_there(settings, model)]
    lines = [f"ready      {base}", f"dashboard  {base}/dashboard/", f"models     {', '.join(served)}"]
    failed = [model for model in models["models"] if model["state"] == "failed"]
    lines += [
        f"           {model['name']} cannot be served: {model['error']}"
        for model in failed
        if LIBRARIES_MISSING not in model["error"]
    ]
    said = {model["error"] for model in failed}
    lines += [f"           {warning}" for warning in models["warnings"] if warning not in said]
    if waiting := [model["name"] for model in failed if LIBRARIES_MISSING in model["error"]]:
        lines.append(f"           {_without_libraries(waiting)}")
    if not settings.redis_url:
        lines.append(f"redis      {server.url}")
    if not settings.webhook_secret:
        lines.append(f"webhooks   signed with {settings.data_dir / SECRET_FILE}")
    say("\n".join([*lines, "Ctrl-C ends it"]), sys.stdout)


def _without_libraries(models: list[str]) -> str:
    if len(models) == 1:
        return f"{models[0]}: not without its libraries, which `make models M={models[0]}` installs"
    return f"{', '.join(models)}: not without their libraries, which `make models` installs"


def _is_there(settings: Settings, model: dict[str, Any]) -> bool:
    """Whether a model is served: not one that a worker had which has ended, as its file may have gone since."""
    if model["state"] in ("failed", "offline"):
        return False
    # A worker of an earlier `up` that was killed may still seem to live; with a Redis elsewhere others may have it.
    return bool(settings.redis_url) or (settings.jobs_dir / model["file"]).exists()


def _watch(server: _Redis, processes: Processes, asked: Asked, notices: Notices) -> None:
    while not asked.times:
        time.sleep(LOOK_INTERVAL)
        _keep_redis(server)
        processes.keep_running()
        notices.look()


def _keep_redis(server: _Redis) -> None:
    if not server.died():
        return
    say("the embedded Redis ended: starting it again")
    try:
        server.restart()
    except RedisUnavailable as error:  # a disk that is full, say: what runs goes on, and waits for it
        say(f"error: {error}")
        time.sleep(1.0)


def _end(settings: Settings, server: _Redis, processes: Processes, asked: Asked) -> None:
    """Ask all to end, once more when we are asked again, and return when they have: Redis is there until then."""
    processes.ask()
    began = time.monotonic()
    hurried, kill_at = False, began + settings.grace_period + settings.stop_grace + LATE
    told_at = began + 2 * SECOND_ASK
    while running := processes.running():
        waited = time.monotonic() - began
        if asked.times > 1 and not hurried and waited > SECOND_ASK:
            hurried, kill_at = True, min(kill_at, time.monotonic() + settings.stop_grace + AT_ONCE)
            say("ending at once: what still runs is given back, and runs again at the next start")
            processes.ask()
        if time.monotonic() > kill_at:
            say(f"killing {' and '.join(running)}, which did not end")
            processes.kill()
        elif not hurried and time.monotonic() > told_at:
            told_at = float("inf")
            say(_waits_for(settings, server, running))
        _keep_redis(server)
        time.sleep(0.05)
    processes.kill()  # what a process that ended may have left behind


def _waits_for(settings: Settings, server: _Redis, running: dict[str, int]) -> str:
    jobs = _jobs(settings, server, running)
    if not jobs:
        return f"waiting for {' and '.join(running)} to end; Ctrl-C again ends all at once"
    what = f"{len(jobs)} running job{'s' * (len(jobs) > 1)} ({', '.join(jobs[:3])}{', ...' * (len(jobs) > 3)})"
    return (
        f"waiting for {what} to end, for at most {settings.grace_period:g} s (GRACE_PERIOD); "
        "Ctrl-C again ends all at once, and what runs goes back to its queue"
    )


def _jobs(settings: Settings, server: _Redis, running: dict[str, int]) -> list[str]:
    """The ids of the jobs that our workers hold, as far as Redis can tell now."""
    try:
        briefly = {"redis_url": server.url, "redis_timeout": 1.0}
        with connect(settings.model_copy(update=briefly), tries=0) as connection:
            workers = Workers(connection).all()
    except redis.exceptions.RedisError:
        return []
    ours = {*running.values(), *(child for pid in running.values() for child in children_of(pid))}
    return [
        job
        for worker in workers
        if not settings.redis_url or (worker.hostname == socket.gethostname() and worker.pid in ours)
        for job in worker.jobs
    ]
