"""What a model tells in this process, kept as the events of a job's log: nothing is coalesced, sent or left out."""

from __future__ import annotations

import json
import logging
import sys
from contextlib import AbstractContextManager
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

    def listening(self) -> AbstractContextManager[None]:
        """Within it progress, logging (from INFO on) and print are taken too, and go on to where they went before."""
        return _Listening(self)


class _Listening:
    """What `Recorder.listening` returns. contextlib's own would set an attribute of what a model raises."""

    def __init__(self, recorder: Recorder) -> None:
        self._recorder = recorder

    def __enter__(self) -> None:
        self._root = logging.getLogger()
        self._level = self._root.level
        self._handler = _Handler(self._recorder)
        self._told = _Lines(sys.stdout, "stdout", self._recorder), _Lines(sys.stderr, "stderr", self._recorder)
        self._root.addHandler(self._handler)
        self._root.setLevel(min(self._level, logging.INFO))
        sys.stdout, sys.stderr = self._told
        self._token = reporter.set(self._recorder)

    def __exit__(self, *_: object) -> None:
        reporter.reset(self._token)
        for each in self._told:
            each.end()
        # Another that has begun later, in a thread, may still stand there: it goes when its turn comes.
        out, err = self._told
        sys.stdout, sys.stderr = _open_one(sys.stdout, out), _open_one(sys.stderr, err)
        self._root.setLevel(self._level)
        self._root.removeHandler(self._handler)


def _open_one(stream: Any, ours: _Lines) -> Any:
    """The stream itself, or what is behind it when nobody takes its lines any more; not what a model has put there."""
    stream = stream if isinstance(stream, _Lines) else ours
    while isinstance(stream, _Lines) and stream.ended:
        stream = stream.behind
    return stream


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
        self.behind = stream
        self.ended = False
        """Whether nobody takes its lines any more."""
        self._name = name
        self._recorder = recorder
        self._rest = ""

    def write(self, text: str) -> int:
        self.behind.write(text)
        if self.ended:
            return len(text)
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
        self.ended = True

    def _tell(self, line: str) -> None:
        if (shown := line.rstrip("\r").rpartition("\r")[2]).strip():  # a bar that redraws itself is one line
            self._recorder.log("info", self._name, shown)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.behind, name)
