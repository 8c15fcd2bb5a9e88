"""Where things are, for whoever opens the root; and what each type of problem means."""

from __future__ import annotations

from typing import Any

from flask import Blueprint

from service.web.problems import TITLES, Problem

blueprint = Blueprint("index", __name__)


@blueprint.get("/")
def root() -> dict[str, Any]:
    """The entry points."""
    return {
        "service": "a job service for AI models",
        "urls": {
            "models": "/v1/models",
            "jobs": "/v1/jobs",
            "dashboard": "/dashboard/",
            "health": "/healthz",
            "readiness": "/readyz",
        },
    }


@blueprint.get("/problems/<kind>")
def problem(kind: str) -> dict[str, str]:
    """What a problem's `type` refers to."""
    if kind not in TITLES:
        raise Problem(404, "not-found", f"there is no problem of type {kind!r}")
    return {"type": f"/problems/{kind}", "title": TITLES[kind]}
