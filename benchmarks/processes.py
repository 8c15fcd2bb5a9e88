"""Starts processes and surely ends them, with all that they started; and how much memory they take."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import IO

from service.process import die_with_parent


class Running:
    """A process in a session of its own; use it in a `with`, which ends it and all its descendants."""

    def __init__(
        self,
        command: Sequence[str],
        env: Mapping[str, str],
        cwd: Path,
        log: Path,
        last_signal: signal.Signals = signal.SIGKILL,
    ) -> None:
        """With SIGTERM as last signal it may end by itself first, for 15 s."""
        self._log = log
        self._last_signal = last_signal
        self._output: IO[bytes] = log.open("wb")
        self.started = time.monotonic()
        self._process = subprocess.Popen(
            command,
            cwd=cwd,
            env=env,
            stdin=subprocess.DEVNULL,
            stdout=self._output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            preexec_fn=die_with_parent,
        )
        self.pid = self._process.pid

    @property
    def alive(self) -> bool:
        return self._process.poll() is None

    def last_words(self) -> str:
        """The end of what it printed."""
        return self._log.read_text(errors="replace")[-2000:]

    def end(self) -> int:
        """End it; its exit code. Once is enough: by a second time another may have its pid."""
        if self._output.closed:
            return self._process.returncode
        # Listed first: a work-horse has a session of its own, and an orphan is nobody's child.
        family = [(pid, _started(pid)) for pid in descendants(self.pid)]
        if self.alive:
            self._process.send_signal(self._last_signal)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(15)
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.pid, signal.SIGKILL)
        for pid, started in family:
            if started is not None and _started(pid) == started:  # not another that has its pid now
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
        code = self._process.wait()
        self._output.close()
        return code

    def __enter__(self) -> Running:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.end()


def descendants(pid: int) -> list[int]:
    """The pids of all that a process started and that still runs, nearest first."""
    found = list(_children(pid))
    for each in found:
        found += _children(each)  # grows while it is walked through
    return found


def memory(pid: int) -> tuple[float, float]:
    """Resident and proportional set size in MB; what processes share counts in part in the second."""
    try:
        rollup = Path(f"/proc/{pid}/smaps_rollup").read_text()
    except OSError:
        return 0.0, 0.0
    sizes = {line.split()[0]: int(line.split()[1]) for line in rollup.splitlines()[1:]}
    return sizes["Rss:"] / 1024, sizes["Pss:"] / 1024


def _children(pid: int) -> Iterator[int]:
    with contextlib.suppress(OSError):
        for task in Path(f"/proc/{pid}/task").iterdir():
            with contextlib.suppress(OSError):
                yield from map(int, (task / "children").read_text().split())


def _started(pid: int) -> str | None:
    # proc(5): field 22; the name in parentheses before it may hold spaces.
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]
    return None
