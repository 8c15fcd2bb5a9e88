"""JSON that is safe to work with: of bytes that are not, it is said why."""

from __future__ import annotations

import json
import math
from codecs import BOM_UTF8
from collections import Counter
from typing import Any, NoReturn

MOST_LEVELS = 64
"""How deeply arrays and objects may be nested."""


class NotJson(ValueError):
    """It is no JSON, or none to work with; the message goes on after the name of what it is."""


class _Refused(ValueError):
    """It is JSON, and nothing to work with."""


def decode(data: bytes) -> Any:
    """What the JSON says. Raises NotJson."""
    try:
        # Decoded here: json would take UTF-16 too, and bytes that are no characters.
        value = _DECODER.decode(data.decode())
    except RecursionError:
        raise _too_deep() from None
    except ValueError as error:
        raise NotJson(_why(data, error)) from None
    # Levels are counted only where there are brackets enough.
    if data.count(b"[") + data.count(b"{") > MOST_LEVELS and _levels(value) > MOST_LEVELS:
        raise _too_deep()
    return value


def _why(data: bytes, error: ValueError) -> str:
    if data.startswith(BOM_UTF8):
        return "begins with a byte order mark: leave it out (RFC 8259, section 8.1)"
    if isinstance(error, (_Refused, UnicodeDecodeError, json.JSONDecodeError)):
        return f"is not JSON: {error}"
    return "has an integer of more than 4300 digits"


def _finite(text: str) -> float:
    value = float(text)
    if math.isinf(value):
        raise _Refused(f"{text[:40]} is more than a double holds")
    return value


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


def _too_deep() -> NotJson:
    return NotJson(f"is nested more than {MOST_LEVELS} levels deep")


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
