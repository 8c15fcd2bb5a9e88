"""The same submission twice is one job: keys and ids of the caller's choice."""

from __future__ import annotations

import hashlib
import json
import re
from typing import Any

from flask import Request

from service.web.parameters import wrong_header

CHOSEN_ID = "[A-Za-z0-9_-]{1,64}"
"""What a caller may choose as a job's id, a regular expression."""
_ENCODER = json.JSONEncoder(sort_keys=True, separators=(",", ":"))  # json.dumps would make one each time
_KEY = re.compile(r"[\x21-\x7e]{1,255}")


def fingerprint(model: str, value: Any) -> str:
    """What tells two submissions apart, whatever the order of their fields."""
    text = _ENCODER.encode([model, value])
    return hashlib.sha256(text.encode()).hexdigest()


def idempotency_key(request: Request) -> str | None:
    """The caller's key, if it sent one. Raises Problem 400.

    Source: draft-ietf-httpapi-idempotency-key-header-07; a string in quotes there, but most send it bare.
    """
    text = request.headers.get("Idempotency-Key")
    if text is None:
        return None
    key = text[1:-1] if len(text) > 1 and text[0] == text[-1] == '"' else text
    if not _KEY.fullmatch(key):
        detail = f"{text[:40]!r} is not 1 to 255 printable ASCII characters without spaces"
        raise wrong_header("Idempotency-Key", detail)
    return key
