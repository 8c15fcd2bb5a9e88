"""What an operator must say before something is done that is hard to undo."""

from __future__ import annotations

import json
from typing import Any

from flask import request

from service.web.body import read_json
from service.web.mistakes import pointer
from service.web.problems import Problem
from service.web.services import services


def confirmed(name: str, *flags: str) -> frozenset[str]:
    """Make sure that the body of the request repeats the name of what it acts on; those of the flags that are true.

    Raises Problem: 422 if it does not, or has other fields.
    """
    body = _body()
    if body.get("confirm") != name:
        detail = f"send {json.dumps({'confirm': name}, ensure_ascii=False)} to confirm that this is what you mean"
        raise Problem(422, "not-confirmed", detail, [{"pointer": "#/confirm", "detail": detail}])
    errors = []
    for field, value in body.items():
        if field not in ("confirm", *flags):
            errors.append({"pointer": pointer([field[:64]]), "detail": "Unknown field"})
        elif field in flags and not isinstance(value, bool):
            errors.append({"pointer": f"#/{field}", "detail": "Input should be true or false"})
    if errors:
        raise Problem(422, "invalid-request", f"{errors[0]['pointer'][2:]}: {errors[0]['detail']}", errors[:20])
    return frozenset(flag for flag in flags if body.get(flag))


def _body() -> dict[str, Any]:
    # No body at all is a request that is not confirmed, rather than one of a wrong type.
    if not request.content_length and "Transfer-Encoding" not in request.headers:
        return {}
    value = read_json(request, services().settings.max_body_bytes)
    return value if isinstance(value, dict) else {}
