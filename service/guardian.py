"""The guardian: a small process that outlives `up`, whatever ends that, and ends Redis when nobody needs it any more.

It starts Redis, learns from its standard input which processes `up` has started, and when that is closed without a
word (`up` was killed) it asks these to end, kills what does not, and only then ends Redis: what runs is given back
before. A closed pipe tells it on every system. It is run as a script, by path, and imports nothing of the service:
that would take five times its memory.

Standard input, a line each: `{"pids": [...]}`, all that run now; `{"stop": true}`, nobody needs Redis any more.
Standard output: one line, the pid of Redis, or 0, and why it could not be run.
It ends with Redis's exit code if that ended by itself, else with 0.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import re
import select
import signal
import socket
import subprocess
import sys
import time
from collections import deque
from pathlib import Path
from typing import Any

LOOK_INTERVAL = 0.2
PR_SET_PDEATHSIG = 1
SECOND_ASK = 1.0  # seconds after the first: a worker tells two signals from one sent twice by half a second
REDIS_MAY_TAKE = 20.0  # seconds to end; it has written all before
SURELY_ON_DISK = 4  # looks at the files' sizes, one a second: Redis calls fsync each second, at most two late
SIZES = "sizes.json"
MANIFEST = Path("appendonlydir", "appendonly.aof.manifest")  # Redis 7 and later, Valkey
SINGLE = Path("appendonly.aof")  # Redis 6.2


def main(options: dict[str, Any]) -> int:
    """Watch until nobody is left who needs it."""
    # Ctrl-C, SIGTERM to all: Redis, which inherits this, ends after all others, and the guardian last.
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT})
    os.umask(0o077)
    try:
        server = Redis(**options["redis"]) if options["redis"] else None
    except OSError as error:
        say(f"0 {error.strerror}")
        return 1
    say(str(server.process.pid if server else 0))
    pids = watch(server)
    if pids is None:
        assert server is not None
        return server.process.returncode
    end_all(pids, options["patience"])
    if server:
        server.stop()
    return 0


def say(line: str) -> None:
    """To who started us, if that is still there."""
    with contextlib.suppress(OSError):
        os.write(1, line.encode() + b"\n")


def watch(server: Redis | None) -> dict[int, str] | None:
    """What is still there when `up` is gone or wants the end; None if Redis ended by itself."""
    lines, pids = b"", dict[int, str]()
    while True:
        if not select.select([0], [], [], LOOK_INTERVAL)[0]:
            if server is not None and not server.lives():  # asked last: `up` may have been killed with it
                return None
            continue
        read = os.read(0, 65536)
        if not read:
            return pids
        *whole, lines = (lines + read).split(b"\n")
        for line in whole:
            told = json.loads(line)
            if "stop" in told:
                return {}
            pids = {pid: birth(pid) for pid in told["pids"]}


def end_all(pids: dict[int, str], patience: float) -> None:
    """Ask once, ask again, kill; with all of their groups."""
    for signum, seconds in ((signal.SIGTERM, SECOND_ASK), (signal.SIGTERM, patience), (signal.SIGKILL, 1.0)):
        for pid in alive(pids):
            with contextlib.suppress(OSError):
                os.killpg(pid, signum) if signum == signal.SIGKILL else os.kill(pid, signum)
        deadline = time.monotonic() + seconds
        while alive(pids) and time.monotonic() < deadline:
            time.sleep(0.05)


def alive(pids: dict[int, str]) -> list[int]:
    """Those that still run, and are not others that got the same number."""
    return [pid for pid, born in pids.items() if born and birth(pid) == born]


def birth(pid: int) -> str:
    """When a process was started, as the kernel counts; empty once it has ended."""
    if sys.platform != "linux":
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, 0)
            return "unknown"
        return ""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return ""
    return "" if fields[0] in "ZX" else fields[19]


class Redis:
    """One redis-server over one folder."""

    def __init__(self, command: list[str], folder: str, socket: str, keep_open: int) -> None:
        self._folder = Path(folder)
        self._socket = socket
        self._history = deque[dict[str, Any]](maxlen=SURELY_ON_DISK)
        self._next_look = 0.0
        self.process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            pass_fds=[keep_open],  # the lock on the folder: it is free when Redis has gone, however that came
            preexec_fn=_die_with_guardian,
        )

    def lives(self) -> bool:
        """Whether it has not ended; now and then its files are looked at."""
        if time.monotonic() >= self._next_look:
            self._next_look = time.monotonic() + 1.0
            self._history.append(sizes(self._folder))
            if len(self._history) == SURELY_ON_DISK:
                remember(self._folder, self._history[0])
        return self.process.poll() is None

    def stop(self) -> None:
        """End it: it has SIGTERM blocked, so it is asked on its socket."""
        try:
            self._ask_to_end()
            self.process.wait(REDIS_MAY_TAKE)
        except (OSError, subprocess.TimeoutExpired):  # it does not listen, or hangs, or cannot write: it has no more to
            self.process.kill()
            self.process.wait()
        remember(self._folder, sizes(self._folder))

    def _ask_to_end(self) -> None:
        with socket.socket(socket.AF_UNIX) as connection:
            connection.settimeout(REDIS_MAY_TAKE)
            connection.connect(self._socket)
            connection.sendall(b"SHUTDOWN NOSAVE\r\n")
            if error := connection.recv(4096):
                raise OSError(error)


def _die_with_guardian() -> None:
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def sizes(folder: Path) -> dict[str, list[int]]:
    """The append-only files that Redis reads at its start: bytes, and the inode of one that a rewrite replaces."""
    try:
        manifest = (folder / MANIFEST).read_text()
    except OSError:
        with contextlib.suppress(OSError):
            file = (folder / SINGLE).stat()
            return {str(SINGLE): [file.st_size, file.st_ino]}
        return {}
    names = re.findall(r"(?m)^file (\S+) seq \d+ type [bi]", manifest)
    found = {}
    for name in names:
        with contextlib.suppress(OSError):  # a rewrite has just ended
            found[str(MANIFEST.parent / name)] = [(folder / MANIFEST.parent / name).stat().st_size, 0]
    return found


def remember(folder: Path, found: dict[str, list[int]]) -> None:
    """Keep sizes for the next start, which refuses files that are shorter."""
    with contextlib.suppress(OSError):  # the disk is full: older ones do
        path = folder / f".{SIZES}"
        path.write_text(json.dumps(found))
        path.replace(folder / SIZES)


if __name__ == "__main__":
    sys.exit(main(json.loads(sys.argv[1])))
