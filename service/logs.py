"""Structured logs: one line an event, as key=value or as JSON, to standard error."""

from __future__ import annotations

import json
import logging
import sys
from typing import Any

from service.output import LogStream
from service.settings import Settings
from service.store.clock import rfc3339

_STANDARD = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName", "color_message"}


def set_up(settings: Settings) -> None:
    """Log what is at least LOG_LEVEL, in LOG_FORMAT. Ours only from that level on, libraries' from warning."""
    handler = logging.StreamHandler(_stderr())
    handler.setFormatter(JsonLines() if settings.log_format == "json" else KeyValueLines())
    logging.basicConfig(level=logging.WARNING, handlers=[handler], force=True)
    logging.getLogger("service").setLevel(settings.log_level.upper())
    # RQ sets its own level when it is imported; its bookkeeping is told by ours.
    logging.getLogger("rq.worker").setLevel(logging.WARNING)


def _stderr() -> Any:
    try:
        return LogStream(sys.stderr.fileno())
    except (OSError, AttributeError):  # there is none, or it is not the system's
        return sys.stderr


def _fields(record: logging.LogRecord) -> dict[str, Any]:
    fields = {
        "time": rfc3339(record.created),
        "level": record.levelname.lower(),
        "logger": record.name,
        "message": record.getMessage(),
        **{name: value for name, value in vars(record).items() if name not in _STANDARD},
    }
    if record.exc_info:
        fields["exception"] = logging.Formatter().formatException(record.exc_info)
    return fields


class JsonLines(logging.Formatter):
    """{"time": ..., "level": ..., "message": ..., ...}"""

    def format(self, record: logging.LogRecord) -> str:
        return json.dumps(_fields(record), default=str)


class KeyValueLines(logging.Formatter):
    """time=... level=... message="..." ...; a value with spaces or quotes is quoted as JSON.

    A traceback follows on lines of its own, which are indented: so it is read as Python prints it.
    """

    def format(self, record: logging.LogRecord) -> str:
        fields = _fields(record)
        tracebacks = [str(fields.pop(name)) for name in ("traceback", "exception") if name in fields]
        line = " ".join(f"{name}={_value(value)}" for name, value in fields.items())
        return "\n".join([line, *(f"  {_harmless(each)}" for text in tracebacks for each in text.splitlines())])


def _value(value: Any) -> str:
    text = str(value)
    # Quoted also for line breaks: a caller's text must not be able to forge a line.
    return text if text and text.isprintable() and not set(text) & set(' "=') else json.dumps(text)


def _harmless(line: str) -> str:
    """A line of a traceback, in which a caller's text may stand, without what a terminal would obey."""
    return "".join(each if each.isprintable() else each.encode("unicode_escape").decode() for each in line)
