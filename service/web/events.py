"""A job's events: over a WebSocket, or a page of them as JSON."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from flask import Blueprint, Response, abort, request
from flask_sock import Sock

from service.relay import websocket
from service.relay.watch import Watch
from service.store import events
from service.store.events import BEGINNING, Event, cursor
from service.web.origin import same_origin
from service.web.services import services

blueprint = Blueprint("events", __name__)

MOST_PER_PAGE = 500


@blueprint.before_app_request
def refuse_bad_handshakes() -> None:
    """A page of another site could open a socket with this browser: WebSockets know no same-origin policy."""
    if request.headers.get("Upgrade", "").lower() != "websocket":
        return
    if not same_origin(request, services().settings.allowed_origins):
        abort(403, "WebSockets of other sites are refused; ALLOWED_ORIGINS lists those that are not")
    if "Sec-WebSocket-Key" not in request.headers or request.headers.get("Sec-WebSocket-Version") != "13":
        abort(400, "the handshake of a WebSocket needs Sec-WebSocket-Key, and Sec-WebSocket-Version: 13")


def register(sock: Sock, prefix: str) -> None:
    """Add the WebSocket routes, which flask-sock keeps by itself."""
    sock.route(f"{prefix}/jobs/<job_id>/events")(watch_job)


def watch_job(ws: Any, job_id: str) -> None:
    """A snapshot, all events of the job to the terminal one, then a normal close. ?after=<id> resumes."""
    websocket.serve(ws, _watched(job_id, request.args.get("after")), job_id)


def _watched(job_id: str, after: str | None) -> Iterator[Event | None]:
    # Within the iteration, so that a cursor that is none closes the socket with its own code.
    resumed = None if after is None else cursor(after)
    yield from Watch(services().redis, services().jobs, services().relay, job_id, resumed)


@blueprint.get("/jobs/<job_id>/events")
def page(job_id: str) -> Response:
    """The events after ?after=<id>, up to 500: {"events", "cursor", "done"}."""
    after = cursor(request.args.get("after", BEGINNING))
    found = events.read(services().redis, job_id, after, MOST_PER_PAGE)
    job = services().jobs.read(job_id)  # after the events: if it is done by now, its last event may follow
    last = found[-1].id if found else after
    done = job.done and events.order(job.cursor) <= events.order(last)
    text = ",".join(event.text for event in found)
    body = f'{{"events":[{text}],"cursor":"{last}","done":{str(done).lower()}}}\n'
    return Response(body, content_type="application/json")
