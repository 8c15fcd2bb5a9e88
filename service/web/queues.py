"""Queues: /v1/queues, and what operators do to one of them, or to the three of a model: pause, resume, purge."""

from __future__ import annotations

from typing import Any

from flask import Blueprint

from service.store import keys
from service.store.queues import Queues
from service.web.actions import tell
from service.web.confirmation import confirmed
from service.web.services import services

blueprint = Blueprint("queues", __name__)


@blueprint.get("/queues")
def list_queues() -> dict[str, Any]:
    """All queues, by model and priority."""
    return {"queues": [queue.to_json() for queue in Queues(services().redis).all()]}


@blueprint.post("/queues/<name>/<any(pause, resume, purge):operation>")
def operate_on_queue(name: str, operation: str) -> dict[str, Any]:
    """Do it to one queue. Raises QueueNotFound, Problem 422."""
    Queues(services().redis).check(name)
    return _operate(operation, name, [name])


@blueprint.post("/models/<name>/<any(pause, resume, purge):operation>")
def operate_on_model(name: str, operation: str) -> dict[str, Any]:
    """Do it to all queues of a model. Raises ModelNotFound, Problem 422."""
    services().models.described(name)
    return _operate(operation, name, keys.queues_of(name))


def _operate(operation: str, name: str, queues: list[str]) -> dict[str, Any]:
    confirmed(name)
    operations = services().operations
    done: dict[str, Any]
    if operation == "purge":
        done = {"canceled": operations.purge(queues)}
    elif operation == "pause":
        operations.pause(queues)
        done = {"paused": True}
    else:
        operations.resume(queues)
        done = {"paused": False}
    tell(operation, name, queues=",".join(queues), **done)
    return {"queues": queues, **done}
