"""The web server: gunicorn with threads, the same on a laptop as in production."""

from __future__ import annotations

import logging
import resource
import select
import signal
import threading
from collections.abc import Callable
from queue import SimpleQueue
from types import FrameType
from typing import Any, NamedTuple

from flask import Flask
from gunicorn.app.base import BaseApplication
from gunicorn.http.body import LengthReader
from gunicorn.http.wsgi import Response
from gunicorn.workers.gthread import ThreadWorker

from service.settings import Settings
from service.web.app import create_app
from service.web.services import Services

log = logging.getLogger("service.web")

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
            "worker_class": "service.web.server.Worker",
            "threads": self._settings.web_threads,
            "graceful_timeout": GRACE,
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


class Threads:
    """What gunicorn's worker needs of an executor. One of the standard library spends as much on a request's future,
    its locks and its semaphore as Flask on its routing.
    """

    def __init__(self, count: int) -> None:
        self._count = count
        self._calls: SimpleQueue[tuple[Callable[[Any], None], Any] | None] = SimpleQueue()
        for number in range(count):
            # Daemons: a process that ends without `shutdown`, since its app cannot be loaded, is not to wait for them.
            threading.Thread(target=self._run, name=f"web-{number}", daemon=True).start()

    def submit(self, function: Callable[[Any], None], argument: Any) -> None:
        """Have one of the threads call it."""
        self._calls.put((function, argument))

    def shutdown(self, wait: bool) -> None:
        """End the threads, once they have done what was submitted."""
        for _ in range(self._count):
            self._calls.put(None)

    def _run(self) -> None:
        while call := self._calls.get():
            function, argument = call
            try:
                function(argument)
            except BaseException:
                log.exception("a thread met an error")


class Handled(NamedTuple):
    """How a request ended, in the form of a future."""

    outcome: Any

    def result(self) -> Any:
        return self.outcome

    def cancelled(self) -> bool:
        return False


class Worker(ThreadWorker):  # type: ignore[misc]
    """gunicorn's worker with threads, in which less is left to the main loop, and listeners close in time.

    gunicorn 27.0, workers/gthread.py: finish_request closes on the main loop, and waits there for up to
    2 s until the client has closed its side: meanwhile the whole process answers nobody.
    """

    def get_thread_pool(self) -> Threads:
        """The threads that answer requests."""
        return Threads(self.cfg.threads)

    def enqueue_req(self, conn: Any) -> None:
        """Have a thread answer the next request of a connection."""
        self.tpool.submit(self._serve, conn)

    def _serve(self, conn: Any) -> None:
        outcome: Any = False
        try:
            outcome = self.handle(conn)
        finally:
            if outcome is True:
                # Here, and not on the main loop: nobody must be woken for it. It ends with epoll_ctl, after which
                # the connection is the main loop's.
                self.finish_request(conn, Handled(True))
            else:
                self.method_queue.defer(self.finish_request, conn, Handled(outcome))

    def handle(self, conn: Any) -> Any:
        """Answer one request; in one of the threads."""
        keep = super().handle(conn)
        if keep is False:
            conn.close(graceful=True)
            conn.close = lambda graceful=False: None
        return keep

    def _keepalive_after(self, conn: Any, keepalive: Any) -> bool:
        """Whether the connection is fit for another request. A body that is read to its end is not drained.

        gunicorn 27.0, http/parser.py: finish_body sets and resets the socket's timeout for it, and gives way each time.
        """
        body = conn.parser.mesg.body
        if keepalive and type(body.reader) is LengthReader and body.reader.length == 0 and not body.failed:
            return True
        return bool(super()._keepalive_after(conn, keepalive))

    def set_accept_enabled(self, enabled: bool) -> None:
        """Accept connections or not; a process that ends accepts those that wait, then refuses all others at once.

        gunicorn 27.0, workers/gthread.py: run leaves its listeners open until the last request is answered.
        Whoever connects meanwhile waits for nobody, and is reset in the end.
        """
        super().set_accept_enabled(enabled)
        if enabled or self.alive:
            return
        for listener in self.sockets:
            while select.select([listener], [], [], 0)[0]:
                self.accept(listener)
            listener.close()


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
