"""Web processes at fixed ports, each of which may be killed at any time and is started again."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Callable

import httpx

from tests.deployment import NO_TLS, Deployment, free_port, until


class Kept:
    """Processes each of which is started again once it has ended, as a process manager does it."""

    def __init__(self, start: Callable[[int], subprocess.Popen[bytes]], count: int) -> None:
        self._start = start
        self.processes = [start(number) for number in range(count)]
        self.ended: list[subprocess.Popen[bytes]] = []

    def keep(self) -> None:
        """Start those again that have ended."""
        for number, process in enumerate(self.processes):
            if process.poll() is not None:
                self.ended.append(process)
                self.processes[number] = self._start(number)

    def end(self, number: int, signum: signal.Signals) -> None:
        """Send one a signal; SIGKILL to all of its process group."""
        process = self.processes[number]
        if process.poll() is None and signum == signal.SIGKILL:
            os.killpg(process.pid, signum)
        else:
            process.send_signal(signum)


class Site:
    """Some web processes over one Redis."""

    def __init__(self, deployed: Deployment, count: int) -> None:
        self._deployed = deployed
        self.apis = [deployed.api(free_port()) for _ in range(count)]
        self.kept = Kept(self._start, count)
        for number in range(count):
            self.answers(number)

    def answers(self, number: int) -> None:
        """Wait until one answers; it is started again if it ends, as it does when it starts while Redis is away."""

        def alive() -> bool:
            self.kept.keep()
            try:
                return httpx.get(f"{self.apis[number].http.base_url}/healthz", verify=NO_TLS).status_code == 200
            except httpx.HTTPError:
                return False

        until(alive, within=30)

    def restart(self, number: int, signum: signal.Signals) -> None:
        """End one with a signal, and wait until it is there again."""
        process = self.kept.processes[number]
        self.kept.end(number, signum)
        process.wait(timeout=20)
        self.answers(number)

    def _start(self, number: int) -> subprocess.Popen[bytes]:
        return self._deployed.run("web", PORT=str(self.apis[number].port), LOG_LEVEL="warning")
