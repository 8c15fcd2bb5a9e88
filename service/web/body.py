"""The body of a request: JSON that is safe to work with, or a problem that says what is wrong."""

from __future__ import annotations

import json
import math
from codecs import BOM_UTF8
from collections import Counter
from typing import Any, NoReturn

from flask import Request
from werkzeug.exceptions import ClientDisconnected

from service.web.problems import Problem

MOST_LEVELS = 64
"""How deeply arrays and objects may be nested."""


class _Refused(ValueError):
    """It is JSON, and nothing to work with."""


def read_json(request: Request, most_bytes: int) -> Any:
    """The body as JSON. Raises Problem: 400 malformed, 413 too large, 415 another content type or coding."""
    _check_headers(request)
    data = _data(request, most_bytes)
    try:
        # Decoded here: json would take UTF-16 too, and bytes that are no characters.
        value = _DECODER.decode(data.decode())
    except RecursionError:
        raise _too_deep() from None
    except ValueError as error:
        raise Problem(400, "malformed-json", _why(data, error)) from None
    # Levels are counted only where there are brackets enough.
    if data.count(b"[") + data.count(b"{") > MOST_LEVELS and _levels(value) > MOST_LEVELS:
        raise _too_deep()
    return value


def _check_headers(request: Request) -> None:
    """Raises Problem 415."""
    if request.mimetype != "application/json" and not request.mimetype.endswith("+json"):
        given = request.mimetype or "none"
        raise Problem(415, "unsupported-media-type", f"Content-Type is {given}: expected application/json")
    charset = request.mimetype_params.get("charset", "utf-8").lower()
    if charset not in ("utf-8", "utf8", "us-ascii"):
        raise Problem(415, "unsupported-media-type", f"charset is {charset[:40]}: JSON is UTF-8")
    coding = request.environ.get("HTTP_CONTENT_ENCODING", "identity")
    if coding.lower() != "identity":
        detail = f"Content-Encoding is {coding[:40]}: send the body as it is"
        problem = Problem(415, "unsupported-media-type", detail)
        problem.headers["Accept-Encoding"] = "identity"  # RFC 9110, section 15.5.16
        raise problem


def _why(data: bytes, error: ValueError) -> str:
    """What is said of a body that could not be parsed."""
    if data.startswith(BOM_UTF8):
        return "the body begins with a byte order mark: leave it out (RFC 8259, section 8.1)"
    if isinstance(error, (_Refused, UnicodeDecodeError, json.JSONDecodeError)):
        return f"the body is not JSON: {error}"
    return "the body has an integer of more than 4300 digits"


def _finite(text: str) -> float:
    value = float(text)
    if math.isinf(value):
        raise _Refused(f"{text[:40]} is more than a double holds")
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
    raise _Refused(f"{name} is no JSON number")


def _without_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):  # which of them is meant, each reader would decide for itself
        counts = Counter(name for name, _ in pairs)
        raise _Refused(f"an object has the name {counts.most_common(1)[0][0][:64]!r} more than once")
    return found


# json.loads would make one each time.
_DECODER = json.JSONDecoder(parse_constant=_refuse_constant, parse_float=_finite, object_pairs_hook=_without_duplicates)


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
