"""How long a caller will wait: `Prefer: wait=N` (RFC 7240) or `?wait=N`."""

from __future__ import annotations

import re

from flask import Request

from service.web.problems import Problem

_WAIT = re.compile(r"(?:^|,)\s*wait\s*=\s*\"?([^\",;]*)\"?", re.IGNORECASE)


def wait_seconds(request: Request, longest: float) -> float | None:
    """Seconds to hold the answer, at most `longest`; None if the caller will not wait. Raises Problem 400."""
    preferred = _WAIT.search(",".join(request.headers.getlist("Prefer")))
    text = preferred[1] if preferred else request.args.get("wait")
    if text is None:
        return None
    name = "Prefer: wait" if preferred else "wait"
    if not re.fullmatch(r"\d{1,9}(\.\d{1,3})?", text.strip()):
        detail = f"{name} is {text[:40]!r}: expected a number of seconds, 0 or more"
        raise Problem(400, "invalid-request", detail, [{"pointer": name, "detail": detail}])
    return min(float(text), longest)
