"""Deliveries: the calls of a job's webhook, each with its tries; and one of them again."""

from __future__ import annotations

from typing import Any

from flask import Blueprint, request

from service.store.job import DONE
from service.store.jobs import JobGone, JobNotFound
from service.store.webhooks import delivery_ids, delivery_json
from service.web.actions import tell
from service.web.parameters import limit, takes, wrong
from service.web.problems import Problem
from service.web.services import services

blueprint = Blueprint("deliveries", __name__)

MOST_PER_PAGE = 100


@blueprint.get("/jobs/<job_id>/deliveries")
@takes("after", "limit")
def list_deliveries(job_id: str) -> dict[str, Any]:
    """The deliveries of a job that are still kept, oldest first: up to ?limit=, ?after= one of them."""
    count = limit(MOST_PER_PAGE, MOST_PER_PAGE)
    ids = delivery_ids(services().jobs.read(job_id))
    after = request.args.get("after")
    if after is not None:
        if after not in ids:
            raise wrong("after", f"{after[:80]!r} is no delivery of this job", "invalid-cursor")
        ids = ids[ids.index(after) + 1 :]
    found = services().jobs.read_many(ids[:count])
    shown = [delivery_json(each, request.script_root) for each in found if each is not None]
    return {"deliveries": shown, "next": ids[count - 1] if len(ids) > count else None}


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
    tell("redeliver", delivery_id, job_id=job_id)
    return delivery_json(services().jobs.read(delivery_id), request.script_root), 202
