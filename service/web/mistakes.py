"""What is wrong with an input, as every answer says it: where, and in which way."""

from __future__ import annotations

from itertools import islice
from typing import Any

from service.web.input_check import InputCheck

MOST_ERRORS = 20


def mistakes(check: InputCheck, value: dict[str, Any]) -> list[dict[str, str]]:
    """[{"pointer", "detail"}] of each wrong field, of the first MOST_ERRORS; none if the input fits."""
    if check.takes(value):
        return []
    found = islice(check.mistakes(value), MOST_ERRORS)
    return [{"pointer": pointer(["input", *each.path]), "detail": each.detail} for each in found]


def pointer(path: Any) -> str:
    """A JSON pointer (RFC 6901) as a URI fragment."""
    return "#" + "".join("/" + str(part).replace("~", "~0").replace("/", "~1") for part in path)


def summary(errors: list[dict[str, str]]) -> str:
    """All of it in a line."""
    first, *more = errors
    rest = f" (and {len(more)} more)" if more else ""
    return f"{first['pointer'].removeprefix('#/').replace('/', '.') or 'body'}: {first['detail']}{rest}"
