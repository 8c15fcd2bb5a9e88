"""A log line: one line, whatever is in it."""

from __future__ import annotations

import json
import logging

from service.logs import JsonLines, KeyValueLines


def record(message: str, **extra: object) -> logging.LogRecord:
    made = logging.makeLogRecord({"name": "service.web", "levelno": 20, "levelname": "INFO", "msg": message})
    made.__dict__.update(extra)
    return made


def test_a_line_is_key_and_value() -> None:
    line = KeyValueLines().format(record("request", path="/v1/jobs", status=202))

    assert line.endswith("level=info logger=service.web message=request path=/v1/jobs status=202")


def test_a_callers_text_cannot_forge_a_line_or_a_field() -> None:
    line = KeyValueLines().format(record("request", path='/a\nlevel=error b="c"'))

    assert "\n" not in line
    assert json.loads(line.partition("path=")[2]) == '/a\nlevel=error b="c"'


def test_json_lines_hold_all_fields() -> None:
    fields = json.loads(JsonLines().format(record("job finished", job_id="1", seconds=0.5)))

    assert fields["message"] == "job finished"
    assert (fields["job_id"], fields["seconds"]) == ("1", 0.5)
    assert fields["time"].endswith("Z")
