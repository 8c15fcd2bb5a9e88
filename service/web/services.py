"""What the routes work with: one set for each app."""

from __future__ import annotations

import resource
from dataclasses import dataclass
from typing import cast

import redis
from flask import current_app

from service.relay.loop import Relay
from service.settings import Settings
from service.store.connection import redis_url
from service.store.jobs import Jobs
from service.store.listings import Listings
from service.store.models import Models
from service.store.operations import Operations
from service.web.validation import Descriptions

FILES = 200
"""So many of a process's files and sockets are kept for other things than those who wait."""


@dataclass(frozen=True)
class Services:
    """Settings, store and relay of one web process."""

    settings: Settings
    redis: redis.Redis
    jobs: Jobs
    listings: Listings
    models: Models
    descriptions: Descriptions
    operations: Operations
    relay: Relay


def build(settings: Settings, connection: redis.Redis) -> Services:
    """The services of one app."""
    jobs, models = Jobs(connection, settings), Models(connection, settings.model_ttl)
    return Services(
        settings,
        connection,
        jobs,
        Listings(connection, jobs),
        models,
        Descriptions(models),
        Operations(connection, settings),
        Relay(redis_url(settings), connection, jobs, _most_watchers(settings)),
    )


def _most_watchers(settings: Settings) -> int:
    allowed, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return settings.max_watchers if allowed == resource.RLIM_INFINITY else min(settings.max_watchers, allowed - FILES)


def services() -> Services:
    """Those of the app that answers the current request."""
    return cast(Services, current_app.extensions["service"])
