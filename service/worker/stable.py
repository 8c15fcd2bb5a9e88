"""The stable: starts the work-horse, watches over it, kills it."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from multiprocessing.connection import wait
from typing import Any

from service.settings import Settings
from service.worker.link import INTERRUPT, Link, LinkClosed, Message, pair

SURELY_BUFFERED = 64 * 1024  # bytes that an empty socket takes at once


class Stable:
    """Holds one work-horse at a time, in a process group of its own."""

    def __init__(self, settings: Settings) -> None:
        self._options = json.dumps(
            {
                "jobs_dir": str(settings.jobs_dir.resolve()),
                "max_output_bytes": settings.max_output_bytes,
                "max_log_lines": settings.max_log_lines,
            }
        )
        self._process: subprocess.Popen[bytes] | None = None
        self._link: Link | None = None
        self._pidfd: int | None = None

    @property
    def alive(self) -> bool:
        """Whether there is a work-horse that has not ended."""
        return self._process is not None and self._process.poll() is None

    def start(self) -> None:
        """Start a work-horse; it introduces itself with its first message."""
        self._link, theirs = pair()
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "service.worker.horse", str(theirs.fileno()), self._options],
                pass_fds=[theirs.fileno()],
                # Its own group: what a model starts is killed with it, and Ctrl-C does not reach it.
                start_new_session=True,
            )
        if hasattr(os, "pidfd_open"):  # Linux; elsewhere its death is noticed at the next look, within a second
            self._pidfd = os.pidfd_open(self._process.pid)

    def send(self, message: Message) -> None:
        """Send it a message, without waiting until it is read.

        A horse that has died says so when it is next listened to.
        """
        assert self._link is not None
        data = json.dumps(message).encode()
        if len(data) < SURELY_BUFFERED:
            _send(self._link, data)
        else:
            # A horse that does not read, for it is stopped or a thread of a model holds its interpreter,
            # must not hold up time limits, leases and stops.
            threading.Thread(target=_send, args=(self._link, data), daemon=True).start()

    def receive(self) -> Message:
        """Its next message. Raises LinkClosed when it has died."""
        assert self._link is not None
        if not self._link.waiting():  # it died, and a child that it left behind keeps its side open
            raise LinkClosed
        return self._link.receive()

    def speaks(self) -> bool:
        """Whether `receive` has something, be it that it died."""
        return self._link is not None and (self._link.waiting() or not self.alive)

    def drop_strays(self) -> None:
        """Pass over what it says between jobs, as a thread of a model may."""
        with contextlib.suppress(LinkClosed):
            while self.alive and self.speaks():
                self.receive()

    def wait(self, others: list[Any], timeout: float) -> None:
        """Return when the horse or one of the others has something to say, or after `timeout` seconds."""
        listened = [each for each in (self._link, self._pidfd, *others) if each is not None]
        wait(listened, max(0.0, timeout))

    def interrupt(self) -> None:
        """Ask it to leave the running job."""
        if self._process is not None and self.alive:
            self._process.send_signal(INTERRUPT)

    def shoot(self) -> None:
        """Kill it where it stands; whoever listens to it learns that it died, and buries it."""
        # Only a pid that was started and not yet waited for: with 0, killpg would end our own group.
        if self._process is not None and self.alive:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)

    def kill(self) -> str:
        """End it, with all that it started, and say how it ended, in words."""
        if self._process is None or self._link is None:
            return "it was not running"
        self.shoot()
        code = self._process.wait()
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self._process.pid, signal.SIGKILL)  # what it left behind
        self._link.close()
        if self._pidfd is not None:
            os.close(self._pidfd)
        self._process = self._link = self._pidfd = None
        return _in_words(code)

    def bury(self) -> str:
        """Its link has closed: give it a moment to end by itself, so that we see what killed it."""
        if self._process is not None:
            deadline = time.monotonic() + 1.0
            while self._process.poll() is None and time.monotonic() < deadline:
                time.sleep(0.005)
        return self.kill()


def _send(link: Link, data: bytes) -> None:
    with contextlib.suppress(LinkClosed):
        link.send_bytes(data)


def _in_words(code: int) -> str:
    if code >= 0:
        return f"its process exited with code {code}"
    name = signal.Signals(-code).name
    hint = ", perhaps for want of memory" if -code == signal.SIGKILL else ""
    return f"its process was killed by signal {-code} ({name}{hint})"
