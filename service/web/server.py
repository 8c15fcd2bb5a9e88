"""The web server: gunicorn with threads, the same on a laptop as in production."""

from __future__ import annotations

import signal
import threading
from types import FrameType
from typing import Any

from flask import Flask
from gunicorn.app.base import BaseApplication
from gunicorn.workers.gthread import ThreadWorker

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
            "worker_class": "service.web.server.Worker",
            "threads": self._settings.web_threads,
            "graceful_timeout": 10,
            "keepalive": 75,  # seconds; a client that uses a connection just as it is closed sees an error
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


class Worker(ThreadWorker):  # type: ignore[misc]
    """gunicorn's worker with threads, which closes connections in them.

    gunicorn 27.0, workers/gthread.py: finish_request closes on the main loop, and waits there for up to
    2 s until the client has closed its side: meanwhile the whole process answers nobody.
    """

    def handle(self, conn: Any) -> Any:
        """Answer one request; in one of the threads."""
        keep = super().handle(conn)
        if keep is False:
            conn.close(graceful=True)
            conn.close = lambda graceful=False: None
        return keep


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
