"""Answers that the relay gives when there is something to say: no thread waits for it."""

from __future__ import annotations

import socket
from collections.abc import Callable, Collection, Iterable
from email.utils import formatdate
from functools import partial
from typing import Any

import redis
from flask import Response, current_app, request
from flask.globals import request_ctx

from service.relay.eventstream import EventStream
from service.relay.longpoll import LongPoll
from service.relay.loop import Relay
from service.relay.peer import Peer
from service.relay.takeover import http_answer, take
from service.store.job import Job
from service.store.jobs import JobGone, JobNotFound
from service.store.patience import within
from service.web.services import services


class Held(Response):
    """A response that the relay writes, on the client's own socket. Its place must be taken with Relay.admit."""

    def __init__(self, relay: Relay, peer: Callable[[Held], Peer], **options: Any) -> None:
        """`peer` makes the relay's side of this response."""
        super().__init__(**options)
        self._relay = relay
        self._peer = peer

    def __call__(self, environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        """Hand the socket over, and tell gunicorn that all is done, as flask-sock does."""
        ours: socket.socket | None = None
        try:
            sock = take(environ)
            if sock is None:
                ours, sock = socket.socketpair()
        except OSError:  # this process has no file left
            self._relay.dismiss()
            raise
        self._relay.hold(sock, lambda: self._peer(self), environ.get("service.request_id", ""))
        if ours is not None:
            return http_answer(ours, start_response)
        raise StopIteration


class HeldUntilDone(Held):
    """One that has its status and is logged when it is given."""


def until_done(
    job: Job, seconds: float, answer: Callable[[Job], Response], unless: tuple[type[Exception], ...] = ()
) -> Response:
    """`answer` of the job, in this request's context, once it is done or after so many seconds.

    If it cannot be read then, because of an error in `unless`, of the job as it is now. Raises TooManyWaiters.
    """
    relay, jobs, settings = services().relay, services().jobs, services().settings

    context = request_ctx._get_current_object()  # type: ignore[attr-defined]  # of Werkzeug's proxy

    def give(read: Callable[[], Job]) -> bytes:
        # Each time a context of its own: two may be under way at once. To make one takes a while, so only when it must.
        with context.copy(), within(settings.redis_timeout):
            try:
                response = answer(read())
            except Exception as error:
                response = current_app.make_response(current_app.handle_user_exception(error))
            return _whole(current_app.process_response(response))

    def latest() -> Job:
        try:
            return jobs.read(job.id)
        except JobNotFound:  # it was there: Redis came back without it
            raise JobGone(job.id) from None
        except unless:
            return job

    def unread() -> Job:
        error = redis.exceptions.TimeoutError("Redis hangs")
        if isinstance(error, unless):
            return job
        raise error

    relay.admit()
    return HeldUntilDone(
        relay,
        lambda _: LongPoll(relay, job.id, job.cursor, seconds, partial(give, latest), partial(give, unread)),
        status=202,
    )


def event_stream(job_id: str, after: str | None, types: Collection[str] | None) -> Response:
    """The job's events as they come. Raises TooManyWaiters."""
    # no-transform and X-Accel-Buffering: a proxy in between is not to keep events back.
    headers = {"Cache-Control": "no-store, no-transform", "X-Accel-Buffering": "no"}
    options: Any = {"headers": headers, "content_type": "text/event-stream"}
    if request.method == "HEAD":
        return Response(**options)
    relay = services().relay
    relay.admit()

    return Held(
        relay,
        lambda response: EventStream(relay, _head(response.status, response.headers), job_id, after, types),
        **options,
    )


def _whole(response: Response) -> bytes:
    body, status, headers = response.get_wsgi_response(request.environ)
    return _head(status, headers) + b"".join(body)


def _head(status: str, headers: Iterable[tuple[str, str]]) -> bytes:
    fields = {**dict(headers), "Date": formatdate(usegmt=True), "Connection": "close"}
    lines = (f"{name}: {value}\r\n" for name, value in fields.items())
    return f"HTTP/1.1 {status}\r\n{''.join(lines)}\r\n".encode("latin-1")
