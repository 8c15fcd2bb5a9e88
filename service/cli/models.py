"""`models`: what workers have published, as a table."""

from __future__ import annotations

import argparse
import sys

import redis

from service.cli.actions import leave_a_line
from service.cli.table import print_table
from service.settings import Settings
from service.store.connection import check, connect
from service.store.models import ModelNotFound, Models, ModelServed


def run(options: argparse.Namespace, settings: Settings) -> int:
    """Print one line a model, or forget one."""
    connection = connect(settings)
    check(connection, settings)
    models = Models(connection, settings.model_ttl)
    if options.forget:
        return _forget(models, options.forget, connection)
    rows = [
        (
            model.name,
            model.state,
            len(model.workers),
            sum(model.depths.values()),
            model.error or (model.description["description"] or "").partition("\n")[0],
        )
        for model in models.all()
    ]
    if not rows:
        print("no model: no worker has published one yet", file=sys.stderr)
    print_table(("MODEL", "STATE", "WORKERS", "QUEUED", "DESCRIPTION"), rows)
    return 0


def _forget(models: Models, name: str, connection: redis.Redis) -> int:
    try:
        waiting = sum(models.get(name).depths.values())
        models.forget(name)
    except ModelNotFound:
        print(f"error: no model {name} is published", file=sys.stderr)
        return 1
    except ModelServed:
        print(f"error: a worker serves {name}: remove its file, or end that worker, first", file=sys.stderr)
        return 1
    left = f"; of its jobs {waiting} wait on, which `purge {name}` cancels" if waiting else ""
    print(f"{name} is forgotten{left}", file=sys.stderr)
    leave_a_line(connection, "forget", name, "forgotten")
    return 0
