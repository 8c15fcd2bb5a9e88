"""gunicorn's worker with threads, in which each thread waits for requests itself.

gunicorn 27.0, workers/gthread.py, has one loop that waits for all connections, hands each request to a thread and
takes the connection back: of a short request that is the larger part of the work, since each of these steps gives way
to all other threads. Here the threads wait together in one epoll. Who is woken has the connection for itself, answers,
and puts it back. The loop is left with accepting connections and closing those that nobody uses.
"""

from __future__ import annotations

import itertools
import logging
import os
import select
import threading
import time
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

from gunicorn.http.body import LengthReader
from gunicorn.workers.gthread import STOP_KEEPALIVE_LINGER, TConn, ThreadWorker

log = logging.getLogger("service.web")

READABLE_ONCE = select.EPOLLIN | select.EPOLLONESHOT
LOOK = 0.1
"""Seconds between two looks of a process that ends at whether its last connection has gone."""


class Idle:
    """Connections that wait for a request, oldest first. Of those who want one, by its descriptor, one gets it."""

    def __init__(self) -> None:
        self._connections: dict[int, Any] = {}  # each step is one of the dict's, which no other thread sees half done

    def __len__(self) -> int:
        return len(self._connections)

    def __iter__(self) -> Iterator[Any]:
        return iter(list(self._connections.values()))

    def __getitem__(self, place: int) -> Any:
        """The oldest, as gunicorn's loop asks for it."""
        oldest = list(itertools.islice(self._connections.values(), 1))
        return oldest[0] if oldest else SimpleNamespace(timeout=0.0)

    def add(self, conn: Any) -> None:
        """It waits from now on."""
        self._connections[conn.sock.fileno()] = conn

    def take(self, descriptor: int) -> Any:
        """It waits no longer; None if somebody else has it."""
        return self._connections.pop(descriptor, None)


class Worker(ThreadWorker):  # type: ignore[misc]  # gunicorn has no types
    """Answers requests in `threads` threads. For HTTP/1 without TLS, which is all that the server offers."""

    def init_process(self) -> None:
        """Run, in the process of this worker."""
        # Settings become plain attributes: gunicorn looks some twenty of them up for each request.
        self.cfg.__dict__.update({name: setting.get() for name, setting in self.cfg.settings.items()})
        self.keepalived_conns = Idle()
        self._epoll = select.epoll()
        self._counting = threading.Lock()
        self._end_reader, self._end_writer = os.pipe()
        self._epoll.register(self._end_reader, select.EPOLLIN)  # not once: it wakes all
        super().init_process()

    def get_thread_pool(self) -> Any:
        """The threads, as far as gunicorn's worker wants to know of them."""
        for number in range(self.cfg.threads):
            threading.Thread(target=self._serve, name=f"web-{number}", daemon=True).start()
        return SimpleNamespace(shutdown=self._end)

    def accept(self, listener: Any) -> None:
        """Take a connection; its first request is waited for like any other."""
        try:
            client, address = listener.accept()
        except (BlockingIOError, ConnectionAbortedError):
            return
        self._count(1)
        conn = TConn(self.cfg, client, address, listener.getsockname())
        conn.data_ready = True  # whenever a thread gets it
        self._wait_for_request(conn, self._epoll.register)

    def murder_keepalived(self, force: bool = False) -> None:
        """Close the connections that nobody has used for too long, or all."""
        moment = time.monotonic()
        for conn in self.keepalived_conns:
            if conn.timeout > moment and not force:
                break
            if self.keepalived_conns.take(conn.sock.fileno()) is conn:
                self._close(conn, graceful=False)

    def wait_for_and_dispatch_events(self, timeout: float) -> None:
        """Accept connections; a process that ends looks more often: no thread says when it was the last."""
        super().wait_for_and_dispatch_events(timeout if self.alive else min(timeout, LOOK))

    def set_accept_enabled(self, enabled: bool) -> None:
        """Accept connections or not; a process that ends accepts those that wait, then refuses all others at once.

        gunicorn's own leaves its listeners open until the last request is answered. Whoever connects meanwhile waits
        for nobody, and is reset in the end.
        """
        super().set_accept_enabled(enabled)
        if enabled or self.alive:
            return
        for listener in self.sockets:
            while select.select([listener], [], [], 0)[0]:
                self.accept(listener)
            listener.close()

    def _serve(self) -> None:
        while True:
            for descriptor, _ in self._epoll.poll(maxevents=1):
                if descriptor == self._end_reader:
                    return
                conn = self.keepalived_conns.take(descriptor)
                if conn is not None:  # else it was closed at this moment
                    self._answer(conn)

    def _answer(self, conn: Any) -> None:
        keep = False
        try:
            keep = self.handle(conn) is True
            while keep and conn.parser.unreader.buf.getvalue():  # the next request came with this one
                keep = self.handle(conn) is True
            if keep:
                self._wait_for_request(conn, self._epoll.modify)
        except BaseException:
            log.exception("a request could not be answered")
            keep = False
        if not keep:
            self._close(conn)

    def _wait_for_request(self, conn: Any, arm: Any) -> None:
        conn.timeout = time.monotonic() + (self.cfg.keepalive if self.alive else STOP_KEEPALIVE_LINGER)
        self.keepalived_conns.add(conn)
        arm(conn.sock.fileno(), READABLE_ONCE)

    def _close(self, conn: Any, graceful: bool = True) -> None:
        self._count(-1)
        conn.close(graceful)

    def _count(self, change: int) -> None:
        with self._counting:
            self.nr_conns += change

    def _end(self, wait: bool) -> None:
        os.write(self._end_writer, b"!")

    def _keepalive_after(self, conn: Any, keepalive: Any) -> bool:
        """Whether the connection is fit for another request. A body that was read to its end is not drained.

        gunicorn 27.0, http/parser.py: finish_body, here and before the next request, sets the socket's timeout and
        resets it, and gives way each time.
        """
        body = conn.parser.mesg.body
        if keepalive and type(body.reader) is LengthReader and body.reader.length == 0 and not body.failed:
            conn.parser.mesg = None  # nothing is left of it
            return True
        return bool(super()._keepalive_after(conn, keepalive))
