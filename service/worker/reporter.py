"""What a running job tells its watchers, inside the work-horse: progress, outputs, log lines.

Progress is coalesced to 20 updates a second; the last one is never lost, even if the model then
computes for an hour without another word: a thread sends what is held back.
"""

from __future__ import annotations

import logging
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from contextvars import Token
from typing import Any, Protocol, cast

from service.output import Outlet
from service.own_json import dumps, without_nan
from service.progress import reporter
from service.secret_fields import NOTHING_SECRET, Mask
from service.worker.descriptors import SOURCES, Descriptors
from service.worker.forks import leave_if_forked, lineage, silence_children
from service.worker.link import LinkClosed, Message
from service.worker.streams import Text

LEAST_INTERVAL = 0.05
LONGEST_LINE = 4_000


class Reporter(Protocol):
    """Takes what a model tells to the watchers of its job, or of its jobs."""

    mask: Mask

    @property
    def closed(self) -> bool: ...
    def progress(self, state: dict[str, Any]) -> None: ...
    def log(self, level: str, source: str, message: str) -> None: ...
    def write(self, source: str, text: str, level: str = "info") -> None: ...
    def end_lines(self) -> None: ...


class JobReporter:
    """Takes one job's progress, outputs and log lines to the supervisor.

    What a job has started may speak on when the job is over, or in a forked child: nobody hears it.
    """

    def __init__(
        self, number: int, send: Callable[[Message], None], max_log_lines: int, mask: Mask = NOTHING_SECRET
    ) -> None:
        """`mask` hides the secrets of its input in the worker's own output; in events its supervisor does."""
        self.mask = mask
        self._number = number
        self._send = send
        self._lines_left = max_log_lines
        # A lock of C: an interruption, which may be raised anywhere in Python, never leaves it held.
        self._lock = threading.RLock()
        self._changed: threading.Condition | None = None
        self._forks = lineage.forks
        self._rests: dict[tuple[str, str], str] = {}
        self._held: dict[str, Any] | None = None
        self._metrics: dict[str, Any] = {}
        self._sent_at = 0.0
        self._closed = False

    @property
    def closed(self) -> bool:
        """Whether nobody hears it any more. In a forked child its lock, which may be held for ever, is not touched."""
        return self._closed or lineage.forks > 0

    def progress(self, state: dict[str, Any]) -> None:
        """Send a state of progress now, or hold it back until the interval has passed."""
        if self.closed:
            return
        with self._lock:
            if self._closed:
                return
            self._metrics.update(state.get("metrics", {}))
            self._held = state
            if time.monotonic() - self._sent_at >= LEAST_INTERVAL:
                self._send_held()
            elif self._changed is None:
                self._changed = threading.Condition(self._lock)
                threading.Thread(target=self._send_later, args=(self._changed,), daemon=True).start()
            else:
                self._changed.notify()

    def output(self, text: str) -> None:
        """Send one item that a generator yielded, as JSON."""
        leave_if_forked(self._forks)
        with self._lock:
            if not self._closed:
                self._tell("output", f'{{"output":{text}}}')

    def log(self, level: str, source: str, message: str) -> None:
        """Send one log line; past the limit one line says that there were more."""
        if self.closed:
            return
        with self._lock:
            self._log(level, source, message)

    def write(self, source: str, text: str, level: str = "info") -> None:
        """Send as log lines what is written to a stream, each when it is whole."""
        if self.closed:
            return
        with self._lock:
            *lines, rest = (self._rests.get((source, level), "") + text).split("\n")
            self._rests[source, level] = rest.rpartition("\r")[2][
                -LONGEST_LINE:
            ]  # a bar that redraws itself is one line
            for line in lines:
                if shown := line.rstrip("\r").rpartition("\r")[2]:
                    self._log(level, source, shown)

    def end_lines(self) -> None:
        """What was written last had no end of line."""
        if self.closed or not self._rests:
            return
        with self._lock:
            for (source, level), rest in self._rests.items():
                if rest.strip():
                    self._log(level, source, rest)
            self._rests.clear()

    def close(self) -> None:
        """Send what is held back; nothing more comes after it."""
        if self.closed:
            return
        with self._lock:
            self._closed = True
            self._send_held()
            if self._changed is not None:
                self._changed.notify()

    def _log(self, level: str, source: str, message: str) -> None:
        if self._closed or self._lines_left < 0:
            return
        self._lines_left -= 1
        if self._lines_left < 0:
            level, source, message = "warning", "service", "further log lines of this try are dropped"
        self._tell("log", dumps({"level": level, "logger": source, "message": message[:LONGEST_LINE]}))

    def _tell(self, kind: str, data: str, **more: str) -> None:
        self._send({"job": self._number, "events": [[kind, data]], **more})

    def _send_held(self) -> None:
        if self._held is None:
            return
        state, self._held = self._held, None
        self._sent_at = time.monotonic()
        shown = {name: value for name, value in state.items() if name != "metrics"}
        self._tell("progress", _json(state), meta=_json({"progress": shown, "metrics": self._metrics}))

    def _send_later(self, changed: threading.Condition) -> None:
        with changed:
            while not self._closed:
                if self._held is None:
                    changed.wait()
                elif (wait := self._sent_at + LEAST_INTERVAL - time.monotonic()) > 0:
                    changed.wait(wait)
                else:
                    try:
                        self._send_held()
                    except LinkClosed:
                        return


class BatchReporter:
    """What a batch tells, told to each of its jobs."""

    def __init__(self, jobs: Sequence[JobReporter]) -> None:
        self._jobs = jobs
        self.mask = sum((job.mask for job in jobs if job.mask), NOTHING_SECRET)

    def progress(self, state: dict[str, Any]) -> None:
        for job in self._jobs:
            job.progress(state)

    @property
    def closed(self) -> bool:
        return all(job.closed for job in self._jobs)

    def log(self, level: str, source: str, message: str) -> None:
        for job in self._jobs:
            job.log(level, source, message)

    def write(self, source: str, text: str, level: str = "info") -> None:
        for job in self._jobs:
            job.write(source, text, level)

    def end_lines(self) -> None:
        for job in self._jobs:
            job.end_lines()


def _json(value: Any) -> str:
    """JSON in which a loss of NaN or infinity, which training loops do report, is null."""
    try:
        return dumps(value)
    except ValueError:
        return dumps(without_nan(value))


def _current() -> Reporter | None:
    """The reporter of the job that this code runs for, also when that is over."""
    return cast("Reporter | None", reporter.get())


class _Handler(logging.Handler):
    """It is every job's, so none can close it, or change what it takes and how."""

    def __init__(self) -> None:
        super().__init__(logging.INFO)

    def setLevel(self, level: int | str) -> None:  # noqa: N802 -- logging calls it so
        """It stays as it is, as with all that follow."""

    def setFormatter(self, fmt: logging.Formatter | None) -> None:  # noqa: N802
        pass

    def addFilter(self, filter: Any) -> None:  # noqa: N802
        pass

    def close(self) -> None:
        pass

    def emit(self, record: logging.LogRecord) -> None:
        if lineage.forks:
            sys.stderr.write(f"{record.levelname.lower()}: {record.name}: {self.format(record)}\n")
            return
        job = _current()
        if job is None or job.closed:
            # Python's own way with what nobody handles: our standing here must not silence it.
            last = logging.lastResort
            if last is not None and record.levelno >= last.level and logging.getLogger().handlers == [self]:
                last.handle(record)
            return
        try:
            job.log(record.levelname.lower(), record.name, self.format(record))
        except LinkClosed:
            raise
        except Exception:
            self.handleError(record)


def _streams(outlets: Sequence[Outlet], speaker: Callable[[], Reporter | None]) -> Iterator[Text]:
    for (source, _), fileno, outlet in zip(SOURCES, (1, 2), outlets, strict=True):
        yield Text(source, fileno, outlet, speaker)


class Reporting:
    """Brings progress(), logging and print of jobs to their watchers."""

    def __init__(self, filenos: Sequence[int]) -> None:
        """`filenos`: the ends to read of the pipes that are descriptors 1 and 2, then the worker's own two."""
        self._handler = _Handler()
        readers, own = filenos[:2], filenos[2:]
        self._outlets = outlets = [Outlet(fileno) for fileno in own]
        self._masks: list[Mask] = []
        self._streams = list(_streams(outlets, _current))
        self._descriptors = Descriptors(readers, outlets)
        # Until the first job: a log handler that a model file makes with one of them would tell each record twice.
        of_none = list(_streams(outlets, lambda: None))
        everyone = [*self._streams, *of_none]
        silence_children(*(stream.turn_to_descriptor for stream in everyone), self._descriptors.close_in_child)
        # Also for those who ask for the original ones. These must stay: they close the descriptors when they go.
        self._original = (sys.__stdout__, sys.__stderr__)
        vars(sys).update(__stdout__=self._streams[0], __stderr__=self._streams[1])
        sys.stdout, sys.stderr = of_none

    def share_descriptors(self, shared: bool) -> None:
        """Whether a thread that was left may write to descriptors 1 and 2, too: what comes there is nobody's then."""
        self._descriptors.shared = shared

    def of(self, job: Reporter | None) -> AbstractContextManager[None]:
        """Within it all that is told is told of this job, or of none."""
        return _Telling(self, job)

    def begin(self, job: Reporter | None) -> Token[Any]:
        """See `of`."""
        if job is not None:
            self._install()
            if job.mask:
                self._hide(begins=job.mask)
        self._descriptors.begins(job)
        return reporter.set(job)

    def end(self, job: Reporter | None, token: Token[Any]) -> None:
        """See `of`."""
        reporter.reset(token)
        for stream in self._streams:
            if stream.unfinished:
                stream.end()
        self._descriptors.ends(job)
        if job is not None:
            job.end_lines()
            if job.mask:
                self._hide(ends=job.mask)

    def _hide(self, begins: Mask = NOTHING_SECRET, ends: Mask = NOTHING_SECRET) -> None:
        # Several jobs may run at once, on the event loop and beside it: what one hides another may print.
        self._masks = [each for each in (*self._masks, begins) if each and each is not ends]
        hide = sum(self._masks, NOTHING_SECRET) if self._masks else None
        for outlet in self._outlets:
            outlet.hide = hide

    def _install(self) -> None:
        # For each job anew: a model may have put something else there.
        root = logging.getLogger()
        if self._handler not in root.handlers:
            root.addHandler(self._handler)
        if root.level > logging.INFO:
            root.setLevel(logging.INFO)
        sys.stdout, sys.stderr = self._streams
        vars(sys).update(__stdout__=self._streams[0], __stderr__=self._streams[1])
        for stream in self._streams:
            stream.as_it_was()


class _Telling(AbstractContextManager[None]):
    """Entered for each job: one that is made of a generator takes as long again.

    And it would set an attribute of what a model raises, which may be frozen.
    """

    __slots__ = ("_forks", "_job", "_reporting", "_token")

    def __init__(self, reporting: Reporting, job: Reporter | None) -> None:
        self._reporting = reporting
        self._job = job

    def __enter__(self) -> None:
        self._token = self._reporting.begin(self._job)
        self._forks = lineage.forks

    def __exit__(self, kind: object, error: BaseException | None, where: object) -> None:
        leave_if_forked(self._forks, error)
        self._reporting.end(self._job, self._token)
