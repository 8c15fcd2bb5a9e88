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
    """time=... level=... message="..." ...; a value with spaces or quotes is quoted as JSON."""

    def format(self, record: logging.LogRecord) -> str:
        return " ".join(f"{name}={_value(value)}" for name, value in _fields(record).items())


def _value(value: Any) -> str:
    text = str(value)
    # Quoted also for line breaks: a caller's text must not be able to forge a line.
    return text if text and text.isprintable() and not set(text) & set(' "=') else json.dumps(text)
