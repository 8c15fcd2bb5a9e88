"""Health: is this process alive, and can it take jobs."""

from __future__ import annotations

from typing import Any

import redis
from flask import Blueprint

from service.store import clocks, durability
from service.store.away import why
from service.store.workers import Workers, not_served
from service.web.services import services

blueprint = Blueprint("health", __name__)


@blueprint.get("/healthz")
def healthz() -> dict[str, str]:
    """200 as long as this process answers."""
    return {"status": "alive"}


@blueprint.get("/readyz")
def readyz() -> tuple[dict[str, Any], int]:
    """200 if Redis takes writes and at least one worker listens; else 503, and which of them fails, and why.

    `warnings`: what this Redis may lose by its settings, clocks that are wrong, and model files that are not served.
    """
    checks, warnings = {"redis": "ok", "workers": "ok"}, []
    try:
        durability.take_a_write(services().redis)
        warnings = durability.warnings(services().redis)
        workers = Workers(services().redis).all()
        warnings += clocks.warnings(services().redis, workers) + not_served(workers)
        serving = {name for model in services().models.all() for name in model.workers}
    except redis.exceptions.RedisError as error:
        checks = {"redis": why(error), "workers": "unknown"}
    else:
        if not serving:
            checks["workers"] = "no worker listens"
    ready = set(checks.values()) == {"ok"}
    return {"ready": ready, "checks": checks, "warnings": warnings}, 200 if ready else 503
