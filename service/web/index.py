"""Where things are, for whoever opens the root; and what each type of problem means."""

from __future__ import annotations

from typing import Any

from flask import Blueprint, request

from service.web.problems import TITLES, Problem, type_of

blueprint = Blueprint("index", __name__)


@blueprint.get("/")
def root() -> dict[str, Any]:
    """The entry points."""
    root = request.script_root
    return {
        "service": "a job service for AI models",
        "urls": {
            "models": f"{root}/v1/models",
            "jobs": f"{root}/v1/jobs",
            "dashboard": f"{root}/dashboard/",
            "health": f"{root}/healthz",
            "readiness": f"{root}/readyz",
        },
    }


@blueprint.get("/problems/<kind>")
def problem(kind: str) -> dict[str, str]:
    """What a problem's `type` refers to."""
    if kind not in TITLES:
        raise Problem(404, "not-found", f"there is no problem of type {kind!r}")
    return {"type": type_of(kind), "title": TITLES[kind]}
