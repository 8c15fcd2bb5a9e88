"""How a job is answered, and how long a caller is willing to wait for it."""

from __future__ import annotations

import json
from collections.abc import Collection
from typing import Any

from flask import Response, request

from service.store.job import Job
from service.web.preferences import IMPATIENT, Patience, patience_of
from service.web.services import services

FOR_OPERATORS = frozenset({"traceback"})
"""What is shown of a job, or of a model, only to who asks for it with ?include=."""
POLL_AGAIN = 1
"""Seconds that a caller who polls is told to leave between two polls."""


class JobAnswer(Response):
    """A job. Werkzeug looks through the headers of each answer for what is to be mended; here nothing is."""

    def __call__(self, environ: dict[str, Any], start_response: Any) -> Any:
        """Send it."""
        if environ["REQUEST_METHOD"] == "HEAD" or self.status_code == 304:
            return super().__call__(environ, start_response)
        start_response(self.status, self.headers.to_wsgi_list())
        return self.response


_ENCODER = json.JSONEncoder(separators=(",", ":"))  # jsonify would make one each time


def job_answer(
    job: Job,
    status: int,
    patience: Patience = IMPATIENT,
    include: Collection[str] = frozenset(),
    ready: bool = True,
) -> Response:
    """The job as it is, with what of FOR_OPERATORS is to be included; `status` is HTTP's.

    `ready`: whether a worker is ready for its model.
    """
    headers = {} if job.done else {"Retry-After": str(POLL_AGAIN)}
    shown = job.to_json(root=request.script_root)
    if "traceback" in include:
        shown["attempts"] = job.attempts_with_tracebacks()
    if not ready and not job.done:
        shown["ready"] = False
    text = _ENCODER.encode(shown) + "\n"
    response = JobAnswer(text, status, headers, mimetype="application/json")
    return with_preference(response, patience)


def with_preference(response: Response, patience: Patience) -> Response:
    """Say how long the caller was ready to wait, if it did."""
    response.headers["Vary"] = "Prefer"
    if patience.preferred:
        response.headers["Preference-Applied"] = f"wait={patience.seconds:g}"
    return response


def asked_patience() -> Patience:
    """How long this request's caller waits."""
    return patience_of(request, services().settings.max_wait)
