"""gunicorn's worker with threads, in which no thread waits for a client.

gunicorn 27.0, workers/gthread.py, has one loop that waits for all connections, hands each request to a thread and
takes the connection back: of a short request that is the larger part of the work, since each of these steps gives way
to all other threads. And its threads wait for what a client has not sent or read yet. Here the threads wait together
in one epoll. The one that is woken has the connection for itself, takes what has come, answers the request if it is
whole, sends what the kernel takes, and puts the connection back. The loop is left with accepting connections and
closing those whose time is over; and while all threads are busy, with all that needs none.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import select
import threading
import time
from collections import deque
from types import SimpleNamespace
from typing import Any

from gunicorn.workers.gthread import ThreadWorker

from service.web.server_connection import Connection, Limits
from service.web.server_exchange import Exchange
from service.web.server_waiting import Waiting

log = logging.getLogger("service.web")

LOOK = 0.1
"""Seconds between two looks of the loop: at threads that are all busy, at its last connection when it ends."""
SWEEP = 0.5
"""Seconds between two looks at the deadlines of all connections."""
READ_AHEAD = 256
"""Connections that the loop reads in one look, when all threads are busy."""
REST = 0.5
"""Seconds for which no connection is accepted when the system has no more."""
TOLD = 60.0
"""Seconds without that after which it is logged again."""
MADE_ROOM = 16
"""Connections that are closed to make room for others."""
NO_MORE = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)


class Worker(ThreadWorker):  # type: ignore[misc]  # gunicorn has no types
    """Answers requests in `threads` threads. For HTTP/1 without TLS, which is all that the server offers."""

    def init_process(self) -> None:
        """Run, in the process of this worker."""
        # Settings become plain attributes: gunicorn looks some twenty of them up for each request.
        self.cfg.__dict__.update({name: setting.get() for name, setting in self.cfg.settings.items()})
        self._most_pending = self.app.settings.max_pending_bytes
        self._epoll = select.epoll()
        self._waiting = Waiting(self._epoll)
        self._counting = threading.Lock()
        self._exchange = Exchange(self.cfg, self._limits(), self._waiting, lambda: self._count(-1))
        self._busy = [False] * self.cfg.threads
        self._ready: deque[Connection] = deque()
        """With requests that the loop has read while all threads were busy."""
        self._ready_reader, self._ready_writer = os.pipe()
        self._end_reader, self._end_writer = os.pipe()
        os.set_blocking(self._ready_reader, False)
        os.set_blocking(self._ready_writer, False)
        for descriptor in (self._ready_reader, self._end_reader):
            self._epoll.register(descriptor, select.EPOLLIN)  # not once: the end wakes all
        self._sweep_at = self._accept_at = self._tell_at = 0.0
        self._has_ended = False
        super().init_process()

    def load_wsgi(self) -> None:
        """Make the app."""
        super().load_wsgi()
        self._exchange.app = self.wsgi

    def get_thread_pool(self) -> Any:
        """The threads, as far as gunicorn's worker wants to know of them."""
        for number in range(self.cfg.threads):
            threading.Thread(target=self._serve, args=(number,), name=f"web-{number}", daemon=True).start()
        return SimpleNamespace(shutdown=self._end)

    def _limits(self) -> Limits:
        settings = self.app.settings
        return Limits(
            head=settings.head_timeout,
            body=settings.body_timeout,
            body_rate=settings.min_body_rate,
            body_bytes=settings.max_body_bytes,
            send=settings.send_timeout,
            keepalive=self.cfg.keepalive,
        )

    # --- the loop, which is gunicorn's ------------------------------------------------------------

    def accept(self, listener: Any) -> None:
        """Take a connection."""
        try:
            client, address = listener.accept()
        except OSError as error:  # mostly: it has gone already
            if error.errno in NO_MORE:
                self._rest(error)
            return
        self._count(1)
        self._exchange.open(client, address, listener.getsockname())

    def _rest(self, error: OSError) -> None:
        """The system has no more connections: go on with those that are there, less some that say nothing."""
        now = time.monotonic()
        if now > self._tell_at:
            log.warning("no connection can be accepted for now: %s", error.strerror)
        self._tell_at, self._accept_at = now + TOLD, now + REST
        if self.alive:
            self.set_accept_enabled(False)
        self._make_room()

    def _make_room(self) -> None:
        for conn in self._waiting.take_least(MADE_ROOM):
            self._exchange.close(conn)

    def set_accept_enabled(self, enabled: bool) -> None:
        """Accept connections or not; a process that ends accepts those that wait, then refuses all others at once.

        gunicorn's own leaves its listeners open until the last request is answered. Whoever connects meanwhile waits
        for nobody, and is reset in the end.
        """
        if enabled and time.monotonic() < self._accept_at:
            return
        super().set_accept_enabled(enabled)
        if enabled or self.alive:
            return
        self._exchange.ends = True
        for listener in self.sockets:
            while time.monotonic() > self._accept_at and select.select([listener], [], [], 0)[0]:
                self.accept(listener)
            listener.close()

    def wait_for_and_dispatch_events(self, timeout: float) -> None:
        """Accept connections; have room for them; and do what needs no thread while none is free."""
        if self.nr_conns >= self.worker_connections:
            self._make_room()
        super().wait_for_and_dispatch_events(min(timeout, LOOK))
        if self._waiting.pending > self._most_pending:
            for conn in self._waiting.take_pending(self._most_pending):
                self._exchange.crowded(conn)
        if all(self._busy):
            self._read_ahead()

    def _read_ahead(self) -> None:
        """Read what has come, for the threads; a health check is answered at once."""
        for descriptor, _ in self._epoll.poll(0, READ_AHEAD):
            conn = self._waiting.take(descriptor)
            while conn is not None and self._exchange.advance(conn):
                if conn.answer is not None or conn.request.path != "/healthz":
                    self._ready.append(conn)
                    with contextlib.suppress(BlockingIOError):  # they have been woken often enough
                        os.write(self._ready_writer, b"!")
                    break
                self._exchange.work(conn)

    def murder_keepalived(self, force: bool = False) -> None:
        """Close the connections whose time is over, or all."""
        now = time.monotonic()
        if force:
            for conn in self._waiting.take_all():
                self._exchange.close(conn)
        elif now > self._sweep_at:
            self._sweep_at = now + SWEEP
            for conn in self._waiting.take_late(now):
                self._exchange.late(conn)

    def _cap_keepalive(self, deadline: float) -> None:
        for conn in self._waiting:
            if conn.is_idle:
                conn.deadline = min(conn.deadline, deadline)

    # --- a thread ---------------------------------------------------------------------------------

    def _serve(self, number: int) -> None:
        exchange, busy = self._exchange, self._busy
        while True:
            has_work = bool(self._ready)
            conn = self._next_ready() if has_work else self._next_woken()
            if conn is None:  # it was closed at this moment, or another thread has it
                if self._has_ended:
                    return
                continue
            busy[number] = True
            while has_work or exchange.advance(conn):
                exchange.work(conn)
                has_work = False
            busy[number] = False

    def _next_woken(self) -> Connection | None:
        for descriptor, _ in self._epoll.poll(maxevents=1):
            if descriptor != self._ready_reader:
                return self._waiting.take(descriptor)
            with contextlib.suppress(BlockingIOError):
                os.read(self._ready_reader, READ_AHEAD)
        return None

    def _next_ready(self) -> Connection | None:
        with contextlib.suppress(IndexError):
            return self._ready.popleft()
        return None

    def _count(self, change: int) -> None:
        with self._counting:
            self.nr_conns += change

    def _end(self, wait: bool) -> None:
        self._has_ended = True
        os.write(self._end_writer, b"!")
