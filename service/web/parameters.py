"""Query parameters: checked, or a problem that names the one that is wrong."""

from __future__ import annotations

import re

from flask import request

from service.web.problems import Problem


def limit(default: int, most: int) -> int:
    """How many the caller wants at most. Raises Problem 400."""
    text = request.args.get("limit", str(default))
    if not re.fullmatch("[0-9]{1,4}", text) or not 1 <= int(text) <= most:
        raise wrong("limit", f"{text[:40]!r} is not a number from 1 to {most}")
    return int(text)


def wrong(parameter: str, detail: str) -> Problem:
    """What is said of a parameter that has a value it cannot have."""
    return Problem(400, "invalid-request", f"{parameter}: {detail}", [{"pointer": parameter, "detail": detail}])
