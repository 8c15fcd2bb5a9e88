"""A work-horse as its supervisor sees it: start it, talk to it, watch over it, kill it."""

from __future__ import annotations

import contextlib
import json
import os
import resource
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from service.settings import Settings, without_secrets
from service.worker.children import descendants
from service.worker.last_words import LastWords, Line
from service.worker.link import INTERRUPT, Link, LinkClosed, Message, Numbers, Unreadable
from service.worker.memory import oom_kills
from service.worker.messages import checked
from service.worker.stop_page import StopPage

LONGEST_MESSAGE = 64 * 2**20  # bytes, beside an output
OUT_OF_MEMORY = "out of memory"
_PAGE = resource.getpagesize()


class WorkHorse:
    """One work-horse, in a process group of its own, from its start to its end."""

    def __init__(self, settings: Settings) -> None:
        """Start it; it introduces itself with its first message."""
        ours, theirs = socket.socketpair()
        our_async, their_async = socket.socketpair()
        longest = LONGEST_MESSAGE + 2 * settings.max_output_bytes  # as text in JSON its quotes are escaped
        self.main_lane, self.async_lane = Link(ours, longest), Link(our_async, longest)
        self._tokens, self._interruptions = Numbers.pipe(), Numbers.pipe()
        self.stops = StopPage()
        given = [theirs.fileno(), self._tokens.reader, self._interruptions.reader, their_async.fileno()]
        given.append(self.stops.fileno)
        self._last_words = LastWords()
        options = {
            "descriptors": self._last_words.given,
            "jobs_dir": str(settings.jobs_dir.resolve()),
            "with_webhooks": bool(settings.webhook_secret),
            "max_output_bytes": settings.max_output_bytes,
            "max_log_lines": settings.max_log_lines,
        }
        with theirs, their_async:
            self._process = subprocess.Popen(
                [
                    sys.executable,
                    *(["-B"] if settings.reload else []),
                    "-m",
                    "service.worker.horse",
                    ",".join(map(str, given)),
                    json.dumps(options),
                ],
                pass_fds=[*given, *self._last_words.given],
                stdout=self._last_words.stdout,
                stderr=self._last_words.stderr,
                env=without_secrets(os.environ),
                # Its own group: what a model starts is killed with it, and Ctrl-C does not reach it.
                start_new_session=True,
            )
        self._last_words.started()
        # What it needs of the secrets, where no model finds it in its environment, arguments or descriptors.
        self.main_lane.post({"webhooks": [settings.webhook_secret, settings.webhook_allow]})
        # Its death makes this readable, though a child that it left behind keeps its sockets open.
        self._pidfd = os.pidfd_open(self._process.pid) if hasattr(os, "pidfd_open") else None
        self.started_at = time.monotonic()
        self._oom_kills = oom_kills()
        self._shot = False
        self._makes_sense = True

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def alive(self) -> bool:
        """Whether it has not ended."""
        return self._process.poll() is None

    @property
    def memory(self) -> int:
        """Resident bytes; 0 where that cannot be told."""
        try:
            return int(Path(f"/proc/{self._process.pid}/statm").read_text().split()[1]) * _PAGE
        except (OSError, IndexError):
            return 0

    def filenos(self) -> Iterator[int]:
        """For select: readable when it says something or has died."""
        yield from self.links()
        if self._pidfd is not None:
            yield self._pidfd

    def links(self) -> Iterator[int]:
        """For select: writable when `flush` can go on."""
        yield self.main_lane.fileno()
        yield self.async_lane.fileno()

    def begin(self, *units: Message) -> None:
        """Give it units, to begin when it has done those before. All at once: each time it is given some it wakes."""
        self.main_lane.post(*units)
        self._tokens.put(*(each["unit"] for each in units))

    def take_back(self) -> list[int]:
        """The units that it has not begun, and now never will."""
        units = []
        with contextlib.suppress(LinkClosed):
            while (unit := self._tokens.take()) is not None:
                units.append(unit)
        return units

    @property
    def untaken(self) -> int:
        """How many units it has not begun."""
        return self._tokens.count

    def interrupt(self, unit: int) -> None:
        """Ask it to leave a unit."""
        self.stops.ask(unit)
        self._interruptions.put(unit)
        if self.alive:
            self._process.send_signal(INTERRUPT)

    def flush(self) -> bool:
        """Send on what it did not read yet; whether all has gone."""
        main_gone, async_gone = self.main_lane.flush(), self.async_lane.flush()
        return main_gone and async_gone

    def messages(self) -> Iterator[Message]:
        """All that it has said. Raises LinkClosed once it has died and all it said was heard."""
        died = not self.alive  # looked at first: what it said before it died is then complete
        closed = 0
        for lane in (self.main_lane, self.async_lane):
            try:
                yield from map(checked, lane.messages())
            except Unreadable:
                self.give_up()
                closed += 1
            except LinkClosed:
                closed += 1
        if died or closed:
            raise LinkClosed

    def look_after(self) -> None:
        """To be called now and then: it must not wait for ever for what only it can do."""
        self._last_words.relieve()

    def last_words(self) -> list[Line]:
        """What it wrote to its descriptors 1 and 2 before it died, and had no time to tell."""
        return self._last_words.rest()

    def shoot(self) -> None:
        """Kill it where it stands; whoever listens to it learns that it died, and buries it."""
        # Only a pid that was not yet waited for: another process may have it by then.
        if self.alive:
            self._shot = True
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)

    def give_up(self) -> None:
        """Kill it, because what it says makes no sense."""
        self._makes_sense = False
        self.shoot()

    def kill(self) -> str:
        """End it, with all that it started, and say how it ended, in words."""
        below = descendants(self._process.pid) if self.alive else []
        self.shoot()
        code = self._process.wait()
        for pid in below:  # those with a session of their own
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.kill(pid, signal.SIGKILL)
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self._process.pid, signal.SIGKILL)  # what it left behind
        return self._in_words(code)

    def bury(self) -> str:
        """It has died, or closed its link: how it ended, in words."""
        deadline = time.monotonic() + 1.0  # it may be about to end by itself: then we see what killed it
        while self.alive and time.monotonic() < deadline:
            time.sleep(0.005)
        return self.kill()

    def close(self) -> None:
        """Let go of the links of one that is dead."""
        self._last_words.rest()
        ours = self.main_lane, self.async_lane, self._tokens, self._interruptions, self._last_words, self.stops
        for each in ours:
            each.close()
        if self._pidfd is not None:
            os.close(self._pidfd)

    def _in_words(self, code: int) -> str:
        if not self._makes_sense:
            return "what its process said to the worker could not be read: a model wrote to their connection"
        if code >= 0:
            return f"its process exited with code {code}"
        name = signal.Signals(-code).name
        if -code == signal.SIGKILL and not self._shot and oom_kills() != self._oom_kills:
            return f"{OUT_OF_MEMORY}: the kernel killed its process (signal {-code}, {name})"
        return f"its process was killed by signal {-code} ({name})"
