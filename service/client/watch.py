"""Watch a job: every event once, in order, to its end, whatever happens to the connection.

    from service.client import watch

    for event in watch("http://127.0.0.1:8000", job_id):
        print(event["type"], event["data"])

Plain sockets and wsproto, in the caller's thread. simple_websocket.Client 1.1 would not do: what the
server sends in one packet with its handshake it handles only when more comes, so a job that is over
would never end; it connects without a deadline; and its thread outlives `close`.
"""

from __future__ import annotations

import contextlib
import json
import random
import socket
import ssl
import time
from collections.abc import Generator, Iterable, Iterator
from types import TracebackType
from typing import Any
from urllib.parse import SplitResult, quote, urlencode, urlsplit

from wsproto import ConnectionType, WSConnection
from wsproto.events import AcceptConnection, CloseConnection, Ping, RejectConnection, Request, TextMessage
from wsproto.events import Event as Frame
from wsproto.utilities import ProtocolError

FIRST_DELAY = 0.25
LONGEST_DELAY = 10.0
OPEN_WITHIN = 10.0
"""Seconds for each step of a connection: TCP, TLS, every packet of the handshake."""
OVER = 1000
TOO_SLOW = 4408
TERMINAL = frozenset({"finished", "failed", "stopped", "canceled"})
COME_BACK = frozenset({408, 425, 429})
"""Answers to a handshake that, like all from 500 on, may be another one next time."""

Event = dict[str, Any]


class WatchError(Exception):
    """Base of all that a watch raises."""


class WatchRefused(WatchError):
    """The job cannot be watched, and trying again would not help.

    `code` is 4400 for a bad cursor or types, 4404 for an unknown job, 4410 for one that is gone, or the
    HTTP status of a handshake that was refused; `type` and `title` say it in words.
    """

    def __init__(self, code: int, type: str, title: str) -> None:
        super().__init__(f"{title} ({code}, {type})")
        self.code = code
        self.type = type
        self.title = title


class Unreachable(WatchError):
    """Not one WebSocket could be opened, in as many tries as were allowed."""


class _Closed(Exception):
    """The server closed the socket, with a code and a reason."""

    def __init__(self, code: int, reason: str) -> None:
        super().__init__(f"closed with {code} {reason}")
        self.code = code
        self.refused = 4400 <= code < 4500 and code != TOO_SLOW
        self.reason = reason

    def explained(self) -> WatchRefused:
        try:
            reason = json.loads(self.reason)
            return WatchRefused(self.code, reason["type"], reason["title"])
        except (ValueError, TypeError, KeyError):
            return WatchRefused(self.code, "unknown", self.reason)


class _NoHandshake(ConnectionError):
    """The handshake was answered with another HTTP status than 101."""

    def __init__(self, status: int) -> None:
        super().__init__(f"the handshake was answered with HTTP {status}")
        self.status = status
        self.final = 300 <= status < 500 and status not in COME_BACK


def watch(
    url: str,
    job_id: str,
    after: str | int | None = None,
    types: Iterable[str] | None = None,
    *,
    tries_before_open: int = 5,
    dead_after: float = 24.0,
) -> Generator[Event, None, None]:
    """Yield the events of a job, as docs/events.md describes them, and end after the terminal one.

    `url` is where the service is, `http://127.0.0.1:8000`. The first event is a `snapshot`, unless
    `after` says which event was the last already seen; 0 gives the whole log. `types`: only those.

    A lost connection is opened again, after up to 0.25 s, 0.5 s, 1 s ... 10 s, and goes on after the last
    event; so is one that is silent, pings included, for `dead_after` seconds. Who takes long over an event
    may be disconnected meanwhile, and misses nothing. Nothing runs between two events: no thread, and
    closing the generator closes the socket.

    Raises WatchRefused; Unreachable if the first `tries_before_open` handshakes all fail. Once one has
    worked there is no end to the tries.
    """
    place = _Place(after)
    patience = _Patience(tries_before_open)
    while True:
        try:
            with _Socket(_address(url, job_id, place.cursor, types), dead_after) as opened:
                patience.opened = True
                for message in opened.messages():
                    event = json.loads(message)
                    if place.takes(event):
                        patience.failures = 0
                        yield event
        except _Closed as close:
            if close.code == OVER or (close.refused and place.at_the_end):
                return
            if close.refused:
                raise close.explained() from None
            patience.wait(close)
        except (OSError, ProtocolError) as error:
            patience.wait(error)


def _address(url: str, job_id: str, after: str | None, types: Iterable[str] | None) -> SplitResult:
    address = urlsplit(url)
    if not address.hostname:
        raise ValueError(f"url is {url!r}: expected one like http://127.0.0.1:8000")
    query = {"after": after, "types": None if types is None else ",".join(types)}
    return address._replace(
        path=f"{address.path.rstrip('/')}/v1/jobs/{quote(job_id, safe='')}/events",
        query=urlencode({name: value for name, value in query.items() if value is not None}),
    )


class _Place:
    """How far a watcher has come: the cursor to go on from, and the last event it got."""

    def __init__(self, after: str | int | None) -> None:
        self.cursor = None if after is None else str(after)
        self._last: Event | None = None

    @property
    def at_the_end(self) -> bool:
        """Nothing need follow."""
        last = self._last
        return last is not None and (
            last["type"] in TERMINAL or (last["type"] == "snapshot" and bool(last["data"]["done"]))
        )

    def takes(self, event: Event) -> bool:
        """Whether the watcher has not had this event; if so it has it now."""
        logged = event["type"] not in ("snapshot", "gap")  # those are made for this watcher
        if logged and not self._is_new(event):
            return False
        if event["type"] != "gap":  # from a gap one cannot go on: the next snapshot counts
            self.cursor = event["id"]
        self._last = event
        return True

    def _is_new(self, event: Event) -> bool:
        return self.cursor is None or _order(event["id"]) > _order(self.cursor)


def _order(event_id: str) -> tuple[int, int]:
    ms, _, sequence = event_id.partition("-")
    return int(ms), int(sequence or 0)


class _Patience:
    """How long to wait after a failure, and when to give up."""

    def __init__(self, tries_before_open: int) -> None:
        self.opened = False
        self.failures = 0  # handshakes and sockets that broke, since the last event
        self._tries_before_open = tries_before_open

    def wait(self, error: Exception) -> None:
        """Sleep until it is time for the next try. Raises WatchRefused, Unreachable."""
        self.failures += 1
        if not self.opened:
            if isinstance(error, _NoHandshake) and error.final:
                raise WatchRefused(error.status, "handshake-refused", str(error)) from None
            if self.failures >= self._tries_before_open:
                raise Unreachable(f"no socket opened in {self.failures} tries: {error}") from error
        most = min(LONGEST_DELAY, FIRST_DELAY * 2.0 ** min(self.failures - 1, 10))
        # At random within all of it: the watchers of a server that comes back do not all come at once.
        time.sleep(random.uniform(0, most))  # noqa: S311  # no secret


class _Socket:
    """An open WebSocket to read from. Opening it raises OSError and ProtocolError."""

    def __init__(self, address: SplitResult, dead_after: float) -> None:
        self._ws = WSConnection(ConnectionType.CLIENT)
        self._pinged = False
        self._sock = _connected(address)
        try:
            self._shake_hands(address)
            self._sock.settimeout(dead_after / 2)
        except BaseException:
            self._sock.close()
            raise

    def messages(self) -> Iterator[str]:
        """Text messages for as long as there are any; ends by raising _Closed, OSError or ProtocolError."""
        parts: list[str] = []
        while True:
            for frame in self._ws.events():
                if isinstance(frame, TextMessage):
                    parts.append(frame.data)
                    if frame.message_finished:
                        yield "".join(parts)
                        parts.clear()
                elif isinstance(frame, Ping):
                    self._send(frame.response())
                elif isinstance(frame, CloseConnection):
                    raise _Closed(frame.code, frame.reason or "")
            self._receive_or_ping()

    def __enter__(self) -> _Socket:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        with contextlib.suppress(OSError, ProtocolError):
            self._send(CloseConnection(OVER))  # says that we go, or answers that the server goes
        self._sock.close()

    def _shake_hands(self, address: SplitResult) -> None:
        target = f"{address.path}?{address.query}" if address.query else address.path
        self._send(Request(host=address.netloc.rpartition("@")[2], target=target))
        while True:
            # What came in one packet with the answer stays in there, for `messages`.
            for frame in self._ws.events():
                if isinstance(frame, AcceptConnection):
                    return
                if isinstance(frame, RejectConnection):
                    raise _NoHandshake(frame.status_code)
            self._receive()

    def _receive_or_ping(self) -> None:
        try:
            self._receive()
            self._pinged = False
        except TimeoutError:
            if self._pinged:
                raise
            self._send(Ping())
            self._pinged = True

    def _receive(self) -> None:
        data = self._sock.recv(65536)
        if not data:
            raise ConnectionError("the connection was closed without a word")
        self._ws.receive_data(data)

    def _send(self, frame: Frame) -> None:
        self._sock.sendall(self._ws.send(frame))


def _connected(address: SplitResult) -> socket.socket:
    secure = address.scheme in ("https", "wss")
    sock = socket.create_connection((address.hostname, address.port or (443 if secure else 80)), OPEN_WITHIN)
    try:
        return ssl.create_default_context().wrap_socket(sock, server_hostname=address.hostname) if secure else sock
    except BaseException:
        sock.close()
        raise
