"""Every error as application/problem+json (RFC 9457): the one place that builds an error's body."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from typing import Any

from flask import Flask, Response, has_request_context, request
from werkzeug.exceptions import HTTPException

from service.relay.loop import TooManyWaiters
from service.relay.websocket import InvalidTypes
from service.store.away import REDIS_IS_AWAY, why
from service.store.events import InvalidCursor
from service.store.jobs import IdempotencyKeyReused, JobExists, JobGone, JobNotDone, JobNotFound
from service.store.models import ModelNotFound
from service.store.operations import JobNotFailed
from service.store.queues import QueueNotFound
from service.store.workers import WorkerCannotDrain, WorkerNotFound, WorkerNotListening

log = logging.getLogger("service.web")

TITLES = {
    "bad-request": "The request cannot be understood",
    "delivery-not-found": "The job has no delivery of this id",
    "expectation-failed": "The server knows no such expectation",
    "headers-too-large": "The header fields of the request are too large",
    "idempotency-key-reused": "This Idempotency-Key was sent with another request before",
    "internal": "The service has met an error of its own",
    "invalid-cursor": "The cursor is not one that the service gave",
    "invalid-input": "The input is not what the model takes",
    "invalid-request": "A field or parameter of the request has a value that is not allowed",
    "job-exists": "There is another job of this id",
    "job-gone": "The job has expired or was erased",
    "job-has-no-result": "The job ended without a result",
    "job-not-done": "The job is not over",
    "job-not-failed": "The job has neither failed nor been stopped",
    "job-not-found": "No job has this id",
    "malformed-json": "The body is not JSON",
    "method-not-allowed": "This resource does not take this method",
    "model-not-found": "No worker has published a model of this name",
    "model-unavailable": "The model's file cannot be imported",
    "not-implemented": "The server knows no such transfer coding",
    "not-confirmed": "The request does not repeat the name of what it acts on",
    "not-found": "There is nothing at this path",
    "other-site": "The request comes from a page of another site",
    "queue-full": "As many jobs of this model wait as may",
    "queue-not-found": "No queue has this name",
    "request-timeout": "The request was not whole in time",
    "too-many-watchers": "As many wait already as this process can hold",
    "too-large": "The body is larger than allowed",
    "unavailable": "The service's Redis cannot be used now",
    "unsupported-media-type": "The body must be application/json",
    "uri-too-long": "The address of the request is too long",
    "upgrade-required": "There is only a WebSocket at this path",
    "worker-cannot-drain": "The worker is not one of this service's, and knows no drain",
    "worker-not-found": "No worker has this name",
    "worker-not-listening": "The worker does not listen for commands now",
}
"""Each type of problem, `/problems/<type>`, and its title."""


class Problem(Exception):
    """An answer that is a problem; `errors` say where: [{"pointer" | "parameter" | "header", "detail"}]."""

    def __init__(
        self, status: int, kind: str, detail: str, errors: list[dict[str, str]] | None = None, **members: Any
    ) -> None:
        super().__init__(detail)
        self.status = status
        self.kind = kind
        self.detail = detail
        self.members = {**({"errors": errors} if errors else {}), **members}
        self.headers: dict[str, str] = {}

    def response(self) -> Response:
        """The answer."""
        body = {
            "type": type_of(self.kind),
            "title": TITLES[self.kind],
            "status": self.status,
            "detail": self.detail,
            **self.members,
        }
        response = Response(json.dumps(body) + "\n", self.status, content_type="application/problem+json")
        response.headers.update(self.headers)
        return response


def type_of(kind: str) -> str:
    """Where it says what a type of problem means."""
    return f"{request.script_root if has_request_context() else ''}/problems/{kind}"


def unavailable(detail: str, kind: str = "unavailable") -> Problem:
    """503, to be tried again soon."""
    problem = Problem(503, kind, detail)
    problem.headers["Retry-After"] = "2"
    return problem


def install(app: Flask) -> None:
    """Answer all that is raised in a request with a problem."""
    app.register_error_handler(Exception, _handle)


def _handle(error: Exception) -> Response:
    if isinstance(error, Problem):
        return error.response()
    for kinds, problem in _KNOWN:
        if isinstance(error, kinds):
            return problem(error).response()
    log.error("a request met an error", exc_info=error)
    return Problem(500, "internal", "the web process's log tells more, under this request's X-Request-ID").response()


def _of_http(error: HTTPException) -> Problem:
    kinds = {404: "not-found", 405: "method-not-allowed", 413: "too-large", 415: "unsupported-media-type"}
    status = error.code or 500
    problem = Problem(status, kinds.get(status, "bad-request"), error.description or error.name)
    problem.headers = {name: value for name, value in error.get_headers() if name == "Allow"}
    return problem


_KNOWN: list[tuple[type[Exception] | tuple[type[Exception], ...], Callable[[Any], Problem]]] = [
    (JobNotFound, lambda error: Problem(404, "job-not-found", f"no job has the id {error.args[0]!r}")),
    (JobGone, lambda error: Problem(410, "job-gone", f"job {error.args[0]} has expired or was erased")),
    (JobExists, lambda error: Problem(409, "job-exists", f"job {error.args[0]} was asked for with something else")),
    (
        IdempotencyKeyReused,
        lambda error: Problem(
            422, "idempotency-key-reused", "the same Idempotency-Key came with another body or model"
        ),
    ),
    (JobNotDone, lambda error: Problem(409, "job-not-done", f"the job is {error.args[0]}: cancel it first")),
    (
        JobNotFailed,
        lambda error: Problem(409, "job-not-failed", f"the job is {error.args[0]}: only a failed or stopped one can"),
    ),
    (
        QueueNotFound,
        lambda error: Problem(404, "queue-not-found", f"no queue is called {error.args[0]!r}; see /v1/queues"),
    ),
    (
        WorkerNotFound,
        lambda error: Problem(404, "worker-not-found", f"no worker is called {error.args[0]!r}; see /v1/workers"),
    ),
    (
        WorkerCannotDrain,
        lambda error: Problem(409, "worker-cannot-drain", f"{error.args[0]} is a worker of RQ's own: send it SIGTERM"),
    ),
    (
        WorkerNotListening,
        lambda error: unavailable(f"{error.args[0]} was not reached: try again", "worker-not-listening"),
    ),
    (
        ModelNotFound,
        lambda error: Problem(404, "model-not-found", f"no model is called {error.args[0]!r}; see /v1/models"),
    ),
    (
        InvalidCursor,
        lambda error: Problem(400, "invalid-cursor", str(error), [{"parameter": "after", "detail": str(error)}]),
    ),
    (
        InvalidTypes,
        lambda error: Problem(400, "invalid-request", str(error), [{"parameter": "types", "detail": str(error)}]),
    ),
    (TooManyWaiters, lambda _: unavailable("come back later", "too-many-watchers")),
    (REDIS_IS_AWAY, lambda error: unavailable(f"the service's Redis {why(error)}")),
    (HTTPException, _of_http),
]
