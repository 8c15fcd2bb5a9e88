"""What must become of child processes when the one that started them ends."""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

PR_SET_PDEATHSIG = 1
PR_SET_CHILD_SUBREAPER = 36
M_MMAP_THRESHOLD = -3
WAIT_FOR_GUARDIAN = 60.0  # seconds; it gives Redis 40
GUARDIAN = Path(__file__).with_name("guardian.py")


def die_with_parent(signum: int = signal.SIGKILL) -> None:
    """Ask the kernel to send `signum` to this process when the thread that started it ends. Linux only.

    Source: prctl(2), PR_SET_PDEATHSIG. Elsewhere it does nothing: a closed pipe must tell the child.
    """
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signum)


def adopt_orphans() -> None:
    """Become the parent of what this process's children leave behind, in whatever session. Linux only."""
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(PR_SET_CHILD_SUBREAPER, 1)


def ending_with_us() -> Callable[[], None]:
    """For `preexec_fn`: the child gets SIGTERM when this process ends, or never starts if it has ended by then."""
    parent = os.getpid()

    def ask() -> None:
        die_with_parent(signal.SIGTERM)
        if os.getppid() != parent:
            os._exit(0)

    return ask


def lives(pid: int) -> bool:
    """Whether another process with this id lives. Ours is none: in a container each start may have the same id."""
    if pid == os.getpid():
        return False
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def children_of(pid: int) -> list[int]:
    """The child processes of a process, such as the workers of a pool; none where /proc does not tell."""
    try:
        return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except OSError:
        return []


class Guardian:
    """The process that ends others, and Redis as the last, if this one is killed (guardian.py)."""

    def __init__(self, patience: float, redis: dict[str, Any] | None = None) -> None:
        """Start it. `patience`: seconds from the second time that it asks a process to end until it kills it.

        `redis`: the arguments of guardian.Redis. Raises OSError if Redis cannot be run.
        """
        options = {"patience": patience, "redis": redis}
        self._process = subprocess.Popen(
            # No site-packages, no PYTHON* variables: it needs the standard library only.
            [sys.executable, "-I", "-S", str(GUARDIAN), json.dumps(options)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            pass_fds=[redis["keep_open"]] if redis else [],
            start_new_session=True,
        )
        assert self._process.stdout is not None
        with self._process.stdout as answer:
            pid, _, error = answer.readline().decode().strip().partition(" ")
        self.redis_pid = int(pid or 0)
        if error or not pid:
            self.stop()
            raise OSError(error or "it ended at its start")

    def watch(self, pids: Iterable[int]) -> None:
        """These are all the processes that must not outlive us."""
        self._tell({"pids": sorted(pids)})

    def ended(self) -> bool:
        """Whether it has ended: Redis has, then."""
        if self._process.poll() is None:
            return False
        if self._process.returncode < 0 and self.redis_pid:
            # It was killed; where the kernel does not kill Redis with it, we must. It can be nobody else's number yet.
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.redis_pid, signal.SIGKILL)
            self.redis_pid = 0
        return True

    def stop(self) -> None:
        """End it, and Redis; what that holds is on disk when this returns."""
        self._tell({"stop": True})
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.close()
        try:
            self._process.wait(WAIT_FOR_GUARDIAN)
        except subprocess.TimeoutExpired:  # frozen
            self._process.kill()
            self._process.wait()
        self.ended()

    def _tell(self, message: dict[str, Any]) -> None:
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError, ValueError):  # it has ended, which `ended` says
            self._process.stdin.write(json.dumps(message).encode() + b"\n")
            self._process.stdin.flush()


def give_large_blocks_back() -> None:
    """Have memory of more than 128 KiB a piece return to the system as soon as it is free.

    Source: mallopt(3), M_MMAP_THRESHOLD. glibc raises that bound to the largest piece that was ever freed, up to
    32 MiB, and from then on each thread keeps such pieces: after a few large answers a process stays at 500 MB.
    """
    with contextlib.suppress(AttributeError):  # another C library
        ctypes.CDLL(None).mallopt(M_MMAP_THRESHOLD, 128 * 1024)
