"""The body of a request: JSON that is safe to work with, or a problem that says what is wrong."""

from __future__ import annotations

from typing import Any

from flask import Request
from werkzeug.exceptions import ClientDisconnected

from service.web.problems import Problem
from service.web.strict_json import NotJson, decode


def read_json(request: Request, most_bytes: int) -> Any:
    """The body as JSON. Raises Problem: 400 malformed, 413 too large, 415 another content type or coding."""
    _check_headers(request)
    data = _data(request, most_bytes)
    try:
        return decode(data)
    except NotJson as error:
        raise Problem(400, "malformed-json", f"the body {error}") from None


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
