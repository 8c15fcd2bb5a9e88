"""Models: /v1/models and /v1/models/{model}, as workers published them."""

from __future__ import annotations

from typing import Any

from flask import Blueprint, request

from service.store.models import ModelNotFound
from service.store.webhooks import MODEL as DELIVERIES
from service.web.services import services

blueprint = Blueprint("models", __name__)


@blueprint.get("/models")
def list_models() -> dict[str, Any]:
    """All published models, by name."""
    return {
        "models": [model.to_json(request.script_root) for model in services().models.all() if model.name != DELIVERIES]
    }


@blueprint.get("/models/<name>")
def show_model(name: str) -> dict[str, Any]:
    """One model. 404 if no worker ever published it."""
    if name == DELIVERIES:
        raise ModelNotFound(name)
    return services().models.get(name).to_json(request.script_root)
