"""The body of a request: JSON that is safe to work with, or a problem that says what is wrong."""

from __future__ import annotations

import json
import math
from typing import Any, NoReturn

from flask import Request
from werkzeug.exceptions import ClientDisconnected

from service.web.problems import Problem

MOST_LEVELS = 64
"""How deeply arrays and objects may be nested."""


def read_json(request: Request, most_bytes: int) -> Any:
    """The body as JSON. Raises Problem: 400 malformed, 413 too large, 415 another content type."""
    if request.mimetype != "application/json" and not request.mimetype.endswith("+json"):
        given = request.mimetype or "none"
        raise Problem(415, "unsupported-media-type", f"Content-Type is {given}: expected application/json")
    data = _data(request, most_bytes)
    try:
        # Decoded here: json would take UTF-16 too, and bytes that are no characters.
        value = _DECODER.decode(data.decode())
    except RecursionError:
        raise _too_deep() from None
    except ValueError as error:  # also: not UTF-8, an integer of thousands of digits
        raise Problem(400, "malformed-json", f"the body is not JSON: {error}") from None
    # Levels are counted only where there are brackets enough.
    if data.count(b"[") + data.count(b"{") > MOST_LEVELS and _levels(value) > MOST_LEVELS:
        raise _too_deep()
    return value


def _finite(text: str) -> float:
    value = float(text)
    if math.isinf(value):
        raise ValueError(f"{text[:40]} is more than a double holds")
    return value


def _data(request: Request, most_bytes: int) -> bytes:
    """The bytes of the body. Raises Problem 413."""
    length = request.environ.get("CONTENT_LENGTH", "")
    if not length.isdigit():  # it comes in chunks
        data: bytes = request.get_data(cache=False)
        if len(data) > most_bytes:
            raise _too_large(most_bytes)
        return data
    if int(length) > most_bytes:
        raise _too_large(most_bytes)
    # Not with get_data: its streams and their checks take longer than all that JSON needs.
    data = request.environ["wsgi.input"].read(int(length))
    if len(data) < int(length):
        raise ClientDisconnected
    return data


def _too_large(most_bytes: int) -> Problem:
    return Problem(413, "too-large", f"the body is larger than {most_bytes} bytes")


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no JSON number")


_DECODER = json.JSONDecoder(parse_constant=_refuse_constant, parse_float=_finite)  # json.loads would make one each time


def _too_deep() -> Problem:
    return Problem(400, "malformed-json", f"the body is nested more than {MOST_LEVELS} levels deep")


def _levels(value: Any) -> int:
    """How deeply a value is nested; without recursion, and no further than is needed."""
    level, depth = [value], 0
    while level and depth <= MOST_LEVELS:
        inner: list[Any] = []
        for each in level:
            if isinstance(each, dict):
                inner.extend(each.values())
            elif isinstance(each, list):
                inner.extend(each)
        depth += any(isinstance(each, (dict, list)) for each in level)
        level = [each for each in inner if isinstance(each, (dict, list))]
    return depth
