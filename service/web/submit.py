"""Submit: a job is checked and accepted."""

from __future__ import annotations

import math
import re
from dataclasses import replace
from typing import Any

from flask import Blueprint, Response, request

from service.relay.loop import TooManyWaiters
from service.store.away import REDIS_IS_AWAY
from service.store.job import Job, urls
from service.store.jobs import Identity, JobGone, QueueFull, Submission
from service.store.models import ModelNotFound
from service.store.retry_policy import RetryPolicy
from service.store.webhooks import ID_PREFIX, Webhook
from service.web import access_log
from service.web.answers import asked_patience, job_answer
from service.web.body import read_json
from service.web.held import until_done
from service.web.idempotency import CHOSEN_ID, fingerprint, idempotency_key
from service.web.parameters import takes, wrong
from service.web.preferences import Patience
from service.web.problems import Problem
from service.web.services import services
from service.web.validation import Described, SubmitBody, WebhookBody, put_body, submit_body
from service.webhooks import MODEL as DELIVERIES
from service.webhooks.address import check_url, parse_allowed

blueprint = Blueprint("submit", __name__)

PATIENCE_WITHOUT_RATE, LONGEST_RETRY_AFTER = 60, 3600
"""Seconds, of a caller that meets a full queue."""


@blueprint.post("/models/<name>/jobs")
@takes("wait")
def submit(name: str) -> Response:
    """Accept a job: 202; or, if the caller waits and it finishes in time, 200 with the result.

    With an Idempotency-Key the same request again gives the same job.
    """
    patience, published = asked_patience(), _described(name)
    key = idempotency_key(request)
    value = read_json(request, services().settings.max_body_bytes)
    identity = Identity(fingerprint(name, value), idempotency_key=key)
    return _accept(patience, published, submit_body(value), identity)


@blueprint.put("/jobs/<job_id>")
@takes("wait")
def put(job_id: str) -> Response:
    """The same with an id of the caller's choice, and the model in the body; the same again gives the same job."""
    if not re.fullmatch(CHOSEN_ID, job_id):
        raise wrong("id", f"{job_id[:80]!r} does not match {CHOSEN_ID}")
    if job_id.startswith(ID_PREFIX):
        raise wrong("id", f"{job_id[:80]!r} starts with {ID_PREFIX}, as the service's own do")
    patience = asked_patience()
    value = read_json(request, services().settings.max_body_bytes)
    body = put_body(value)
    published = _described(body.model)
    return _accept(patience, published, body, Identity(fingerprint(body.model, value), job_id))


def _check(published: Described, value: dict[str, Any]) -> None:
    if not published.callable:
        name = published.model["name"]
        raise Problem(503, "model-unavailable", f"the file of {name} cannot be imported; see /v1/models/{name}")
    published.check(value)


def _described(name: str) -> Described:
    if name == DELIVERIES:  # it goes wherever its input says
        raise ModelNotFound(name)
    return services().descriptions.recent(name)


def _accept(patience: Patience, published: Described, body: SubmitBody, identity: Identity) -> Response:
    try:
        _check(published, body.input)
    except Problem:  # which the model may have mended a moment ago
        published = services().descriptions.latest(published.model["name"])
        _check(published, body.input)
    model = published.model
    shown, secrets = published.secret_fields.split(body.input)
    job = _submitted(
        Submission(
            model=model["name"],
            version=model["version"],
            input=shown,
            secrets=secrets,
            timeout=body.timeout or model["timeout"],
            retries=model["retries"] if body.retries is None else body.retries,
            retry_policy=_retry_policy(published, body),
            priority=body.priority,
            start_timeout=body.start_timeout,
            result_ttl=body.result_ttl or model["result_ttl"],
            metadata=body.metadata,
            webhook=_webhook(body.webhook),
            max_queued=model.get("max_queued") or services().settings.max_queued,
            identity=identity,
        )
    )
    access_log.about(job.id)
    replayed = {"Idempotent-Replayed": "true"} if job.replayed else {}

    def answer(job: Job) -> Response:
        ready = services().descriptions.ready(model["name"])
        response = job_answer(job, 200 if job.status == "finished" else 202, patience, ready=ready)
        response.headers.update({"Location": urls(job.id, request.script_root)["self"], **replayed})
        return response

    if job.done or not patience.seconds:
        return answer(job)
    try:
        return until_done(job, patience.seconds, answer, (*REDIS_IS_AWAY, JobGone))  # it is accepted, whatever comes
    except TooManyWaiters:
        return answer(job)


def _submitted(submission: Submission) -> Job:
    try:
        return services().jobs.submit(submission)
    except QueueFull as full:
        (waiting,) = full.args
        problem = Problem(
            429, "queue-full", f"{waiting} jobs of {submission.model} wait: no more than {submission.max_queued} may"
        )
        rate = services().models.get(submission.model).rate
        # Until there is room for a tenth of them: many callers are told the same.
        wait = max(1, submission.max_queued / 10) / rate if rate else PATIENCE_WITHOUT_RATE
        problem.headers["Retry-After"] = str(math.ceil(min(max(wait, 1), LONGEST_RETRY_AFTER)))
        raise problem from None


def _webhook(asked: WebhookBody | None) -> Webhook | None:
    """The caller's webhook. Raises Problem 422."""
    if asked is None:
        return None
    settings = services().settings
    if not settings.webhook_secret:
        raise _wrong_webhook("#/webhook", "this service sends no webhooks: it has no WEBHOOK_SECRET to sign them with")
    try:
        check_url(asked.url, parse_allowed(settings.webhook_allow))
    except ValueError as error:
        raise _wrong_webhook("#/webhook/url", str(error)) from None
    return Webhook(asked.url, asked.events) if asked.events else Webhook(asked.url)


def _wrong_webhook(pointer: str, detail: str) -> Problem:
    return Problem(422, "invalid-request", f"webhook: {detail}", [{"pointer": pointer, "detail": detail}])


def _retry_policy(published: Described, body: SubmitBody) -> RetryPolicy:
    """What the caller asked for, else what the model says."""
    policy = published.retry_policy
    if body.backoff is not None:
        policy = replace(policy, backoff=body.backoff)
    return policy if body.fatal is None else replace(policy, fatal=tuple(body.fatal))
