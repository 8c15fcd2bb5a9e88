"""The Flask app: what answers HTTP. It imports no model file; all it knows of models is in Redis."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from flask import Flask, Response, request
from flask_sock import Sock

from service.settings import Settings
from service.store import patience
from service.store.connection import connect
from service.web import (
    access_log,
    dashboard,
    deliveries,
    events,
    health,
    index,
    jobs,
    models,
    origin,
    parameters,
    problems,
    queues,
    requeue,
    submit,
    workers,
)
from service.web.proxies import TrustedProxies
from service.web.services import build
from service.web.sockets import SERVER_OPTIONS

API = "/v1"


class App(Flask):
    """All its views are plain functions."""

    def ensure_sync(self, func: Callable[..., Any]) -> Callable[..., Any]:
        """Itself: Flask would look at each function of each request again."""
        return func


def create_app(settings: Settings | None = None) -> Flask:
    """The app. Raises InvalidSettings, RedisUnavailable; Redis itself need not answer yet."""
    settings = settings or Settings()
    connection = connect(settings)
    app = App("service.web")
    app.json.sort_keys = False  # type: ignore[attr-defined]  # as documented: id first
    # One more than allowed: Werkzeug cuts a chunked body off at this length, and read_json sees that it is over.
    app.config["MAX_CONTENT_LENGTH"] = settings.max_body_bytes + 1
    app.config["SOCK_SERVER_OPTIONS"] = SERVER_OPTIONS
    app.extensions["service"] = build(settings, connection)
    app.after_request(_open_static_files)
    # All that a request has to do with Redis shares one limit of time.
    app.before_request(partial(patience.begin, settings.redis_timeout))
    app.teardown_request(lambda _: patience.end())
    app.wsgi_app = TrustedProxies(app.wsgi_app, settings.trusted_proxies)  # type: ignore[method-assign]
    access_log.install(app)
    problems.install(app)
    parameters.install(app)
    origin.install(app, settings.allowed_origins)
    app.register_blueprint(index.blueprint)
    app.register_blueprint(health.blueprint)
    for resource in (models, submit, jobs, deliveries, events, queues, requeue, workers):
        app.register_blueprint(resource.blueprint, url_prefix=API)
    events.register(Sock(app), API)
    dashboard.mount(app, connection)
    return app


def _open_static_files(response: Response) -> Response:
    # A page of any site may import the client for browsers: it is no secret, and opens nothing by itself.
    if request.endpoint == "static":
        response.headers["Access-Control-Allow-Origin"] = "*"
    return response
