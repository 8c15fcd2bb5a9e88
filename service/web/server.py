"""The web server: gunicorn with threads, the same on a laptop as in production."""

from __future__ import annotations

import signal
import threading
from types import FrameType
from typing import Any

from flask import Flask
from gunicorn.app.base import BaseApplication

from service.settings import Settings
from service.web.app import create_app
from service.web.services import Services


class Server(BaseApplication):  # type: ignore[misc]  # gunicorn has no types
    """Runs the app until it gets SIGTERM."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        super().__init__()

    def load_config(self) -> None:
        """Ours only: no configuration file and no GUNICORN_CMD_ARGS."""
        options = {
            "bind": f"{self._settings.host}:{self._settings.port}",
            "workers": self._settings.web_concurrency,
            "worker_class": "gthread",
            "threads": self._settings.web_threads,
            "graceful_timeout": 10,
            "loglevel": "warning",
            "errorlog": "-",
            "control_socket_disable": True,
            "post_worker_init": _close_relay_on_exit,
        }
        for name, value in options.items():
            self.cfg.set(name, value)

    def load(self) -> Flask:
        """The app of one web process, made after the fork."""
        return create_app(self._settings)


def _close_relay_on_exit(worker: Any) -> None:
    """gunicorn waits for open sockets and says nothing to them: so they must hear of its end from us."""
    services: Services = worker.wsgi.extensions["service"]
    for signum in (signal.SIGTERM, signal.SIGINT, signal.SIGQUIT):
        before = signal.getsignal(signum)

        def end(signum: int, frame: FrameType | None, before: Any = before) -> None:
            # In a thread: the main one, which a signal interrupts, may hold the relay's lock.
            threading.Thread(target=services.relay.close).start()
            if callable(before):
                before(signum, frame)

        signal.signal(signum, end)
