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
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TextIO

from service.progress import process_wide, reporter
from service.store.events import dumps
from service.worker.link import LinkClosed, Message

LEAST_INTERVAL = 0.05
LONGEST_LINE = 4_000


class JobReporter:
    """Takes one job's progress, outputs and log lines to the supervisor."""

    def __init__(self, send: Callable[[Message], None], max_log_lines: int) -> None:
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
                self._send({"events": [["output", f'{{"output":{text}}}']]})

    def log(self, level: str, source: str, message: str) -> None:
        """Send one log line; past the limit one line says that there were more."""
        with self._changed:
            if self._closed or self._lines_left < 0:
                return
            self._lines_left -= 1
            if self._lines_left < 0:
                level, source, message = "warning", "service", "further log lines of this try are dropped"
            data = {"level": level, "logger": source, "message": message[:LONGEST_LINE]}
            self._send({"events": [["log", dumps(data)]]})

    def close(self) -> None:
        """Send what is held back; nothing more comes after it."""
        with self._changed:
            self._closed = True
            self._send_held()
            self._changed.notify()

    def _send_held(self) -> None:
        if self._held is None:
            return
        state, self._held = self._held, None
        self._sent_at = time.monotonic()
        shown = {name: value for name, value in state.items() if name != "metrics"}
        meta = {"progress": shown, "metrics": self._metrics}
        self._send({"events": [["progress", _json(state)]], "meta": _json(meta)})

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


def _json(value: Any) -> str:
    """JSON in which a loss of NaN or infinity, which training loops do report, is null."""
    try:
        return dumps(value)
    except ValueError:
        return dumps(json.loads(json.dumps(value), parse_constant=lambda _: None))


class _Lines:
    """A text stream that passes everything on, and each whole line to the reporter too."""

    def __init__(self, stream: TextIO, job: JobReporter, name: str) -> None:
        self._stream = stream
        self._job = job
        self._name = name
        self._rest = ""

    def write(self, text: str) -> int:
        self._stream.write(text)
        *lines, self._rest = (self._rest + text).split("\n")
        self._rest = self._rest.rpartition("\r")[2][-LONGEST_LINE:]  # a bar that redraws itself is one line
        for line in lines:
            if shown := line.rstrip("\r").rpartition("\r")[2]:
                self._job.log("info", self._name, shown)
        return len(text)

    def end(self) -> None:
        if self._rest.strip():
            self._job.log("info", self._name, self._rest)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


class _Handler(logging.Handler):
    def __init__(self, job: JobReporter) -> None:
        super().__init__(logging.INFO)
        self._job = job

    def emit(self, record: logging.LogRecord) -> None:
        try:
            self._job.log(record.levelname.lower(), record.name, self.format(record))
        except LinkClosed:
            raise
        except Exception:
            self.handleError(record)


@contextmanager
def reporting(job: JobReporter) -> Iterator[None]:
    """Within it progress(), logging and print reach the job's watchers."""
    root, handler = logging.getLogger(), _Handler(job)
    level, streams = root.level, (sys.stdout, sys.stderr)
    out, err = _Lines(sys.stdout, job, "stdout"), _Lines(sys.stderr, job, "stderr")
    token = reporter.set(job)
    process_wide.reporter = job
    root.addHandler(handler)
    root.setLevel(min(level, logging.INFO))
    sys.stdout, sys.stderr = out, err
    try:
        yield
    finally:
        sys.stdout, sys.stderr = streams
        root.setLevel(level)
        root.removeHandler(handler)
        reporter.reset(token)
        process_wide.reporter = None
        out.end()
        err.end()
