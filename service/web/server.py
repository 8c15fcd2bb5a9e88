"""The web server: gunicorn with threads, the same on a laptop as in production."""

from __future__ import annotations

import resource
import signal
import threading
from types import FrameType
from typing import Any

from flask import Flask
from gunicorn.app.base import BaseApplication

from service import listen
from service.process import give_large_blocks_back
from service.settings import Settings
from service.web.app import create_app
from service.web.server_requests import MOST_LINE
from service.web.services import Services

GRACE = 10
"""Seconds that a web process may take to end."""


class Server(BaseApplication):  # type: ignore[misc]  # gunicorn has no types
    """Runs the app until it gets SIGTERM."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        give_large_blocks_back()
        # Many systems allow 1024 files, so as many sockets, unless one asks for more.
        _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
        super().__init__()

    def load_config(self) -> None:
        """Ours only: no configuration file and no GUNICORN_CMD_ARGS."""
        options = {
            "bind": listen.bind(self.settings),
            "workers": self.settings.web_concurrency,
            "worker_class": "service.web.threads.Worker",
            "threads": self.settings.web_threads,
            "graceful_timeout": GRACE,
            "worker_connections": self.settings.max_connections,
            "limit_request_line": MOST_LINE,
            "forwarded_allow_ips": "",  # nobody: no header of a client's says what gunicorn is to make of the request
            "keepalive": 75,  # seconds; a client that uses a connection just as it is closed sees an error
            "loglevel": "warning",
            "errorlog": "-",
            "control_socket_disable": True,
            "post_worker_init": _tell_relay_of_signals,
            "worker_exit": _close_relay,
        }
        for name, value in options.items():
            self.cfg.set(name, value)

    def load(self) -> Flask:
        """The app of one web process, made after the fork."""
        return create_app(self.settings)


def _tell_relay_of_signals(worker: Any) -> None:
    """Have the relay close its sockets as soon as the process is asked to end, not when all requests are answered."""
    services: Services = worker.wsgi.extensions["service"]
    for signum in (signal.SIGTERM, signal.SIGINT, signal.SIGQUIT):
        before = signal.getsignal(signum)

        def end(signum: int, frame: FrameType | None, before: Any = before) -> None:
            # In a thread: the main one, which a signal interrupts, may hold the relay's lock.
            threading.Thread(target=services.relay.close, args=(0,)).start()
            if callable(before):
                before(signum, frame)

        signal.signal(signum, end)


def _close_relay(arbiter: Any, worker: Any) -> None:
    """gunicorn knows nothing of the sockets that the relay has: they must be closed before the process ends."""
    if hasattr(worker, "wsgi"):
        services: Services = worker.wsgi.extensions["service"]
        services.relay.close(within=GRACE / 2)
