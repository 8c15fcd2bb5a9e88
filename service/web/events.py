"""A job's events: over a WebSocket, as an event stream, or a page of them as JSON; and a WebSocket for many jobs."""

from __future__ import annotations

import json
from typing import Any

from flask import Blueprint, Response, abort, request
from flask_sock import Sock

from service.relay.feed import FeedSocket
from service.relay.pages import Pages
from service.relay.websocket import BAD_REQUEST, JobSocket, event_types
from service.store import events
from service.store.events import BEGINNING, InvalidCursor, cursor
from service.store.job import ID
from service.store.jobs import JobNotFound
from service.web.held import event_stream
from service.web.parameters import check, is_websocket, limit, takes, wrong_header
from service.web.problems import Problem
from service.web.services import services
from service.web.sockets import hand_over

blueprint = Blueprint("events", __name__)

MOST_PER_PAGE = 500
_HANDSHAKE = ("HTTP_CONNECTION", "HTTP_SEC_WEBSOCKET_KEY", "HTTP_SEC_WEBSOCKET_PROTOCOL")


@blueprint.before_app_request
def prepare_handshakes() -> None:
    """Refuse what is no handshake, and have no compression."""
    if not is_websocket(request):
        return
    if "Sec-WebSocket-Key" not in request.headers or request.headers.get("Sec-WebSocket-Version") != "13":
        abort(400, "the handshake of a WebSocket needs Sec-WebSocket-Key, and Sec-WebSocket-Version: 13")
    if not all(request.environ.get(name, "").isascii() for name in _HANDSHAKE):  # wsproto decodes them as it is
        abort(400, "the handshake of a WebSocket is in ASCII")
    # No permessage-deflate, which simple-websocket always takes: it costs a socket far more than its events do.
    request.environ.pop("HTTP_SEC_WEBSOCKET_EXTENSIONS", None)


def register(sock: Sock, prefix: str) -> None:
    """Add the WebSocket routes, which flask-sock keeps by itself."""
    sock.route(f"{prefix}/jobs/<job_id>/events")(watch_job)
    sock.route(f"{prefix}/events")(watch_jobs)


@takes("after", "types")
def watch_job(ws: Any, job_id: str) -> None:
    """A snapshot, then the job's events to the terminal one, then a normal close. ?after=<id> resumes, ?types=."""
    if _refused(ws):
        return
    relay, after, types = services().relay, request.args.get("after"), request.args.get("types")
    hand_over(ws, relay, lambda: JobSocket(relay, job_id, after, types))


@takes("types")
def watch_jobs(ws: Any) -> None:
    """The events of many jobs, as the client subscribes to them. ?types=."""
    if _refused(ws):
        return
    relay, types = services().relay, request.args.get("types")
    hand_over(ws, relay, lambda: FeedSocket(relay, types))


def _refused(ws: Any) -> bool:
    """Close a socket whose address has other parameters than its route takes."""
    try:
        check()
    except Problem as problem:
        ws.close(BAD_REQUEST, json.dumps({"type": problem.kind, "title": problem.detail})[:123])
        return True
    return False


@blueprint.get("/events")
@takes("types")
def no_events() -> Response:
    """Only over a WebSocket."""
    problem = Problem(426, "upgrade-required", "open a WebSocket here and subscribe to jobs on it")
    problem.headers["Upgrade"] = "websocket"
    raise problem


@blueprint.get("/jobs/<job_id>/events")
@takes("after", "limit", "types")
def show(job_id: str) -> Response:
    """The events after ?after=<id>: as a stream if the caller accepts one, else up to ?limit= of them. ?types=."""
    if not ID.fullmatch(job_id):
        raise JobNotFound(job_id)
    wanted = request.accept_mimetypes.best_match(["application/json", "text/event-stream"])
    response = _stream(job_id) if wanted == "text/event-stream" else _page(job_id)
    response.headers["Vary"] = "Accept"
    return response


def _stream(job_id: str) -> Response:
    # A browser that comes back says where it was, whatever the address says.
    after, types = _resumed() or request.args.get("after"), event_types(request.args.get("types"))
    after = None if after is None else cursor(after)
    job = services().jobs.read(job_id)
    if after is not None and job.done and events.order(job.cursor) <= events.order(after):
        return Response(status=204)  # which tells a browser not to come back
    return event_stream(job_id, after, types)


def _resumed() -> str | None:
    """Where a browser says it was."""
    text = request.headers.get("Last-Event-ID")
    try:
        return cursor(text) if text else None
    except InvalidCursor as error:
        raise wrong_header("Last-Event-ID", str(error), "invalid-cursor") from None


def _page(job_id: str) -> Response:
    after, types = cursor(request.args.get("after", BEGINNING)), event_types(request.args.get("types"))
    page = Pages(services().redis, services().jobs).after(job_id, after, limit(MOST_PER_PAGE, MOST_PER_PAGE))
    text = ",".join(event.text for event in page.events if event.readable and (types is None or event.type in types))
    body = f'{{"events":[{text}],"cursor":"{page.cursor}","done":{str(page.over).lower()}}}\n'
    return Response(body, content_type="application/json")
