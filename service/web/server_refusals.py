"""What is said to a client whose request cannot be read: a problem like any other, on a connection that ends."""

from __future__ import annotations

import logging
from email.utils import formatdate
from typing import Any

from gunicorn.http import errors

from service.web.access_log import request_id
from service.web.problems import Problem, unavailable
from service.web.server_chunks import TooLarge

log = logging.getLogger("service.web")

LONGEST_DETAIL = 200
"""Characters that are said of what was wrong: it repeats what the client sent."""

OURS = (errors.InvalidResponseHeader, errors.InvalidResponseHeaderName)
"""gunicorn makes them kinds of what a client does."""


class TooLate(Exception):
    """A request was not whole in time."""


class CutOff(Exception):
    """The client ended its side in the middle of a request."""


class NoRoom(Exception):
    """There are too many half requests; the client may try again."""


def answer(error: Exception, request: Any, most_body: int) -> bytes:
    """The whole answer to a request that cannot be read; `request`: what gunicorn knows of it, if anything."""
    headers = dict(request.headers) if request is not None else {}
    problem_id = request_id(headers.get("X-REQUEST-ID"))
    problem = _problem(error, most_body)
    level = logging.WARNING if problem.status == 500 else logging.INFO
    extra = {"request_id": problem_id, "status": problem.status, "reason": problem.detail}
    log.log(level, "request refused", extra=extra, exc_info=error if problem.status == 500 else None)
    response = problem.response()
    response.headers.update({"X-Request-ID": problem_id, "Date": formatdate(usegmt=True), "Connection": "close"})
    lines = "".join(f"{name}: {value}\r\n" for name, value in response.headers)
    return f"HTTP/1.1 {response.status}\r\n{lines}\r\n".encode("latin-1") + response.get_data()


def _problem(error: Exception, most_body: int) -> Problem:
    if isinstance(error, OURS):
        return Problem(500, "internal", "the web process's log tells more, under this request's X-Request-ID")
    if isinstance(error, TooLarge):
        return Problem(413, "too-large", f"the body is larger than {most_body} bytes")
    if isinstance(error, NoRoom):
        return unavailable("the service waits for too many half requests: try again")
    for kinds, status, kind in _KNOWN:
        if isinstance(error, kinds):
            return Problem(status, kind, str(error)[:LONGEST_DETAIL] or "the request cannot be read")
    return Problem(500, "internal", "the web process's log tells more, under this request's X-Request-ID")


_KNOWN: list[tuple[type[Exception], int, str]] = [
    (TooLate, 408, "request-timeout"),
    (CutOff, 400, "bad-request"),
    (errors.LimitRequestLine, 414, "uri-too-long"),
    (errors.LimitRequestHeaders, 431, "headers-too-large"),
    (errors.ExpectationFailed, 417, "expectation-failed"),
    (errors.UnsupportedTransferCoding, 501, "not-implemented"),
    (errors.ConfigurationProblem, 404, "not-found"),  # the path is not under the environment's SCRIPT_NAME
    (errors.ParseException, 400, "bad-request"),
]
