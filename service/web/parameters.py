"""Query parameters: each route says which it takes; a problem names the one that is wrong."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any, TypeVar

from flask import Flask, Request, current_app, request

from service.web.problems import Problem

View = TypeVar("View", bound=Callable[..., Any])

MOST_ERRORS = 20
_NOT_OURS = ("static", "rq_dashboard")
"""An endpoint and a blueprint that others have written: they take what they like."""


def install(app: Flask) -> None:
    """Refuse the parameters that a route does not take, as fields of a body that nobody knows are refused."""
    app.before_request(_check)


def takes(*names: str, repeated: tuple[str, ...] = ()) -> Callable[[View], View]:
    """Say which query parameters a view takes; those `repeated` may be given more than once."""

    def mark(view: View) -> View:
        view.__dict__["query_parameters"] = dict.fromkeys(names, False) | dict.fromkeys(repeated, True)
        return view

    return mark


def check() -> None:
    """Look at the current request's. Raises Problem 400."""
    known: dict[str, bool] = getattr(current_app.view_functions[request.endpoint or ""], "query_parameters", {})
    errors = []
    for name, values in request.args.lists():
        if name not in known:
            allowed = ", ".join(sorted(known)) or "none"
            errors.append({"parameter": name[:64], "detail": f"unknown query parameter; allowed: {allowed}"})
        elif len(values) > 1 and not known[name]:
            errors.append({"parameter": name, "detail": "it is given more than once"})
    if errors:
        first = errors[0]
        raise Problem(400, "invalid-request", f"{first['parameter']}: {first['detail']}", errors[:MOST_ERRORS])


def limit(default: int, most: int) -> int:
    """How many the caller wants at most. Raises Problem 400."""
    text = request.args.get("limit", str(default))
    if not re.fullmatch("[0-9]{1,4}", text) or not 1 <= int(text) <= most:
        raise wrong("limit", f"{text[:40]!r} is not a number from 1 to {most}")
    return int(text)


def words(name: str, allowed: frozenset[str]) -> frozenset[str]:
    """The words of a parameter that lists some, by commas or by being repeated. Raises Problem 400."""
    asked = frozenset(word for text in request.args.getlist(name) for word in text.split(","))
    if unknown := asked - allowed:
        raise wrong(name, f"{min(unknown)[:40]!r} is not allowed here; allowed: {', '.join(sorted(allowed))}")
    return asked


def wrong(parameter: str, detail: str, kind: str = "invalid-request") -> Problem:
    """What is said of a parameter, of the query or the path, that has a value it cannot have."""
    return Problem(400, kind, f"{parameter}: {detail}", [{"parameter": parameter, "detail": detail}])


def wrong_header(header: str, detail: str, kind: str = "invalid-request") -> Problem:
    """The same of a header field."""
    return Problem(400, kind, f"{header}: {detail}", [{"header": header, "detail": detail}])


def is_websocket(request: Request) -> bool:
    """Whether it asks for a WebSocket."""
    return bool(request.environ.get("HTTP_UPGRADE", "").lower() == "websocket")


def _check() -> None:
    # Of a WebSocket after its handshake: a browser does not show what answers one that is refused.
    if not request.environ["QUERY_STRING"] or request.endpoint is None or is_websocket(request):
        return
    if request.endpoint not in _NOT_OURS and request.blueprint not in _NOT_OURS:
        check()
