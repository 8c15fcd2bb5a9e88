"""Jobs that have failed are run again: one of them, or all of a model."""

from __future__ import annotations

from typing import Any

from flask import Blueprint, Response

from service.store import keys
from service.store.operations import FAILED, FAILED_OR_STOPPED
from service.web.actions import tell
from service.web.answers import job_answer
from service.web.confirmation import confirmed
from service.web.services import services

blueprint = Blueprint("requeue", __name__)


@blueprint.post("/jobs/<job_id>/retry")
def retry(job_id: str) -> Response:
    """Queue a job again that has failed or was stopped: 202 with the job. Raises JobNotFailed, JobNotFound, JobGone."""
    services().operations.retry(job_id)
    tell("retry", job_id)
    return job_answer(services().jobs.read(job_id), 202)


@blueprint.post("/models/<name>/requeue")
def requeue(name: str) -> dict[str, Any]:
    """Queue all failed jobs of a model again, and on demand the stopped ones. Raises ModelNotFound, Problem 422."""
    services().models.described(name)
    flags = confirmed(name, "stopped")
    queues = keys.queues_of(name)
    done = {"requeued": services().operations.requeue(queues, FAILED_OR_STOPPED if "stopped" in flags else FAILED)}
    tell("requeue", name, queues=",".join(queues), **done)
    return {"queues": queues, **done}
