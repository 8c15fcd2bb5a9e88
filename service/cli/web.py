"""`web`: the web process."""

from __future__ import annotations

import argparse
import logging

from service import listen, logs
from service.settings import Settings
from service.store import durability
from service.store.connection import check, check_permissions, connect
from service.web.server import Server

log = logging.getLogger("service.web")


def run(options: argparse.Namespace, settings: Settings) -> int:
    """Serve until asked to stop. Raises Failure."""
    logs.set_up(settings)
    listen.check(settings)
    connection = connect(settings)
    check(connection, settings)
    check_permissions(connection, settings)
    for warning in durability.warnings(connection):
        log.warning("this Redis may lose jobs: %s", warning)
    Server(settings).run()
    return 0
