"""`web`: the web process."""

from __future__ import annotations

import argparse
import logging
import socket

from service import logs
from service.embedded import RedisUnavailable
from service.settings import Settings
from service.store import durability
from service.store.connection import check, check_permissions, connect
from service.web.server import Server

log = logging.getLogger("service.web")


class PortTaken(RedisUnavailable):
    """The address cannot be listened on; the message says what to do."""


def run(options: argparse.Namespace, settings: Settings) -> int:
    """Serve until asked to stop. Raises RedisUnavailable, PortTaken."""
    logs.set_up(settings)
    check_port(settings)
    connection = connect(settings)
    check(connection, settings)
    check_permissions(connection, settings)
    for warning in durability.warnings(connection):
        log.warning("this Redis may lose jobs: %s", warning)
    Server(settings).run()
    return 0


def check_port(settings: Settings) -> None:
    """Make sure that HOST and PORT can be listened on. Raises PortTaken."""
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    with socket.socket(family) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as gunicorn does: TIME_WAIT is no obstacle
        try:
            probe.bind((settings.host, settings.port))
        except OSError as error:
            raise PortTaken(
                f"cannot listen on {settings.host}:{settings.port} ({error.strerror}): "
                f"stop what does, or set PORT to another, as in PORT={settings.port + 1}"
            ) from None
