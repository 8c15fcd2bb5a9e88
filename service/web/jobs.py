"""Jobs: submit, read, wait, result, cancel, erase, list."""

from __future__ import annotations

import binascii
import json
import math
import re
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Callable
from typing import Any, cast

from flask import Blueprint, Response, current_app, jsonify, request
from flask.blueprints import BlueprintSetupState

from service.relay.loop import TooManyWaiters
from service.store.away import REDIS_IS_AWAY
from service.store.job import DONE, WAITING, Job, urls
from service.store.jobs import Identity, JobGone, QueueFull, Submission
from service.store.models import ModelNotFound
from service.store.retry_policy import RetryPolicy
from service.store.webhooks import ID_PREFIX, Webhook
from service.store.webhooks import MODEL as DELIVERIES
from service.web import access_log
from service.web.body import read_json
from service.web.held import until_done
from service.web.idempotency import CHOSEN_ID, fingerprint, idempotency_key
from service.web.parameters import limit, wrong
from service.web.preferences import IMPATIENT, Patience, patience_of
from service.web.problems import Problem
from service.web.services import services
from service.web.validation import Described, Descriptions, SubmitBody, WebhookBody, put_body, submit_body
from service.webhooks.address import check_url, parse_allowed

blueprint = Blueprint("jobs", __name__)

STATUSES = DONE | WAITING | {"started"}
POLL_AGAIN = 1  # seconds that a caller who polls is told to leave between two polls
MOST_PER_PAGE = 100
PATIENCE_WITHOUT_RATE, LONGEST_RETRY_AFTER = 60, 3600  # seconds, of a caller that meets a full queue


@blueprint.post("/models/<name>/jobs")
def submit(name: str) -> Response:
    """Accept a job: 202; or, if the caller waits and it finishes in time, 200 with the result.

    With an Idempotency-Key the same request again gives the same job.
    """
    patience, published = _patience(), _described(name)
    key = idempotency_key(request)
    value = read_json(request, services().settings.max_body_bytes)
    identity = Identity(fingerprint(name, value), idempotency_key=key)
    return _accept(patience, published, submit_body(value), identity)


@blueprint.put("/jobs/<job_id>")
def put(job_id: str) -> Response:
    """The same with an id of the caller's choice, and the model in the body; the same again gives the same job."""
    if not re.fullmatch(CHOSEN_ID, job_id):
        raise wrong("id", f"{job_id[:80]!r} does not match {CHOSEN_ID}")
    if job_id.startswith(ID_PREFIX):
        raise wrong("id", f"{job_id[:80]!r} starts with {ID_PREFIX}, as the service's own do")
    patience = _patience()
    value = read_json(request, services().settings.max_body_bytes)
    body = put_body(value)
    published = _described(body.model)
    return _accept(patience, published, body, Identity(fingerprint(body.model, value), job_id))


@blueprint.record
def _set_up(state: BlueprintSetupState) -> None:
    state.app.extensions["service.descriptions"] = Descriptions(state.app.extensions["service"].models)


def _descriptions() -> Descriptions:
    return cast(Descriptions, current_app.extensions["service.descriptions"])


def _check(published: Described, value: dict[str, Any]) -> None:
    if not published.callable:
        name = published.model["name"]
        raise Problem(503, "model-unavailable", f"the file of {name} cannot be imported; see /v1/models/{name}")
    published.check(value)


def _described(name: str) -> Described:
    if name == DELIVERIES:  # it goes wherever its input says
        raise ModelNotFound(name)
    return _descriptions().recent(name)


def _accept(patience: Patience, published: Described, body: SubmitBody, identity: Identity) -> Response:
    try:
        _check(published, body.input)
    except Problem:  # which the model may have mended a moment ago
        published = _descriptions().latest(published.model["name"])
        _check(published, body.input)
    model = published.model
    job = _submitted(
        Submission(
            model=model["name"],
            version=model["version"],
            input=body.input,
            timeout=body.timeout or model["timeout"],
            retries=model["retries"] if body.retries is None else body.retries,
            retry_policy=_retry_policy(model, body),
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
        response = _answer(job, 200 if job.status == "finished" else 202, patience)
        response.headers.update({"Location": urls(job.id)["self"], **replayed})
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


def _retry_policy(model: dict[str, Any], body: SubmitBody) -> RetryPolicy:
    """What the caller asked for, else what the model says; a description by an older worker says nothing."""
    default = RetryPolicy()
    return RetryPolicy(
        backoff=model.get("backoff", default.backoff) if body.backoff is None else body.backoff,
        fatal=tuple(model.get("fatal", ()) if body.fatal is None else body.fatal),
        max_crashes=model.get("max_crashes", default.max_crashes),
    )


@blueprint.get("/jobs/<job_id>")
def show(job_id: str) -> Response:
    """A job as it is; with a wait, as soon as it is done."""
    patience = _patience()

    def answer(job: Job) -> Response:
        response = _answer(job, 200, patience)
        response.add_etag()
        response.make_conditional(request)
        return response

    return _once_done(job_id, patience, answer)


@blueprint.get("/jobs/<job_id>/result")
def result(job_id: str) -> Response:
    """200 with the output alone; 202 with the job while it is pending; 409 if it ended without one."""
    patience = _patience()

    def answer(job: Job) -> Response:
        if job.status == "finished":
            return _with_preference(jsonify(job.output), patience)
        if not job.done:
            return _answer(job, 202, patience)
        why = job.error or {"type": job.status, "message": f"the job was {job.status}"}
        raise Problem(409, "job-has-no-result", why["message"], job_status=job.status, job_error=job.error)

    return _once_done(job_id, patience, answer)


@blueprint.post("/jobs/<job_id>/cancel")
def cancel(job_id: str) -> Response:
    """Cancel a job: 202 if a running one is asked to stop, 200 if it waited, or is over already."""
    outcome = services().jobs.cancel(job_id)
    return _answer(services().jobs.read(job_id), 202 if outcome == "requested" else 200)


@blueprint.delete("/jobs/<job_id>")
def erase(job_id: str) -> tuple[str, int]:
    """Erase a job that is over. From then on its id answers 410."""
    services().jobs.erase(job_id)
    return "", 204


@blueprint.get("/jobs")
def newest() -> dict[str, Any]:
    """Jobs, newest first: ?status=&model=&limit=&cursor=."""
    model = request.args.get("model")
    if model is not None:
        _known_model(model)
    jobs, cursor = services().jobs.newest(model, _statuses(), limit(20, MOST_PER_PAGE), _cursor())
    return {"jobs": [job.to_json() for job in jobs], "next": _encode(cursor) if cursor else None}


class JobAnswer(Response):
    """A job. Werkzeug looks through the headers of each answer for what is to be mended; here nothing is."""

    def __call__(self, environ: dict[str, Any], start_response: Any) -> Any:
        """Send it."""
        if environ["REQUEST_METHOD"] == "HEAD" or self.status_code == 304:
            return super().__call__(environ, start_response)
        start_response(self.status, self.headers.to_wsgi_list())
        return self.response


_ENCODER = json.JSONEncoder(separators=(",", ":"))  # jsonify would make one each time


def _patience() -> Patience:
    return patience_of(request, services().settings.max_wait)


def _once_done(job_id: str, patience: Patience, answer: Callable[[Job], Response]) -> Response:
    """The answer for a job, held until it is done if the caller waits. Raises TooManyWaiters."""
    job = services().jobs.read(job_id)
    if job.done or not patience.seconds:
        return answer(job)
    return until_done(job, patience.seconds, answer)


def _answer(job: Job, status: int, patience: Patience = IMPATIENT) -> Response:
    headers = {} if job.done else {"Retry-After": str(POLL_AGAIN)}
    response = JobAnswer(_ENCODER.encode(job.to_json()) + "\n", status, headers, mimetype="application/json")
    return _with_preference(response, patience)


def _with_preference(response: Response, patience: Patience) -> Response:
    response.headers["Vary"] = "Prefer"
    if patience.preferred:
        response.headers["Preference-Applied"] = f"wait={patience.seconds:g}"
    return response


def _known_model(name: str) -> None:
    try:
        services().models.described(name)
    except ModelNotFound:
        raise wrong("model", f"{name[:64]!r} is no published model; see /v1/models") from None


def _statuses() -> frozenset[str]:
    asked = [status for text in request.args.getlist("status") for status in text.split(",")]
    for status in asked:
        if status not in STATUSES:
            raise wrong("status", f"{status[:40]!r} is no status; allowed: {', '.join(sorted(STATUSES))}")
    return frozenset(asked)


def _cursor() -> tuple[float, str] | None:
    text = request.args.get("cursor")
    if text is None:
        return None
    try:
        time, job_id = json.loads(urlsafe_b64decode(text.encode()))
        if not math.isfinite(time):
            raise ValueError(time)
        return float(time), str(job_id)
    except (ValueError, TypeError, OverflowError, binascii.Error, RecursionError):
        raise wrong("cursor", "it is not one that this service gave; leave it out to start anew") from None


def _encode(cursor: tuple[float, str]) -> str:
    return urlsafe_b64encode(json.dumps(cursor).encode()).decode()
