"""WebSockets on the relay's loop: frames in and out, pings, and closes that say why.

flask-sock makes the handshake; what comes after it is here. wsproto reads what a client sends; what it is
sent is framed by hand, once for all the sockets that get it.
"""

from __future__ import annotations

import json
import struct
import time
from collections.abc import Collection
from typing import Any

import wsproto.events as received
from wsproto.connection import Connection, ConnectionState, ConnectionType
from wsproto.utilities import LocalProtocolError

from service.relay.loop import Relay
from service.relay.peer import Peer
from service.relay.readers import NotLive
from service.relay.watch import Watch
from service.store.away import is_away
from service.store.events import BEGINNING, TYPES, Event, InvalidCursor, cursor, told
from service.store.job import ID
from service.store.jobs import JobGone, JobNotFound

MOST_MESSAGES = 100
"""The watcher of one job has nothing to say; one that says more than this is closed."""
LARGEST_MESSAGE = 4096
FRAMES, FRAMES_PER_SECOND = 2_000, 200
"""Frames of any kind, or pieces of large ones, that a client may send at once, and in the long run."""
LARGEST_REASON = 123
"""Bytes of a close's reason. Source: RFC 6455, section 5.5."""

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
        case NotLive():
            return TRY_LATER, "unavailable", "reconnect, with after=<last id>"
    if is_away(error):
        return TRY_LATER, "unavailable", "reconnect, with after=<last id>"
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

    __slots__ = ("_alive", "_allowance", "_allowed_at", "_connection", "_heard", "_is_deaf", "_parts", "_size")

    largest_message = LARGEST_MESSAGE

    def __init__(self, relay: Relay) -> None:
        super().__init__(relay)
        self._connection: Connection | None = None  # made when the client says something
        self._alive = True
        self._allowance = float(FRAMES)
        self._allowed_at = 0.0
        self._size = 0
        self._heard = 0
        self._is_deaf = False  # what it says is read, and not looked at
        self._parts: list[str] = []

    def message(self, text: str) -> None:
        """The client said something."""
        raise NotImplementedError

    def is_busy(self) -> bool:
        """Whether what the client said is still to be done: until then no more of it is read."""
        return False

    encode = staticmethod(as_text_frame)

    def restart(self) -> None:
        self.close(RESTART, "restarting", "reconnect, with after=<last id>")

    def too_slow(self) -> None:
        self.close(TOO_SLOW, "too-slow", "read faster; reconnect, with after=<last id>")

    def broke(self) -> None:
        self.close(INTERNAL, "internal", "an error of the service")

    def close(self, code: int, kind: str = "", title: str = "") -> None:
        """Close with a code and, unless all went well, a JSON reason."""
        if not self.closing:
            self.write(frame(0x88, struct.pack("!H", code) + _reason(kind, title)))
            self._leave()

    def refuse(self, code: int, kind: str, title: str) -> None:
        """Close, and listen no more to what the client says."""
        self._is_deaf = True
        self._connection = None
        self._parts = []
        self.close(code, kind, title)

    def beat(self) -> None:
        # One that is not listened to cannot answer: the kernel says whether it is there.
        if self._alive or self.is_mute or self.is_busy():
            self._alive = False
            self.write(_PING)
        else:
            self.close(POLICY, "no-pong", "no answer to a ping")

    def hear(self, data: bytes) -> None:
        self._alive = True
        if self._is_deaf:
            return
        if self._connection is None:
            self._connection = Connection(ConnectionType.SERVER)
        try:
            self._connection.receive_data(data)
            for event in self._connection.events():
                self._hear(event)
                if self._is_deaf:
                    return
        except LocalProtocolError:  # it goes on after its own close
            self.abort()
        except Exception as error:
            self._relay.trouble.of_peer(self, error, "a client's message")
        self.listen()

    def listen(self) -> None:
        """Read what the client says, or let it wait: while it does not read itself, and while there is much to do."""
        if self.full_since or self.is_busy():
            self._transport.pause_reading()
        elif not self.is_mute:
            self._transport.resume_reading()

    def pause_writing(self) -> None:
        super().pause_writing()
        self.listen()

    def resumed(self) -> None:
        self._alive = True  # it has read
        self.listen()

    def _hear(self, event: received.Event) -> None:
        if not self._may_speak():
            self.refuse(POLICY, "too-many-frames", f"at most {FRAMES_PER_SECOND} a second")
        elif isinstance(event, received.Ping):
            if not self.closing:
                self.write(frame(0x8A, bytes(event.payload)))
        elif isinstance(event, received.CloseConnection):
            self._hear_close(event)
        elif isinstance(event, received.Message) and not self.closing:
            self._hear_part(event)

    def _may_speak(self) -> bool:
        moment = time.monotonic()
        self._allowance = min(FRAMES, self._allowance + (moment - self._allowed_at) * FRAMES_PER_SECOND) - 1
        self._allowed_at = moment
        return self._allowance >= 0

    def _hear_part(self, part: received.Message[Any]) -> None:
        self._size += len(part.data)
        if self._size > self.largest_message:
            self.refuse(TOO_LARGE, "message-too-large", f"at most {self.largest_message} bytes")
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
            self._leave()
        if not asked:  # wsproto tells so that the client breaks the protocol: let it read why
            self._is_deaf = True
        elif self._outbox:
            self.finish()
        else:
            self._transport.close()

    def _leave(self) -> None:
        if self.is_mute:  # there will be no answer
            self.finish()
        else:
            self.close_soon()


def _reason(kind: str, title: str) -> bytes:
    """A close's reason, which is JSON also if its title must be cut."""
    while kind and len(reason := json.dumps({"type": kind, "title": title}).encode()) > LARGEST_REASON:
        title = title[: -max(1, (len(reason) - LARGEST_REASON) // 6)]
    return reason if kind else b""


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
            if not ID.fullmatch(self._job_id):
                raise JobNotFound(self._job_id)
            after = None if self._after is None else cursor(self._after)
            types: Collection[str] | None = event_types(self._types)
        except (ValueError, JobNotFound) as error:
            self.close(*why(error))
            return
        self._watch = Watch(self._relay, self, self._job_id, after, types)
        self._relay.channels.join(self._watch)

    def message(self, text: str) -> None:
        if self._heard > MOST_MESSAGES:
            self.refuse(POLICY, "too-many-messages", "this socket takes no messages")

    def over(self, watch: Watch) -> None:
        self.close(DONE)

    def failed(self, watch: Watch, error: Exception) -> None:
        self.close(*why(error))

    def left(self) -> None:
        if self._watch is not None:
            self._watch.leave()
