"""What the log says of a request that has changed something: who asked for what, at a level that shows by default."""

from __future__ import annotations

import logging
from typing import Any

from flask import request

log = logging.getLogger("service.web")


def tell(operation: str, on: str, **what: Any) -> None:
    """It was done, and `what` came of it; `on`: a job, a model, a queue or a worker."""
    log.warning(
        "a request was carried out",
        extra={
            "operation": operation,
            "on": on,
            **what,
            "request_id": request.environ.get("service.request_id", ""),
            "remote_address": request.remote_addr or "",
            "route": f"{request.method} {request.path}",
        },
    )
