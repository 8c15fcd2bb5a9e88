"""One WebSocket that watches one job: JSON text frames, then a close that says why.

One thread, the handler's, writes events; simple-websocket's own thread answers pings. All writes are
whole and have a deadline: a client that does not read is closed, and nobody else waits for it.
"""

from __future__ import annotations

import contextlib
import json
import logging
import socket
import struct
import threading
from collections.abc import Iterable
from functools import partial
from typing import Any

import redis
from simple_websocket import ConnectionClosed

from service.relay.loop import TooManyWaiters
from service.relay.watch import Closing, RelayNotLive
from service.store.events import Event, InvalidCursor
from service.store.jobs import JobGone, JobNotFound

log = logging.getLogger("service.relay")

CLOSE_WITHIN = 1
"""Seconds in which a client may answer a close."""
SEND_WITHIN = 10
"""Seconds in which a client must take what is sent to it."""
MOST_MESSAGES = 100
"""A watcher has nothing to say; one that says more than this is closed."""
PING_INTERVAL = 12
"""A peer that answers no ping is found within two of these."""
SERVER_OPTIONS = {
    "ping_interval": PING_INTERVAL,
    "max_message_size": 4096,
    # Daemons: one that waits for its next ping must not keep a process from ending.
    "thread_class": partial(threading.Thread, daemon=True),
}
"""For simple-websocket, through flask-sock."""

DONE = 1000
POLICY = 1008
INTERNAL = 1011
RESTART = 1012
TRY_LATER = 1013
BAD_CURSOR = 4400
UNKNOWN_JOB = 4404
GONE_JOB = 4410


def serve(ws: Any, watch: Iterable[Event | None], job_id: str) -> None:
    """Send all that a watch yields, then close with a code and, unless all went well, a JSON reason."""
    ws.sock = _WholeWrites(ws.sock)
    heard = 0
    try:
        for event in watch:
            if not ws.connected:
                return
            if event is not None:
                ws.send(event.text)
            heard += _drain(ws)
            if heard > MOST_MESSAGES:
                _close(ws, POLICY, "too-many-messages", "this socket takes no messages")
                return
        ws.close(DONE)
    except ConnectionClosed:
        pass
    except OSError:  # it did not read for SEND_WITHIN seconds, or it is gone
        ws.connected = False
    except Exception as error:
        _close(ws, *_reason(error, job_id))
    finally:
        ws.thread.join(CLOSE_WITHIN)  # it reads the client's answer to our close
        with contextlib.suppress(OSError):
            ws.sock.shutdown(socket.SHUT_RDWR)


def _drain(ws: Any) -> int:
    """Drop what the client said, which simple-websocket would keep; how many messages it was."""
    count = len(ws.input_buffer)
    del ws.input_buffer[:count]  # not clear(): its thread may be adding to it
    return count


def _reason(error: Exception, job_id: str) -> tuple[int, str, str]:
    match error:
        case JobNotFound():
            return UNKNOWN_JOB, "job-not-found", "no job has this id"
        case JobGone():
            return GONE_JOB, "job-gone", "the job has expired or was erased"
        case InvalidCursor():
            return BAD_CURSOR, "invalid-cursor", "after is not the id of an event"
        case Closing():
            return RESTART, "restarting", "reconnect, with after=<last id>"
        case TooManyWaiters():
            return TRY_LATER, "too-many-waiters", "reconnect later, with after=<last id>"
        case RelayNotLive() | redis.exceptions.RedisError():
            log.warning("a watcher cannot be served: %r", error, extra={"job_id": job_id})
            return TRY_LATER, "unavailable", "reconnect, with after=<last id>"
    log.error("a watcher met an error", exc_info=error, extra={"job_id": job_id})
    return INTERNAL, "internal", "an error of the service"


def _close(ws: Any, code: int, kind: str, title: str) -> None:
    # A close frame has room for 123 bytes of reason.
    with contextlib.suppress(ConnectionClosed, OSError):
        ws.close(code, json.dumps({"type": kind, "title": title}))


class _WholeWrites:
    """A socket whose `send` sends all, one caller at a time, or raises OSError after SEND_WITHIN seconds.

    simple-websocket 1.1 calls sock.send from two threads, and takes what one call sends for all.
    """

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self._sending = threading.Lock()
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, struct.pack("ll", SEND_WITHIN, 0))

    def send(self, data: bytes) -> int:
        with self._sending:
            self._sock.sendall(data)
        return len(data)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._sock, name)
