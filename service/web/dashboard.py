"""rq-dashboard under /dashboard: its own pages, on our connection, and safe to show to an operator.

rq-dashboard 0.9 stays as installed. What it does wrong is set right from outside, here only: values
are escaped as its templates are loaded, bad addresses and states get 404 and 409, and the names it
looks up in its own module (Job, Queue, Worker, ...) are replaced where RQ's would not do.
"""

from __future__ import annotations

import json
import re
import secrets
from typing import Any

import redis
import rq.serializers
import rq_dashboard.web as dashboard
from flask import Blueprint, Flask, Response, current_app, g, jsonify, request
from jinja2.ext import Extension
from rq import Queue, Worker
from rq.exceptions import DeserializationError, InvalidJobOperation, NoSuchJobError
from rq.job import Job, requeue_job
from rq.registry import (
    BaseRegistry,
    CanceledJobRegistry,
    DeferredJobRegistry,
    FailedJobRegistry,
    FinishedJobRegistry,
    ScheduledJobRegistry,
    StartedJobRegistry,
)
from rq.serializers import JSONSerializer

from service.store.away import why
from service.store.refusal import NotNow
from service.web.actions import tell
from service.web.origin import same_origin

blueprint: Blueprint = dashboard.blueprint

# What a part of an address may be. rq-dashboard passes all of them on unchecked, into int(), zrange and
# Job.fetch, where a wrong one is a 500. Its own page offers up to 200 jobs per page.
ADDRESSES = {
    "instance_number": "0",
    "registry_name": "queued|scheduled|deferred|started|finished|failed|canceled",
    "order": "asc|dsc",
    "per_page": "[1-9][0-9]?|1[0-9]{2}|200",
    "page": "[1-9][0-9]{0,8}",
    "job_id": "[A-Za-z0-9_-]+",
}

# unsafe-eval: underscore compiles the templates with new Function. The templates have style attributes,
# but no style element; Bootstrap's CSS has data: images. An inline script runs only with our nonce.
CONTENT_SECURITY_POLICY = (
    "default-src 'self'; script-src 'nonce-{nonce}' 'unsafe-eval'; "
    "style-src 'self'; style-src-attr 'unsafe-inline'; img-src 'self' data:; connect-src 'self'; "
    "object-src 'none'; base-uri 'self'; form-action 'self'; frame-ancestors 'none'"
)


def mount(app: Flask, connection: redis.Redis) -> None:
    """Serve rq-dashboard under /dashboard, with `connection` for all that it reads and writes.

    `connection` gives bytes (decode_responses=False). From here on RQ's default serializer is JSON, in the
    whole process.
    """
    # rq-dashboard makes workers, registries and jobs without naming a serializer; RQ then takes this name,
    # on every call. Whoever can write to Redis could otherwise run code here, by a pickle that a page
    # reads. Here and not at import: a process that serves no dashboard names its serializer itself.
    rq.serializers.PickleSerializer = JSONSerializer  # type: ignore[assignment]
    app.redis_conn = connection  # type: ignore[attr-defined]  # where its views look for it
    app.config["RQ_DASHBOARD_REDIS_URL"] = (_address(connection),)
    app.jinja_env.add_extension(SafeTemplates)
    app.register_blueprint(blueprint, url_prefix="/dashboard")


def _address(connection: redis.Redis) -> str:
    # Made anew, not taken from the settings: a URL there may carry a password, also as ?password=.
    service = getattr(connection.connection_pool, "service_name", None)
    options = connection.get_connection_kwargs()
    if service:
        return f"redis+sentinel://{service}"
    if "path" in options:
        return f"unix://{options['path']}"
    return f"redis://{options.get('host', 'localhost')}:{options.get('port', 6379)}/{options.get('db', 0)}"


class SafeTemplates(Extension):
    """Changes rq-dashboard's templates as they are loaded: what they print raw they print escaped.

    `<%=` of underscore.js prints raw, `<%-` escapes; none has to be raw, nor may one of a later version.
    """

    def preprocess(self, source: str, name: str | None, filename: str | None = None) -> str:
        if not name or not name.startswith("rq_dashboard/"):
            return source
        # Escaped by hand already: once is enough.
        source = re.sub(r"\$\('<div/>'\)\.text\((.+?)\)\.html\(\)", r"\1", source)
        source = source.replace("<%=", "<%-")
        if name.endswith(".js"):  # Jinja escapes in .html only, and HTML's escapes would be wrong in a string
            source = re.sub(r"'\{\{ *([\w.]+) *\}\}'", r"{{ \1|tojson }}", source)
        # The icon is among their files; the app that we are mounted in need not have one.
        source = source.replace("url_for('static',", "url_for('rq_dashboard.static',")
        return source.replace('type="text/javascript"', 'type="text/javascript" nonce="{{ csp_nonce }}"')


# It builds a client per request from the URL alone, and stores it on the app that all threads share.
blueprint.before_request_funcs[None].remove(dashboard.push_rq_connection)


@blueprint.before_request
def refuse_other_sites() -> Response | None:
    if request.method == "POST" and not same_origin(request):
        return _error(403, "This request comes from another site.")
    # Any link or image on any page makes a GET; HEAD would requeue as well.
    if request.endpoint == "rq_dashboard.requeue_all" and request.method in ("GET", "HEAD"):
        response = _error(405, "Send a POST to requeue all failed jobs.")
        response.headers["Allow"] = "POST, OPTIONS"
        return response
    return None


@blueprint.before_request
def refuse_what_is_not_there() -> Response | None:
    parts = request.view_args or {}
    for name, pattern in ADDRESSES.items():
        if name in parts and not re.fullmatch(pattern, str(parts[name])):
            return _error(404, f"There is no {name.replace('_', ' ')} {parts[name]!r}.")
    # Asked here because its delete answers 200 for a job that is not there.
    connection = current_app.redis_conn  # type: ignore[attr-defined]
    if "job_id" in parts and not Job.exists(parts["job_id"], connection=connection):
        raise NoSuchJobError
    return None


@blueprint.errorhandler(NoSuchJobError)
def no_such_job(_: Exception) -> Response:
    return _error(404, "There is no such job; it may have expired.")


@blueprint.errorhandler(InvalidJobOperation)
def wrong_state(_: Exception) -> Response:
    return _error(409, "Only a failed or stopped job can be requeued.")


@blueprint.errorhandler(redis.exceptions.ConnectionError)
@blueprint.errorhandler(redis.exceptions.TimeoutError)
@blueprint.errorhandler(NotNow)
def redis_is_away(error: Exception) -> Response:
    return _error(503, f"Redis {why(error)}.")


def _error(status: int, line: str) -> Response:
    if request.method == "POST" or request.path.endswith(".json"):
        response = jsonify(status="ERROR", message=line)
    else:
        response = Response(f"{line}\n", mimetype="text/plain")
    response.status_code = status
    response.headers["Cache-Control"] = "no-store"
    return response


def _nonce() -> str:
    return str(g.setdefault("dashboard_nonce", secrets.token_urlsafe(16)))


@blueprint.context_processor
def give_nonce_to_scripts() -> dict[str, str]:
    return {"csp_nonce": _nonce()}


OPERATIONS = {
    "delete_job_view": "erase",
    "requeue_job_view": "retry",
    "requeue_all": "requeue",
    "empty_queue": "empty",
    "compact_queue": "compact",
}


@blueprint.after_request
def tell_what_was_done(response: Response) -> Response:
    """What its buttons do is logged as what requests to /v1 do."""
    if request.method == "POST" and response.status_code < 400:
        parts = dict(request.view_args or {})
        name = str(request.endpoint).removeprefix("rq_dashboard.")
        on = parts.pop("job_id", None) or parts.pop("queue_name", "")
        tell(OPERATIONS.get(name, name), on, **{part: parts[part] for part in ("registry_name",) if part in parts})
    return response


@blueprint.after_request
def protect(response: Response) -> Response:
    response.headers["X-Content-Type-Options"] = "nosniff"
    response.headers["X-Frame-Options"] = "DENY"
    response.headers["Content-Security-Policy"] = CONTENT_SECURITY_POLICY.format(nonce=_nonce())
    return response


class ReadableJSON(JSONSerializer):
    """JSON for showing only: one result of a stock RQ worker (a pickle) must not break a list of jobs."""

    @staticmethod
    def loads(data: bytes) -> Any:
        try:
            # NaN and Infinity as strings: browsers refuse a document that has them bare.
            return json.loads(data.decode(), parse_constant=str)
        except (ValueError, RecursionError):
            return f"({len(data)} bytes that are not JSON)"


class ShownJob(Job):
    """A job as rq-dashboard reads it."""

    @property
    def dependency_ids(self) -> list[bytes]:  # type: ignore[override]
        """Bytes, as before RQ 3: the job's page decodes them."""
        return [job_id.encode() for job_id in super().dependency_ids]

    def get_call_string(self) -> str | None:
        """One job whose arguments are not JSON must not hide all workers."""
        try:
            return super().get_call_string()
        except DeserializationError:
            return self.description


class ShownWorker(Worker):
    """A worker as rq-dashboard reads it."""

    job_class = ShownJob

    def _set_connection(self, connection: redis.Redis) -> redis.Redis:
        # RQ 3.0, worker/base.py: sets the pool's socket_timeout to 415 s, for a worker's blocking reads.
        # The pool is the web process's: a request would hang that long when Redis does.
        return connection

    def get_current_job(self) -> Job | None:
        """None too if the job was deleted while it runs, which the dashboard allows."""
        try:
            return super().get_current_job()
        except NoSuchJobError:
            return None


class CompactableQueue(Queue):
    """A queue whose compact never holds the ids in a place where no worker looks."""

    def compact(self) -> None:
        """Take out ids whose job is gone. RQ's renames the list first: a crash then loses the queue, and
        a queue that is empty is an error."""
        for job_id in self.get_job_ids():
            if not Job.exists(job_id, connection=self.connection):
                self.remove(job_id)


def requeue(job_id: str, connection: redis.Redis) -> None:
    """As RQ's, but a job that has expired, or that somebody else requeued, does not stop "requeue all"."""
    try:
        requeue_job(job_id, connection=connection)
    except (NoSuchJobError, InvalidJobOperation):
        if request.endpoint != "rq_dashboard.requeue_all":
            raise


REGISTRIES: dict[str, type[BaseRegistry]] = {
    "scheduled": ScheduledJobRegistry,
    "deferred": DeferredJobRegistry,
    "started": StartedJobRegistry,
    "finished": FinishedJobRegistry,
    "failed": FailedJobRegistry,
    "canceled": CanceledJobRegistry,
}


def page_of_jobs(
    queue_name: str, registry_name: str, offset: int, per_page: int, order: str, connection: redis.Redis
) -> tuple[int, list[dict[str, Any]]]:
    """How many jobs there are, and those of one page. rq-dashboard's own pages overlap: it adds `offset` twice."""
    queue = CompactableQueue(queue_name, connection=connection, serializer=ReadableJSON)
    registry = None if registry_name == "queued" else REGISTRIES[registry_name](queue_name, connection=connection)
    total = queue.count if registry is None else registry.get_job_count(cleanup=False)
    length = max(0, min(per_page, total - offset))
    start = offset if order == "asc" else max(0, total - offset - length)
    if not length:
        ids = []
    elif registry is None:
        ids = queue.get_job_ids(start, length)
    else:
        ids = registry.get_job_ids(start, start + length - 1, cleanup=False)
    # One after the other: each holds its input and its result, which the page does not show.
    jobs = (queue.fetch_job(job_id) for job_id in (ids if order == "asc" else reversed(ids)))
    return total, [dashboard.serialize_job(job) for job in jobs if job]


# Names that its views look up in their own module whenever they run.
dashboard.config.serializer = ReadableJSON
dashboard.Job = ShownJob
dashboard.Worker = ShownWorker
dashboard.Queue = CompactableQueue
dashboard.requeue_job = requeue
dashboard.get_queue_registry_jobs_count = page_of_jobs
# Its start page catches this to answer 200, "Connection Error". Nothing to catch: redis_is_away answers.
dashboard.RedisConnectionError = ()
