"""Jobs: read, wait, result, cancel, erase, list. How one is submitted: submit.py."""

from __future__ import annotations

import binascii
import json
import math
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Callable

from flask import Blueprint, Response, jsonify, request

from service.store.events import dumps
from service.store.job import DONE, WAITING, Job
from service.store.listings import LARGE, Listed
from service.store.models import ModelNotFound
from service.web.actions import tell
from service.web.answers import FOR_OPERATORS, asked_patience, job_answer, with_preference
from service.web.held import until_done
from service.web.parameters import limit, takes, words, wrong
from service.web.preferences import Patience
from service.web.problems import Problem
from service.web.services import services

blueprint = Blueprint("jobs", __name__)

STATUSES = DONE | WAITING | {"started"}
MOST_PER_PAGE = 100


@blueprint.get("/jobs/<job_id>")
@takes("wait", repeated=("include",))
def show(job_id: str) -> Response:
    """A job as it is; with a wait, as soon as it is done. ?include=traceback: for operators, with its attempts."""
    patience, include = asked_patience(), words("include", FOR_OPERATORS)

    def answer(job: Job) -> Response:
        response = job_answer(job, 200, patience, include)
        response.add_etag()
        response.make_conditional(request)
        return response

    return _once_done(job_id, patience, answer)


@blueprint.get("/jobs/<job_id>/result")
@takes("wait")
def result(job_id: str) -> Response:
    """200 with the output alone; 202 with the job while it is pending; 409 if it ended without one."""
    patience = asked_patience()

    def answer(job: Job) -> Response:
        if job.status == "finished":
            return with_preference(jsonify(job.output), patience)
        if not job.done:
            return job_answer(job, 202, patience)
        why = job.error or {"type": job.status, "message": f"the job was {job.status}"}
        raise Problem(409, "job-has-no-result", why["message"], job_status=job.status, job_error=job.error)

    return _once_done(job_id, patience, answer)


@blueprint.post("/jobs/<job_id>/cancel")
def cancel(job_id: str) -> Response:
    """Cancel a job: 202 if a running one is asked to stop, 200 if it waited, or is over already."""
    outcome = services().jobs.cancel(job_id)
    tell("cancel", job_id, outcome=outcome)
    return job_answer(services().jobs.read(job_id), 202 if outcome == "requested" else 200)


@blueprint.delete("/jobs/<job_id>")
def erase(job_id: str) -> tuple[str, int]:
    """Erase a job that is over. From then on its id answers 410."""
    services().jobs.erase(job_id)
    tell("erase", job_id)
    return "", 204


@blueprint.get("/jobs")
@takes("model", "limit", "cursor", repeated=("status", "include"))
def newest() -> Response:
    """Summaries of jobs, newest first: ?status=&model=&limit=&cursor=&include=input,output."""
    model = request.args.get("model")
    if model is not None:
        _known_model(model)
    statuses, include = words("status", STATUSES), words("include", LARGE)
    jobs, cursor = services().listings.newest(model, statuses, limit(20, MOST_PER_PAGE), _cursor(), include)
    following = json.dumps(_encode(cursor) if cursor else None)
    return Response(f'{{"jobs":[{",".join(map(_listed, jobs))}],"next":{following}}}\n', mimetype="application/json")


def _listed(listed: Listed) -> str:
    """A job of a list as JSON; its input and output are JSON already."""
    parts = [dumps(listed.job.summary(request.script_root))[1:-1]]
    parts += [f'"{name}":{text or "null"}' for name, text in listed.texts.items()]
    if listed.texts:
        parts.append(f'"left_out":{dumps(listed.left_out)}')
    return f"{{{','.join(parts)}}}"


def _once_done(job_id: str, patience: Patience, answer: Callable[[Job], Response]) -> Response:
    """The answer for a job, held until it is done if the caller waits. Raises TooManyWaiters."""
    job = services().jobs.read(job_id)
    if job.done or not patience.seconds:
        return answer(job)
    return until_done(job, patience.seconds, answer)


def _known_model(name: str) -> None:
    try:
        services().models.described(name)
    except ModelNotFound:
        raise wrong("model", f"{name[:64]!r} is no published model; see /v1/models") from None


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
        raise wrong(
            "cursor", "it is not one that this service gave; leave it out to start anew", "invalid-cursor"
        ) from None


def _encode(cursor: tuple[float, str]) -> str:
    return urlsafe_b64encode(json.dumps(cursor).encode()).decode()
