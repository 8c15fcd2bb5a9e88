"""The function that every job of this service names; our worker never calls it.

It is here so that the jobs are plain RQ jobs: a stock RQ worker on the same queues can run them too,
without warm models, progress and events.
"""

from __future__ import annotations

import json
from functools import cache
from typing import Any, cast

from rq import get_current_job

from service.registry import Found, find_models
from service.secret_fields import restored
from service.settings import Settings
from service.worker.prediction import predict


def run(model: str, value: dict[str, Any]) -> Any:
    """Call a model of the jobs folder with an input and return its output. Raises what the model raises."""
    found = _models()[model]
    value = _with_secrets(value)
    instance = found.model.target() if found.model.has_setup else None
    if hasattr(instance, "setup"):
        instance.setup()
    return json.loads(predict(found.model, instance, value, lambda item: None, Settings().max_output_bytes))


def _with_secrets(value: dict[str, Any]) -> dict[str, Any]:
    """What RQ's own worker has read of the job has them masked."""
    job = get_current_job()
    text = job.connection.hget(job.key, "secrets") if job is not None else None
    return cast("dict[str, Any]", restored(value, json.loads(text))) if text else value


@cache
def _models() -> dict[str, Found]:
    return find_models(Settings().jobs_dir)[0]
