"""WebSockets on the relay's loop: frames in and out, pings, and closes that say why.

flask-sock makes the handshake; what comes after it is here. wsproto reads what a client sends; what it is
sent is framed by hand, once for all the sockets that get it.
"""

from __future__ import annotations

import json
import logging
import struct
from collections.abc import Collection
from typing import Any

import redis
import wsproto.events as received
from wsproto.connection import Connection, ConnectionState, ConnectionType
from wsproto.utilities import LocalProtocolError

from service.relay.loop import NotLive, Relay
from service.relay.peer import Peer
from service.relay.watch import Watch
from service.store.events import BEGINNING, TYPES, Event, InvalidCursor, cursor, told
from service.store.jobs import JobGone, JobNotFound

log = logging.getLogger("service.relay")

MOST_MESSAGES = 100
"""The watcher of one job has nothing to say; one that says more than this is closed."""
LARGEST_MESSAGE = 4096

DONE = 1000
POLICY = 1008
TOO_LARGE = 1009
INTERNAL = 1011
RESTART = 1012
TRY_LATER = 1013
BAD_REQUEST = 4400
UNKNOWN_JOB = 4404
TOO_SLOW = 4408
GONE_JOB = 4410

_PING = b"\x89\x00"


class InvalidTypes(ValueError):
    """These are no types of events."""


def as_text_frame(event: Event) -> bytes:
    """An event as one message."""
    return frame(0x81, event.text.encode())


def frame(head: int, data: bytes) -> bytes:
    """A whole frame of an unmasked message; `head` is FIN and the opcode. Source: RFC 6455, section 5.2."""
    length = len(data)
    if length < 126:
        return b"%c%c%b" % (head, length, data)
    if length < 0x10000:
        return b"%c\x7e%c%c%b" % (head, length >> 8, length & 0xFF, data)
    return struct.pack("!BBQ", head, 127, length) + data


def why(error: Exception) -> tuple[int, str, str]:
    """The close code, the type and the title of what keeps a watch from going on."""
    match error:
        case JobNotFound():
            return UNKNOWN_JOB, "job-not-found", "no job has this id"
        case JobGone():
            return GONE_JOB, "job-gone", "the job has expired or was erased"
        case InvalidCursor():
            return BAD_REQUEST, "invalid-cursor", "after is not the id of an event"
        case InvalidTypes():
            return BAD_REQUEST, "invalid-types", str(error)
        case NotLive() | redis.exceptions.RedisError():
            log.warning("a watcher cannot be served: %r", error)
            return TRY_LATER, "unavailable", "reconnect, with after=<last id>"
    log.error("a watcher met an error", exc_info=error)
    return INTERNAL, "internal", "an error of the service"


def complaint(kind: str, title: str, job_id: str = "") -> Event:
    """What a client is told of a job, or of something else that it asked for, and does not get."""
    return told(BEGINNING, job_id, "error", {"type": kind, "title": title})


def event_types(text: str | None) -> frozenset[str] | None:
    """The types in a comma-separated list; None, all, without one. Raises InvalidTypes."""
    if text is None:
        return None
    asked = frozenset(text.split(","))
    if unknown := asked - TYPES:
        raise InvalidTypes(f"types: {min(unknown)[:20]!r} is no type of event")
    return asked


class WebSocket(Peer):
    """One socket; subclasses know what it watches."""

    __slots__ = ("_alive", "_connection", "_heard", "_parts", "_size")

    largest_message = LARGEST_MESSAGE

    def __init__(self, relay: Relay) -> None:
        super().__init__(relay)
        self._connection: Connection | None = None  # made when the client says something
        self._alive = True
        self._size = 0
        self._heard = 0
        self._parts: list[str] = []

    def message(self, text: str) -> None:
        """The client said something."""
        raise NotImplementedError

    encode = staticmethod(as_text_frame)

    def restart(self) -> None:
        self.close(RESTART, "restarting", "reconnect, with after=<last id>")

    def too_slow(self) -> None:
        self.close(TOO_SLOW, "too-slow", "read faster; reconnect, with after=<last id>")

    def close(self, code: int, kind: str = "", title: str = "") -> None:
        """Close with a code and, unless all went well, a JSON reason. A close has room for 123 bytes of it."""
        if not self.closing:
            reason = json.dumps({"type": kind, "title": title}) if kind else ""
            self.write(frame(0x88, struct.pack("!H", code) + reason.encode()[:123]))
            self.close_soon()

    def beat(self) -> None:
        if self._alive:
            self._alive = False
            self.write(_PING)
        else:
            self.close(POLICY, "no-pong", "no answer to a ping")

    def data_received(self, data: bytes) -> None:
        self._alive = True
        if self._connection is None:
            self._connection = Connection(ConnectionType.SERVER)
        try:
            self._connection.receive_data(data)
            for event in self._connection.events():
                self._hear(event)
        except LocalProtocolError:  # it goes on after its own close
            self._transport.abort()
        except Exception as error:  # one client must not end all others
            log.exception("a client's message met an error")
            self.close(*why(error))

    def eof_received(self) -> None:
        """The transport is closed then."""

    def _hear(self, event: received.Event) -> None:
        if isinstance(event, received.Ping):
            if not self.closing:
                self.write(frame(0x8A, bytes(event.payload)))
        elif isinstance(event, received.CloseConnection):
            self._hear_close(event)
        elif isinstance(event, received.Message) and not self.closing:
            self._hear_part(event)

    def _hear_part(self, part: received.Message[Any]) -> None:
        self._size += len(part.data)
        if self._size > self.largest_message:
            self.close(TOO_LARGE, "message-too-large", f"at most {self.largest_message} bytes")
            return
        self._parts.append(part.data)
        if part.message_finished:
            text = "".join(self._parts) if isinstance(part, received.TextMessage) else ""
            self._parts, self._size = [], 0
            self._heard += 1
            self.message(text)

    def _hear_close(self, close: received.CloseConnection) -> None:
        asked = self._connection is not None and self._connection.state is not ConnectionState.OPEN
        if not self.closing:  # else it is the answer to ours
            self.write(frame(0x88, b"" if close.code == 1005 else struct.pack("!H", close.code)))
            self.close_soon()
        if asked:  # else wsproto tells so that the client breaks the protocol: let it read why
            self._transport.close()


class JobSocket(WebSocket):
    """The socket of a watcher of one job."""

    __slots__ = ("_after", "_job_id", "_types", "_watch")

    def __init__(self, relay: Relay, job_id: str, after: str | None, types: str | None) -> None:
        """`after` and `types` as the client wrote them."""
        super().__init__(relay)
        self._job_id = job_id
        self._after = after
        self._types = types
        self._watch: Watch | None = None

    def begin(self) -> None:
        try:
            after = None if self._after is None else cursor(self._after)
            types: Collection[str] | None = event_types(self._types)
        except ValueError as error:
            self.close(*why(error))
            return
        self._watch = Watch(self._relay, self, self._job_id, after, types)
        self._relay.join(self._watch)

    def message(self, text: str) -> None:
        if self._heard > MOST_MESSAGES:
            self.close(POLICY, "too-many-messages", "this socket takes no messages")

    def over(self, watch: Watch) -> None:
        self.close(DONE)

    def failed(self, watch: Watch, error: Exception) -> None:
        self.close(*why(error))

    def left(self) -> None:
        if self._watch is not None:
            self._watch.leave()
