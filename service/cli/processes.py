"""The processes of the Procfile: started, started again when they end, asked to end, killed."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import IO

from service.cli.terminal import say
from service.process import ending_with_us

RESTART_PAUSE = 1.0


class Processes:
    """All of them; `watch` is called with their pids whenever these change. They write to `output`, or where we do."""

    def __init__(
        self,
        procfile: Path,
        environment: Mapping[str, str],
        watch: Callable[[Iterable[int]], None],
        output: IO[bytes] | None = None,
    ) -> None:
        self._commands = dict(_lines(procfile.read_text()))
        self._environment = environment
        self._watch = watch
        self._output = output
        self._running: dict[str, subprocess.Popen[bytes]] = {}
        self._start_at: dict[str, float] = {}

    def start(self) -> None:
        """Start all."""
        for name in self._commands:
            self._start(name)

    def ended(self) -> str | None:
        """The name of a process that has ended."""
        return next((name for name, process in self._running.items() if process.poll() is not None), None)

    def running(self) -> dict[str, int]:
        """The pids of those that run, by name."""
        return {name: process.pid for name, process in self._running.items() if process.poll() is None}

    def keep_running(self) -> None:
        """Start again what has ended."""
        for name, process in list(self._running.items()):
            if process.poll() is None:
                continue
            if name not in self._start_at:
                self._end_group(name, signal.SIGTERM)  # the processes of a web server that was killed hold its port
                say(f"{name} ended with code {process.returncode}: starting it again")
                self._start_at[name] = time.monotonic() + RESTART_PAUSE
            if time.monotonic() >= self._start_at[name]:
                del self._start_at[name]
                self._start(name)

    def ask(self) -> None:
        """Ask all to end. The first time they finish what they do; asked again, a worker stops its job."""
        for process in self._running.values():
            if process.poll() is None:
                process.terminate()

    def kill(self) -> None:
        """End all where they stand, with what they started."""
        for name, process in self._running.items():
            self._end_group(name, signal.SIGKILL)
            process.wait()

    def _start(self, name: str) -> None:
        self._running[name] = subprocess.Popen(
            ["/bin/sh", "-c", f"exec {self._commands[name]}"],
            env=self._environment,
            stdout=self._output,
            stderr=self._output,
            start_new_session=True,  # Ctrl-C on the terminal reaches it once, through us
            preexec_fn=ending_with_us(),
        )
        self._watch(self.running().values())

    def _end_group(self, name: str, signum: signal.Signals) -> None:
        process = self._running[name]
        if process.poll() is not None and Path(f"/proc/{process.pid}").exists():
            return  # its number is somebody else's by now: as long as its group lives, nobody gets it
        with contextlib.suppress(ProcessLookupError, PermissionError):  # macOS says the latter of a group of zombies
            os.killpg(process.pid, signum)


def _lines(text: str) -> Iterator[tuple[str, str]]:
    for line in text.splitlines():
        name, colon, command = line.partition(":")
        if colon and not name.lstrip().startswith("#"):
            yield name.strip(), command.strip()
