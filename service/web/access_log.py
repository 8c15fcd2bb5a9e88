"""One log line a request, and an id that ties it to what else is logged about it."""

from __future__ import annotations

import logging
import re
import time
from random import Random

from flask import Flask, Response, request

from service.web.held import HeldUntilDone

log = logging.getLogger("service.web")

_random = Random()  # noqa: S311  # need not be a secret; os.urandom gives way to the other threads each time
_REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")


def install(app: Flask) -> None:
    """Give each request an id, the caller's X-Request-ID if it sends one, and log its answer."""
    app.before_request(_begin)
    app.after_request(_end)


def about(job_id: str) -> None:
    """Say which job the current request made."""
    request.environ["service.job_id"] = job_id


def answered(status: int) -> None:
    """Say with which status the current request was answered, where its response does not."""
    request.environ["service.status"] = status


def request_id(given: str | None) -> str:
    """The id of a request: the one that its caller gave, if it is fit, else a new one."""
    return given if given and _REQUEST_ID.fullmatch(given) else f"{_random.getrandbits(128):032x}"


def _begin() -> None:
    # In the environ and not in flask.g: an answer that is held has another context, with a g of its own.
    environ = request.environ
    environ["service.request_id"] = request_id(environ.get("HTTP_X_REQUEST_ID"))
    environ["service.began_at"] = time.monotonic()


def _end(response: Response) -> Response:
    request_id = response.headers["X-Request-ID"] = request.environ["service.request_id"]
    if isinstance(response, HeldUntilDone):
        return response  # that is told when it is given
    failed = response.status_code >= 500 and request.blueprint != "health"  # /readyz answers 503 by design
    level = logging.WARNING if failed else logging.INFO
    if not log.isEnabledFor(level):
        return response
    job_id = request.environ.get("service.job_id") or (request.view_args or {}).get("job_id")
    log.log(
        level,
        "request",
        extra={
            "request_id": request_id,
            "method": request.method,
            "path": request.path,
            "status": request.environ.get("service.status", response.status_code),
            "seconds": round(time.monotonic() - request.environ["service.began_at"], 4),
            **({"job_id": job_id} if job_id else {}),
        },
    )
    return response
