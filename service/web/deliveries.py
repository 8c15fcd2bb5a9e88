"""Deliveries: the calls of a job's webhook, each with its tries; and one of them again."""

from __future__ import annotations

from typing import Any

from flask import Blueprint

from service.store.job import DONE
from service.store.jobs import JobGone, JobNotFound
from service.store.webhooks import delivery_ids, delivery_json
from service.web.problems import Problem
from service.web.services import services

blueprint = Blueprint("deliveries", __name__)


@blueprint.get("/jobs/<job_id>/deliveries")
def list_deliveries(job_id: str) -> dict[str, Any]:
    """All deliveries of a job that are still kept, oldest first."""
    job = services().jobs.read(job_id)
    found = services().jobs.read_many(delivery_ids(job))
    return {"deliveries": [delivery_json(each) for each in found if each is not None]}


@blueprint.post("/jobs/<job_id>/deliveries/<delivery_id>/redeliver")
def redeliver(job_id: str, delivery_id: str) -> tuple[dict[str, Any], int]:
    """202: it is sent again, now, with all its tries, under the same webhook-id."""
    unknown = Problem(404, "delivery-not-found", f"job {job_id} has no delivery {delivery_id[:200]}")
    if delivery_id not in delivery_ids(services().jobs.read(job_id)):
        raise unknown
    try:
        services().operations.retry(delivery_id, DONE | {"scheduled"})
    except (JobNotFound, JobGone):
        raise unknown from None
    return delivery_json(services().jobs.read(delivery_id)), 202
