"""Requests and answers on a connection, step by step: each does what can be done now, and never waits for a client."""

from __future__ import annotations

import logging
import socket
import time
from collections.abc import Callable
from typing import Any

from gunicorn.http import wsgi
from gunicorn.http.errors import NoMoreData
from gunicorn.workers.gthread import STOP_KEEPALIVE_LINGER

from service.web import server_refusals
from service.web.server_connection import Answer, Connection, Limits
from service.web.server_refusals import CutOff, NoRoom, TooLate
from service.web.server_requests import RequestReader
from service.web.server_waiting import READABLE, WRITABLE, Waiting

log = logging.getLogger("service.web")


class Exchange:
    """What all connections of a process have in common."""

    def __init__(self, cfg: Any, limits: Limits, waiting: Waiting, closed: Callable[[], None]) -> None:
        """`closed` is called for each connection that is closed or handed over."""
        self._cfg = cfg
        self._limits = limits
        self._waiting = waiting
        self._closed = closed
        self.app: Any = None
        """The WSGI application; there before the first connection is."""
        self.ends = False
        """Whether the process ends: each answer is the last of its connection."""

    def open(self, client: socket.socket, address: Any, server: Any) -> None:
        """A connection has come; its first request is waited for like any other."""
        requests = RequestReader(self._cfg, address, self._limits.body_bytes)
        conn = Connection(client, address, server, requests, time.monotonic())
        try:
            self._wait(conn, READABLE)
        except OSError:
            self.close(conn)

    def advance(self, conn: Connection) -> bool:
        """Do what can be done without the app; whether the app has something to do now, in `work`.

        If not, the connection waits, or is gone.
        """
        try:
            return self._step(conn)
        except NoMoreData:  # of gunicorn's parser, which was given all that there is
            return self._refuse(conn, CutOff("the head of the request ends too early"))
        except OSError:  # the client has gone
            return self.close(conn)
        except Exception as error:
            return self._refuse(conn, error)

    def work(self, conn: Connection) -> None:
        """Have the app answer a request, or go on with its answer; `advance` must follow."""
        try:
            if conn.answer is None:
                conn.answer = self._begin(conn)
            conn.answer.go_on(conn)
        except StopIteration:  # the relay has the socket now; or as flask-sock says that all is said
            conn.answer, conn.keep = None, False
        except BaseException as error:
            conn.failed = error

    def late(self, conn: Connection) -> None:
        """The time of a connection that waited is over."""
        if (conn.unsent or conn.lingers) and conn.reads_on():
            self.advance(conn)
            return
        self._end(conn, TooLate("the request was not whole in time"))

    def crowded(self, conn: Connection) -> None:
        """One that waited has to make room."""
        self._end(conn, NoRoom())

    def close(self, conn: Connection) -> bool:
        """It ends at once; False, since there is nothing more to do."""
        self._waiting.forget(conn)
        conn.close()
        self._closed()
        return False

    def _end(self, conn: Connection, why: Exception) -> None:
        # A half answer can only be cut off.
        if conn.lingers or conn.unsent or not conn.requests.begun:
            self.close(conn)
        else:
            self._refuse(conn, why)

    # --- the steps --------------------------------------------------------------------------------

    def _step(self, conn: Connection) -> bool:
        if conn.sock is None:
            return self.close(conn)
        if conn.failed is not None:
            return self._fail(conn, conn.failed)
        if conn.lingers:
            conn.discard()
            return self.close(conn) if conn.ended else self._wait(conn, READABLE)
        if conn.unsent and not conn.flush():
            return self._wait(conn, WRITABLE)
        if conn.answer is not None and not conn.answer.over:
            return True
        if not conn.keep:
            return self._finish(conn)
        return self._next_request(conn)

    def _next_request(self, conn: Connection) -> bool:
        if conn.answer is not None:
            conn.next_one()
        elif not conn.receive():
            return self._wait(conn, READABLE)
        conn.request = conn.requests.next()
        if conn.request is not None:
            return True
        if conn.ended:
            return self._cut_off(conn)
        conn.say_continue()
        return self._wait(conn, READABLE)

    def _cut_off(self, conn: Connection) -> bool:
        if not conn.requests.begun:
            return self.close(conn)
        return self._refuse(conn, CutOff("the request ended before it was whole"))

    def _finish(self, conn: Connection) -> bool:
        if conn.ended:
            return self.close(conn)
        conn.linger(time.monotonic())
        return self._wait(conn, READABLE)

    def _begin(self, conn: Connection) -> Answer:
        conn.request._expected_100_continue = False  # gunicorn would say it now; the body is here
        response, environ = wsgi.create(conn.request, conn, conn.client, conn.server, self._cfg)
        environ["wsgi.multithread"] = True
        if self.ends:
            response.force_close()
        return Answer(response, self.app(environ, response.start_response))

    def _fail(self, conn: Connection, error: BaseException) -> bool:
        conn.failed = None
        if conn.answer is None and isinstance(error, Exception):
            return self._refuse(conn, error)
        log.error("an answer could not be made to its end", exc_info=error)
        return self.close(conn)

    def _refuse(self, conn: Connection, error: Exception) -> bool:
        request = conn.request or conn.requests.request
        conn.request, conn.keep = None, False
        conn.requests.forget()
        try:
            conn.sendall(server_refusals.answer(error, request, self._limits.body_bytes))
        except Exception:  # a thread, or the loop itself, would end of it
            log.exception("a request could not be refused")
            return self.close(conn)
        return self.advance(conn)

    def _wait(self, conn: Connection, events: int) -> bool:
        now = time.monotonic()
        conn.wait_from(now, self._limits)
        if self.ends and conn.is_idle:
            conn.deadline = min(conn.deadline, now + STOP_KEEPALIVE_LINGER)
        self._waiting.add(conn, events)
        return False
