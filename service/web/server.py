"""The web server: gunicorn with threads, the same on a laptop as in production."""

from __future__ import annotations

import resource
import signal
import threading
from types import FrameType
from typing import Any

from flask import Flask
from gunicorn.app.base import BaseApplication
from gunicorn.http.wsgi import Response

from service.settings import Settings
from service.web.app import create_app
from service.web.services import Services

GRACE = 10
"""Seconds that a web process may take to end."""
SHORT = 64 * 1024
"""Bytes of an answer that is sent in one piece."""


class Server(BaseApplication):  # type: ignore[misc]  # gunicorn has no types
    """Runs the app until it gets SIGTERM."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        # Many systems allow 1024 files, so as many sockets, unless one asks for more.
        _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
        super().__init__()

    def load_config(self) -> None:
        """Ours only: no configuration file and no GUNICORN_CMD_ARGS."""
        options = {
            "bind": f"{self._settings.host}:{self._settings.port}",
            "workers": self._settings.web_concurrency,
            "worker_class": "service.web.threads.Worker",
            "threads": self._settings.web_threads,
            "graceful_timeout": GRACE,
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
        app = create_app(self._settings)
        app.wsgi_app = InOnePiece(app.wsgi_app)  # type: ignore[method-assign]  # as Flask tells to wrap it
        return app


class InOnePiece:
    """Sends a short answer's head and body at once: gunicorn 27.0, http/wsgi.py, sends one after the other.

    Each send gives way to the other threads, and wakes the client.
    """

    def __init__(self, application: Any) -> None:
        self._application = application

    def __call__(self, environ: dict[str, Any], start_response: Any) -> Any:
        """Answer a request."""
        answer = self._application(environ, start_response)
        response: Any = getattr(start_response, "__self__", None)
        if type(response) is not Response or isinstance(answer, environ["wsgi.file_wrapper"]):
            return answer
        length = response.response_length
        if response.headers_sent or response._omits_body or length is None or length > SHORT:
            return answer
        try:
            body = b"".join(answer)
        finally:
            if hasattr(answer, "close"):
                answer.close()
        if len(body) == length:
            lines = [*response.default_headers(), *(f"{name}: {value}\r\n" for name, value in response.headers)]
            response.sock.sendall(f"{''.join(lines)}\r\n".encode("latin-1") + body)
            response.headers_sent = True
            return ()
        return (body,)


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
