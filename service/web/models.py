"""Models: /v1/models and /v1/models/{model}, as workers published them."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from flask import Blueprint, request

from service.store.models import ModelNotFound, PublishedModel
from service.store.workers import Workers, not_served
from service.web.answers import FOR_OPERATORS
from service.web.parameters import takes, words
from service.web.services import services
from service.webhooks import MODEL as DELIVERIES

blueprint = Blueprint("models", __name__)


@blueprint.get("/models")
@takes(repeated=("include",))
def list_models() -> dict[str, Any]:
    """All published models, by name; `warnings` say what of the workers' jobs folders is not served, and why.

    ?include=traceback: for operators, of those that have failed.
    """
    include = words("include", FOR_OPERATORS)
    models = [_shown(model, include) for model in services().models.all() if model.name != DELIVERIES]
    return {"models": models, "warnings": not_served(Workers(services().redis).all())}


@blueprint.get("/models/<name>")
@takes(repeated=("include",))
def show_model(name: str) -> dict[str, Any]:
    """One model. 404 if no worker ever published it. ?include=traceback: for operators, if it has failed."""
    include = words("include", FOR_OPERATORS)
    if name == DELIVERIES:
        raise ModelNotFound(name)
    return _shown(services().models.get(name), include)


def _shown(model: PublishedModel, include: Collection[str]) -> dict[str, Any]:
    more = {"traceback": model.traceback} if "traceback" in include else {}
    return {**model.to_json(request.script_root), **more}
