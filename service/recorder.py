"""What a model tells in this process, kept as the events of a job's log: nothing is coalesced, sent or left out."""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, TextIO

from service.progress import reporter


class Recorder:
    """Takes progress, outputs and log lines, as the reporter of a job does."""

    def __init__(self) -> None:
        self.events: list[dict[str, Any]] = []

    def progress(self, state: dict[str, Any]) -> None:
        self.events.append({"type": "progress", "data": state})

    def output(self, text: str) -> None:
        """An item that a generator yielded, as JSON."""
        self.events.append({"type": "output", "data": {"output": json.loads(text)}})

    def log(self, level: str, source: str, message: str) -> None:
        self.events.append({"type": "log", "data": {"level": level, "logger": source, "message": message}})

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Within it progress, logging (from INFO on) and print are taken too, and go on to where they went before."""
        root, level, streams = logging.getLogger(), logging.getLogger().level, (sys.stdout, sys.stderr)
        handler, told = _Handler(self), [_Lines(streams[0], "stdout", self), _Lines(streams[1], "stderr", self)]
        root.addHandler(handler)
        root.setLevel(min(level, logging.INFO))
        sys.stdout, sys.stderr = told
        token = reporter.set(self)
        try:
            yield
        finally:
            reporter.reset(token)
            sys.stdout, sys.stderr = streams
            root.setLevel(level)
            root.removeHandler(handler)
            for each in told:
                each.end()


class _Handler(logging.Handler):
    def __init__(self, recorder: Recorder) -> None:
        super().__init__(logging.INFO)
        self._recorder = recorder

    def emit(self, record: logging.LogRecord) -> None:
        try:
            self._recorder.log(record.levelname.lower(), record.name, self.format(record))
        except Exception:
            self.handleError(record)


class _Lines:
    """A text stream that passes everything on, and each whole line to a recorder too."""

    def __init__(self, stream: TextIO, name: str, recorder: Recorder) -> None:
        self._stream = stream
        self._name = name
        self._recorder = recorder
        self._rest = ""

    def write(self, text: str) -> int:
        self._stream.write(text)
        *lines, self._rest = (self._rest + text).split("\n")
        for line in lines:
            self._tell(line)
        return len(text)

    def writelines(self, lines: list[str]) -> None:
        for line in lines:
            self.write(line)

    def end(self) -> None:
        """What was written last had no end of line."""
        self._tell(self._rest)

    def _tell(self, line: str) -> None:
        if (shown := line.rstrip("\r").rpartition("\r")[2]).strip():  # a bar that redraws itself is one line
            self._recorder.log("info", self._name, shown)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)
