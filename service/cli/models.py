"""`models`: what workers have published, as a table."""

from __future__ import annotations

import argparse
import sys

from service.settings import Settings
from service.store.connection import check, connect
from service.store.models import ModelNotFound, Models


def run(options: argparse.Namespace, settings: Settings) -> int:
    """Print one line a model, or forget one."""
    connection = connect(settings)
    check(connection, settings)
    models = Models(connection)
    if options.forget:
        return _forget(models, options.forget)
    rows = [
        (
            model.name,
            model.state,
            str(len(model.workers)),
            str(sum(model.depths.values())),
            model.error or (model.description["description"] or "").partition("\n")[0],
        )
        for model in models.all()
    ]
    if not rows:
        print("no model: no worker has published one yet", file=sys.stderr)
    header = ("MODEL", "STATE", "WORKERS", "QUEUED", "DESCRIPTION")
    widths = [max(len(row[column]) for row in [header, *rows]) for column in range(4)]
    for row in [header, *rows]:
        print("  ".join([*(text.ljust(width) for text, width in zip(row, widths, strict=False)), row[4]]))
    return 0


def _forget(models: Models, name: str) -> int:
    try:
        models.forget(name)
    except ModelNotFound:
        print(f"error: no model {name} is published", file=sys.stderr)
        return 1
    print(f"{name} is forgotten", file=sys.stderr)
    return 0
