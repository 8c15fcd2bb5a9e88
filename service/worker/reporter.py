"""What a running job tells its watchers, inside the work-horse: progress, outputs, log lines.

Progress is coalesced to 20 updates a second; the last one is never lost, even if the model then
computes for an hour without another word: a thread sends what is held back.
"""

from __future__ import annotations

import json
import logging
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Protocol, TextIO, cast

from service.progress import process_wide, reporter
from service.store.events import dumps
from service.worker.link import LinkClosed, Message

LEAST_INTERVAL = 0.05
LONGEST_LINE = 4_000


class Reporter(Protocol):
    """Takes what a model tells to the watchers of its job, or of its jobs."""

    def progress(self, state: dict[str, Any]) -> None: ...
    def log(self, level: str, source: str, message: str) -> None: ...
    def close(self) -> None: ...


class JobReporter:
    """Takes one job's progress, outputs and log lines to the supervisor."""

    def __init__(self, number: int, send: Callable[[Message], None], max_log_lines: int) -> None:
        self._number = number
        self._send = send
        self._lines_left = max_log_lines
        self._changed = threading.Condition()
        self._held: dict[str, Any] | None = None
        self._metrics: dict[str, Any] = {}
        self._sent_at = 0.0
        self._closed = False
        self._thread: threading.Thread | None = None

    def progress(self, state: dict[str, Any]) -> None:
        """Send a state of progress now, or hold it back until the interval has passed."""
        with self._changed:
            if self._closed:
                return
            self._metrics.update(state.get("metrics", {}))
            self._held = state
            if time.monotonic() - self._sent_at >= LEAST_INTERVAL:
                self._send_held()
            elif self._thread is None:
                self._thread = threading.Thread(target=self._send_later, daemon=True)
                self._thread.start()
            else:
                self._changed.notify()

    def output(self, text: str) -> None:
        """Send one item that a generator yielded, as JSON."""
        with self._changed:
            if not self._closed:
                self._tell("output", f'{{"output":{text}}}')

    def log(self, level: str, source: str, message: str) -> None:
        """Send one log line; past the limit one line says that there were more."""
        with self._changed:
            if self._closed or self._lines_left < 0:
                return
            self._lines_left -= 1
            if self._lines_left < 0:
                level, source, message = "warning", "service", "further log lines of this try are dropped"
            self._tell("log", dumps({"level": level, "logger": source, "message": message[:LONGEST_LINE]}))

    def close(self) -> None:
        """Send what is held back; nothing more comes after it."""
        with self._changed:
            self._closed = True
            self._send_held()
            if self._thread is not None:
                self._changed.notify()

    def _tell(self, kind: str, data: str, **more: str) -> None:
        self._send({"job": self._number, "events": [[kind, data]], **more})

    def _send_held(self) -> None:
        if self._held is None:
            return
        state, self._held = self._held, None
        self._sent_at = time.monotonic()
        shown = {name: value for name, value in state.items() if name != "metrics"}
        self._tell("progress", _json(state), meta=_json({"progress": shown, "metrics": self._metrics}))

    def _send_later(self) -> None:
        with self._changed:
            while not self._closed:
                if self._held is None:
                    self._changed.wait()
                elif (wait := self._sent_at + LEAST_INTERVAL - time.monotonic()) > 0:
                    self._changed.wait(wait)
                else:
                    try:
                        self._send_held()
                    except LinkClosed:
                        return


class BatchReporter:
    """What a batch tells, told to each of its jobs."""

    def __init__(self, jobs: Sequence[JobReporter]) -> None:
        self._jobs = jobs

    def progress(self, state: dict[str, Any]) -> None:
        for job in self._jobs:
            job.progress(state)

    def log(self, level: str, source: str, message: str) -> None:
        for job in self._jobs:
            job.log(level, source, message)

    def close(self) -> None:
        for job in self._jobs:
            job.close()


def _json(value: Any) -> str:
    """JSON in which a loss of NaN or infinity, which training loops do report, is null."""
    try:
        return dumps(value)
    except ValueError:
        return dumps(json.loads(json.dumps(value), parse_constant=lambda _: None))


def _current() -> Reporter | None:
    """The reporter of the job that calls; for a thread that has none, that of the only job that runs."""
    return cast("Reporter | None", reporter.get() or process_wide.reporter)


class _Lines:
    """A text stream that passes everything on, and each whole line of a job to its reporter too."""

    def __init__(self, stream: TextIO, name: str, job: Reporter | None) -> None:
        self._stream = stream
        self._name = name
        self._job = job
        self._rests: dict[Reporter, str] = {}

    def write(self, text: str) -> int:
        self._stream.write(text)
        # What a job has kept of it writes for that job, also when another one runs.
        job = self._job or _current()
        if job is not None:
            *lines, rest = (self._rests.get(job, "") + text).split("\n")
            self._rests[job] = rest.rpartition("\r")[2][-LONGEST_LINE:]  # a bar that redraws itself is one line
            for line in lines:
                if shown := line.rstrip("\r").rpartition("\r")[2]:
                    job.log("info", self._name, shown)
        return len(text)

    def end(self, job: Reporter) -> None:
        """A job is over: what it wrote last had no end of line."""
        if (rest := self._rests.pop(job, "")).strip():
            job.log("info", self._name, rest)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


class _Handler(logging.Handler):
    def __init__(self) -> None:
        super().__init__(logging.INFO)

    def emit(self, record: logging.LogRecord) -> None:
        if (job := _current()) is None:
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


class Reporting:
    """Brings progress(), logging and print of jobs to their watchers."""

    def __init__(self) -> None:
        self._running: list[Reporter] = []
        self._handler = _Handler()
        self._own = (sys.stdout, sys.stderr)
        self._shared = tuple(self._streams(None))

    @contextmanager
    def of(self, job: Reporter) -> Iterator[None]:
        """Within it all that is told is told of this job."""
        self._running.append(job)
        alone = len(self._running) == 1
        streams = tuple(self._streams(job)) if alone else self._shared
        self._install(streams)
        token = reporter.set(job)
        process_wide.reporter = job if alone else None
        try:
            yield
        finally:
            reporter.reset(token)
            self._running.remove(job)
            process_wide.reporter = None
            for stream in {*streams, *self._shared}:
                stream.end(job)

    def _install(self, streams: tuple[_Lines, ...]) -> None:
        # For each job anew: a model may have put something else there.
        root = logging.getLogger()
        if self._handler not in root.handlers:
            root.addHandler(self._handler)
        if root.level > logging.INFO:
            root.setLevel(logging.INFO)
        sys.stdout, sys.stderr = streams

    def _streams(self, job: Reporter | None) -> Iterator[_Lines]:
        yield _Lines(self._own[0], "stdout", job)
        yield _Lines(self._own[1], "stderr", job)
