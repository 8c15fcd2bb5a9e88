"""Workers: /v1/workers, those in RQ's books; and one can be told to drain."""

from __future__ import annotations

from typing import Any

from flask import Blueprint

from service.store import clocks
from service.store.workers import Workers
from service.web.actions import tell
from service.web.confirmation import confirmed
from service.web.services import services

blueprint = Blueprint("workers", __name__)


@blueprint.get("/workers")
def list_workers() -> dict[str, Any]:
    """All workers that live, by name; `warnings` of clocks that are wrong."""
    workers = Workers(services().redis).all()
    return {
        "workers": [worker.to_json() for worker in workers],
        "warnings": clocks.warnings(services().redis, workers),
    }


@blueprint.post("/workers/<name>/drain")
def drain(name: str) -> tuple[dict[str, Any], int]:
    """Tell a worker to drain: 202, it listens and was told.

    Raises WorkerNotFound, WorkerCannotDrain, WorkerNotListening, Problem 422.
    """
    workers = Workers(services().redis)
    workers.check(name)
    confirmed(name)
    workers.drain(name)
    tell("drain", name)
    return {"worker": name, "state": "draining"}, 202
