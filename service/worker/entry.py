"""The function that every job of this service names; our worker never calls it.

It is here so that the jobs are plain RQ jobs: a stock RQ worker on the same queues can run them too,
without warm models, progress and events.
"""

from __future__ import annotations

import json
from functools import cache
from typing import Any

from service.registry import Found, find_models
from service.settings import Settings
from service.worker.prediction import predict


def run(model: str, value: dict[str, Any]) -> Any:
    """Call a model of the jobs folder with an input and return its output. Raises what the model raises."""
    found = _models()[model]
    instance = found.model.target() if found.model.has_setup else None
    if hasattr(instance, "setup"):
        instance.setup()
    return json.loads(predict(found.model, instance, value, lambda item: None, Settings().max_output_bytes))


@cache
def _models() -> dict[str, Found]:
    return find_models(Settings().jobs_dir)[0]
