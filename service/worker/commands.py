"""What others tell a worker over Redis: RQ's commands to it, and that a job was queued."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import queue
import threading
import time
from collections.abc import Collection, Iterator
from typing import Any

import redis

from service.store import keys

log = logging.getLogger("service.worker")

_JOB = b"j"  # what the pipe says when a job was queued


class Commands:
    """Listens in a thread of its own; what it hears waits in `heard`, and `fileno` becomes readable.

    A message that nobody can read is logged and passed over: it must not make the worker deaf.
    """

    def __init__(self, connection: redis.Redis, worker: str, queues: Collection[str]) -> None:
        self._redis = connection
        channels = keys.Channels(connection)
        self._wake = channels.wake
        # RQ's own tools know no database: they reach a worker of this name in any.
        self._channels = (channels.commands(worker), keys.rq_commands(worker), self._wake)
        self._queues = frozenset(name.encode() for name in queues)
        self._heard: queue.SimpleQueue[dict[str, Any]] = queue.SimpleQueue()
        self._reader, self._writer = os.pipe()
        os.set_blocking(self._reader, False)
        os.set_blocking(self._writer, False)
        self._woken = False
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._listen, name="commands", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._stopping.set()
        self._thread.join(timeout=2)

    def listen_for(self, queues: Collection[str]) -> None:
        """From now on wake when a job is put into one of these queues."""
        self._queues = frozenset(name.encode() for name in queues)
        self.wake(_JOB)  # one may have been queued before

    def fileno(self) -> int:
        """For select: readable when there is something to look at."""
        return self._reader

    def wake(self, byte: bytes = b"!") -> None:
        """Make `fileno` readable. Safe in a signal handler."""
        with contextlib.suppress(BlockingIOError):  # full: it is readable already
            os.write(self._writer, byte)

    def woken(self) -> bool:
        """Whether a job may have been queued; once."""
        woken, self._woken = self._woken, False
        return woken

    def heard(self) -> Iterator[dict[str, Any]]:
        """The commands since the last call."""
        with contextlib.suppress(BlockingIOError):
            if _JOB in os.read(self._reader, 4096):
                self._woken = True
        while True:
            try:
                yield self._heard.get_nowait()
            except queue.Empty:
                return

    def _listen(self) -> None:
        while not self._stopping.is_set():
            try:
                with self._redis.pubsub(ignore_subscribe_messages=True) as pubsub:  # type: ignore[no-untyped-call]
                    pubsub.subscribe(*self._channels)
                    self.wake(_JOB)  # a job may have been queued before we listened
                    while not self._stopping.is_set():
                        message = pubsub.get_message(timeout=0.5)
                        if message:
                            self._take(message)
            except redis.exceptions.RedisError as error:
                log.warning("cannot listen for commands: %s", error)
                time.sleep(0.5)

    def _take(self, message: dict[str, Any]) -> None:
        if message["channel"] == self._wake.encode():
            if message["data"] in self._queues:
                self.wake(_JOB)
            return
        try:
            command = json.loads(message["data"])
            if not isinstance(command.get("command"), str):
                raise ValueError("no command")
        except (ValueError, AttributeError, RecursionError):
            log.warning("a command that cannot be read was passed over: %r", message["data"][:200])
            return
        self._heard.put(command)
        self.wake()
