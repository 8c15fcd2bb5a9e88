"""What somebody sees on a terminal."""

from __future__ import annotations

import os
import pty
import signal
import subprocess
import sys
import threading

from tests.deployment import Deployment


class Screen:
    """A command of the service on a terminal of its own."""

    def __init__(self, laptop: Deployment, *arguments: str) -> None:
        self._ours, theirs = pty.openpty()
        environment = {name: value for name, value in laptop.environment.items() if name not in ("LOG_LEVEL", "PORT")}
        self.process = subprocess.Popen(
            [sys.executable, "-m", "service", *arguments],
            env=environment,
            cwd=laptop.folder,
            stdin=theirs,
            stdout=theirs,
            stderr=theirs,
            start_new_session=True,
        )
        os.close(theirs)
        self._shown = bytearray()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    @property
    def text(self) -> str:
        """All that it has shown so far."""
        return self._shown.decode(errors="replace").replace("\r\n", "\n")

    def end(self) -> None:
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGINT)
        self.process.wait(timeout=60)
        self._reader.join(timeout=10)
        os.close(self._ours)

    def _read(self) -> None:
        try:
            while data := os.read(self._ours, 65536):
                self._shown += data
        except OSError:  # the other side is closed
            return
