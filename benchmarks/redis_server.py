"""A redis-server for the measurements only: on loopback, in memory; and what it counts."""

from __future__ import annotations

import os
import socket
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

import redis
from processes import Running


@dataclass(frozen=True)
class Traffic:
    """What the server has done so far."""

    commands: int
    """Commands it ran, those that scripts call included."""
    reads: int
    """How often it read from a client: a command, a pipeline or a script call that waits for its answer is one."""


class RedisServer:
    """Use it in a `with`. Database 0 is for queues, database 1 for the results of peers that can keep them apart."""

    def __enter__(self) -> RedisServer:
        self._folder = tempfile.TemporaryDirectory()
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        folder = Path(self._folder.name)
        options = {"port": str(self.port), "bind": "127.0.0.1", "dir": str(folder), "save": "", "appendonly": "no"}
        command = ["redis-server", *(part for name, value in options.items() for part in (f"--{name}", value))]
        self._process = Running(command, os.environ, folder, folder / "redis.log")
        self.client = redis.Redis(port=self.port)
        self.results = redis.Redis(port=self.port, db=1)
        deadline = time.monotonic() + 10
        while True:
            try:
                self.client.ping()
                return self
            except redis.exceptions.RedisError:
                if time.monotonic() > deadline:
                    self.__exit__(None, None, None)
                    raise
                time.sleep(0.02)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._process.end()
        self._folder.cleanup()

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}"

    def clear(self) -> None:
        """Forget all that was in it."""
        self.client.flushall()
        self.client.script_flush()

    def traffic(self) -> Traffic:
        """Asking is one command and one read itself."""
        stats = self.client.info("stats")
        return Traffic(stats["total_commands_processed"], stats["total_reads_processed"])
