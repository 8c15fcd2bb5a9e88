"""How long a caller will wait: `Prefer: wait=N` (RFC 7240) or `?wait=N`."""

from __future__ import annotations

import re
from typing import NamedTuple

from flask import Request

from service.web.parameters import wrong

_WAIT = re.compile(r"(?:^|,)\s*wait\s*=\s*\"?([^\",;]*)\"?", re.IGNORECASE)
_SECONDS = re.compile(r"[0-9]{1,9}(\.[0-9]{1,3})?")


class Patience(NamedTuple):
    """Seconds to hold the answer, and whether that was said with Prefer."""

    seconds: float
    preferred: bool


IMPATIENT = Patience(0, False)


def patience_of(request: Request, longest: float) -> Patience:
    """How long the caller will wait, at most `longest`. Raises Problem 400 for a ?wait= that is no number.

    A preference that cannot be understood is passed over, as RFC 7240 demands; of several the first counts.
    """
    # WSGI has joined several headers into one: getlist would only look through all of them.
    preference = request.environ.get("HTTP_PREFER")
    preferred = _WAIT.search(preference) if preference else None
    if preferred and _SECONDS.fullmatch(preferred[1].strip()):
        return Patience(min(float(preferred[1]), longest), True)
    text = request.args.get("wait") if request.environ["QUERY_STRING"] else None
    if text is None:
        return IMPATIENT
    if not _SECONDS.fullmatch(text):
        raise wrong("wait", f"{text[:40]!r} is not a number of seconds, 0 or more")
    return Patience(min(float(text), longest), False)
