"""What the routes work with: one set for each app."""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

import redis
from flask import current_app

from service.relay.loop import Relay
from service.settings import Settings
from service.store.jobs import Jobs
from service.store.models import Models

THREADS_FOR_REQUESTS = 16
"""So many threads of a web process never wait for jobs or sockets."""


@dataclass(frozen=True)
class Services:
    """Settings, store and relay of one web process."""

    settings: Settings
    redis: redis.Redis
    jobs: Jobs
    models: Models
    relay: Relay


def build(settings: Settings, connection: redis.Redis) -> Services:
    """The services of one app."""
    return Services(
        settings,
        connection,
        Jobs(connection, settings),
        Models(connection),
        Relay(connection, settings.web_threads - THREADS_FOR_REQUESTS),
    )


def services() -> Services:
    """Those of the app that answers the current request."""
    return cast(Services, current_app.extensions["service"])
