"""One log line a request, and an id that ties it to what else is logged about it."""

from __future__ import annotations

import logging
import re
import time
import uuid

from flask import Flask, Response, g, request

log = logging.getLogger("service.web")

_REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")


def install(app: Flask) -> None:
    """Give each request an id, the caller's X-Request-ID if it sends one, and log its answer."""
    app.before_request(_begin)
    app.after_request(_end)


def _begin() -> None:
    given = request.headers.get("X-Request-ID", "")
    g.request_id = given if _REQUEST_ID.fullmatch(given) else uuid.uuid4().hex
    g.began_at = time.monotonic()


def _end(response: Response) -> Response:
    response.headers["X-Request-ID"] = g.request_id
    job_id = g.get("job_id") or (request.view_args or {}).get("job_id")
    failed = response.status_code >= 500 and request.blueprint != "health"  # /readyz answers 503 by design
    log.log(
        logging.WARNING if failed else logging.INFO,
        "request",
        extra={
            "request_id": g.request_id,
            "method": request.method,
            "path": request.path,
            "status": response.status_code,
            "seconds": round(time.monotonic() - g.began_at, 4),
            **({"job_id": job_id} if job_id else {}),
        },
    )
    return response
