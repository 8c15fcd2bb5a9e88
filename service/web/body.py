"""The body of a request: JSON that is safe to work with, or a problem that says what is wrong."""

from __future__ import annotations

import json
from typing import Any, NoReturn

from flask import Request

from service.web.problems import Problem

MOST_LEVELS = 64
"""How deeply arrays and objects may be nested."""


def read_json(request: Request) -> Any:
    """The body as JSON. Raises Problem: 400 malformed, 413 too large, 415 another content type."""
    if request.mimetype != "application/json" and not request.mimetype.endswith("+json"):
        given = request.mimetype or "none"
        raise Problem(415, "unsupported-media-type", f"Content-Type is {given}: expected application/json")
    data = request.get_data(cache=False)  # raises 413 over MAX_CONTENT_LENGTH
    try:
        value = json.loads(data, parse_constant=_refuse_constant)
    except RecursionError:
        raise _too_deep() from None
    except ValueError as error:  # also: not UTF-8, an integer of thousands of digits
        raise Problem(400, "malformed-json", f"the body is not JSON: {error}") from None
    if _levels(value) > MOST_LEVELS:
        raise _too_deep()
    return value


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no JSON number")


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
