"""Thousands of WebSocket clients in one process, cheap enough that the server is the limit.

A few hundred of them, the probes, are read as soon as something comes, and each event of theirs is timed and
checked. All others are emptied about once a second: so no buffer in the kernel fills, and a client costs one
system call a second however many events it gets. To the server both are alike.
"""

from __future__ import annotations

import gc
import random
import re
import select
import socket
import struct
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field

from measure import NotMeasured

EMPTIED_EVERY = 1.0  # seconds
SLICES = 100  # of the others, so that emptying them never takes long
AT_ONCE = 200  # connections that are being opened: fewer than any server's backlog
OPEN_WITHIN = 60.0
BUFFER = 1 << 18

_TEXT, _CLOSE, _PING, _PONG = 1, 8, 9, 10
_EVENT = re.compile(rb'"id":"(\d+)-(\d+)",.*?"type":"progress",.*"index":(\d+),.*"at":(\d+)')
# In what a server sends, this byte before one so small is nothing but a ping: all else is JSON in ASCII, and
# the length of a text.
_PING_FRAME = re.compile(rb"\x89[\x00-\x1f]")


def handshake(job_id: str, query: str = "") -> bytes:
    """The request for a WebSocket that watches a job."""
    return (
        f"GET /v1/jobs/{job_id}/events{query} HTTP/1.1\r\nHost: 127.0.0.1\r\nUpgrade: websocket\r\n"
        "Connection: Upgrade\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
    ).encode()


def opened(port: int, requests: Sequence[bytes], status: bytes) -> Iterator[tuple[socket.socket, bytes]]:
    """Each request on a connection of its own, AT_ONCE at a time: the socket, and what came after the head.

    Raises NotMeasured if one is not answered with this status line, or not in time.
    """
    waiting = iter(requests)
    heads: dict[int, tuple[socket.socket, bytes]] = {}
    deadline = time.monotonic() + OPEN_WITHIN
    with select.epoll() as poll:
        while True:
            while len(heads) < AT_ONCE and (request := next(waiting, None)) is not None:
                sock = _connect(port, request)
                heads[sock.fileno()] = sock, b""
                poll.register(sock, select.EPOLLIN)
            if not heads:
                return
            for fd, _ in poll.poll(1.0):
                sock, head = heads[fd]
                head += _receive(sock) or b""
                if b"\r\n\r\n" in head:
                    poll.unregister(fd)
                    del heads[fd]
                    yield sock, _rest(head, status)
            if time.monotonic() > deadline:
                raise NotMeasured(f"{len(heads)} connections are not answered after {OPEN_WITHIN:.0f} s")


def close(sockets: Sequence[socket.socket]) -> None:
    """At once, with a reset: nothing stays in TIME_WAIT."""
    for sock in sockets:
        with suppress(OSError):
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            sock.close()


def _connect(port: int, request: bytes) -> socket.socket:
    sock = socket.create_connection(("127.0.0.1", port), timeout=OPEN_WITHIN)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    sock.sendall(request)
    sock.setblocking(False)
    return sock


def _rest(head: bytes, status: bytes) -> bytes:
    head, _, rest = head.partition(b"\r\n\r\n")
    if not head.startswith(b"HTTP/1.1 " + status):
        raise NotMeasured(f"the server answers {head[:80]!r} {rest[:200]!r}")
    return rest


def _receive(sock: socket.socket) -> bytes | None:
    """What is there; None if nothing is. Empty if it is closed."""
    try:
        return sock.recv(BUFFER)
    except BlockingIOError:
        return None
    except OSError:
        return b""


def _frames(data: bytes) -> Iterator[tuple[int, bytes, int]]:
    """The whole frames in it, each with its opcode, its payload and where it ends. A server sends no masks."""
    at = 0
    while len(data) >= at + 2:
        length, start = data[at + 1], at + 2
        if length == 126:
            length, start = int.from_bytes(data[at + 2 : at + 4], "big"), at + 4
        elif length == 127:
            length, start = int.from_bytes(data[at + 2 : at + 10], "big"), at + 10
        end = start + length
        if len(data) < end or len(data) < start:
            return
        yield data[at] & 15, data[start:end], end
        at = end


def _answer_ping(sock: socket.socket, payload: bytes) -> None:
    # Masked with zeros, which leaves it as it is.
    with suppress(OSError):
        sock.send(bytes((0x80 | _PONG, 0x80 | len(payload))) + bytes(4) + payload)


@dataclass
class Faults:
    """What must not be, of the probes."""

    again: int = 0
    """Events that came a second time, or after a later one."""
    missing: int = 0


@dataclass
class Probe:
    """A client of which each event counts."""

    sock: socket.socket
    rest: bytes
    seen: int = -1
    """The greatest number of an event."""
    last_id: tuple[int, int] = (0, 0)


@dataclass
class Timed:
    """What the probes have seen."""

    latencies: list[tuple[float, float]] = field(default_factory=list)
    """When each event was published, and how long it took to come."""
    faults: Faults = field(default_factory=Faults)
    closed: int = 0
    """Sockets that the server closed."""
    away: list[float] = field(default_factory=list)
    """For how long each turn kept the probes waiting."""


class Clients:
    """All sockets to one server; use it in a `with`."""

    def __init__(self, port: int, job_ids: Sequence[str], probes: int) -> None:
        """A socket for each of job_ids. Raises NotMeasured."""
        self.timed = Timed()
        self._others: list[socket.socket] = []
        self._probes: dict[int, Probe] = {}
        self._poll = select.epoll()
        self._slice = 0
        self._slice_due = time.monotonic()
        # The whole log, for whoever has one: what is published before a server has subscribed counts too.
        requests = [handshake(each, "?after=0") for each in job_ids]
        chosen = set(random.sample(range(len(job_ids)), min(probes, len(job_ids))))  # noqa: S311
        try:
            # Those that are answered first need not be those that were asked for first: all are chosen alike.
            for number, (sock, rest) in enumerate(opened(port, requests, b"101")):
                self._add(sock, rest, number in chosen)
                if number % 100 == 0:
                    self.run(0.0)  # pings are answered meanwhile
        except BaseException:
            self.close()
            raise

    def run(self, until: float) -> None:
        """Be clients until then; at least for one turn."""
        gc.disable()
        try:
            while self._turn(until):
                pass
        finally:
            gc.enable()

    def finish(self, events: int, within: float) -> None:
        """Wait until each probe has all events, and count those that it lacks."""
        deadline = time.monotonic() + within
        while time.monotonic() < deadline and any(probe.seen < events - 1 for probe in self._probes.values()):
            self.run(time.monotonic() + 0.1)
        self.timed.faults.missing += sum(max(0, events - 1 - probe.seen) for probe in self._probes.values())

    @property
    def probes(self) -> int:
        return len(self._probes)

    def close(self) -> None:
        close([*self._others, *(probe.sock for probe in self._probes.values())])
        self._poll.close()

    def __enter__(self) -> Clients:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _add(self, sock: socket.socket, rest: bytes, probe: bool) -> None:
        if not probe:
            self._others.append(sock)
            return
        self._probes[sock.fileno()] = Probe(sock, rest)
        self._poll.register(sock, select.EPOLLIN)

    def _turn(self, until: float) -> bool:
        now = time.monotonic()
        ready = self._poll.poll(max(0.0, min(until, self._slice_due) - now))
        began = time.monotonic()
        for fd, _ in ready:
            self._read(self._probes[fd])
        if began >= self._slice_due:
            self._empty_slice()
            self._slice_due = max(self._slice_due + EMPTIED_EVERY / SLICES, began)
        ended = time.monotonic()
        self.timed.away.append(ended - began)
        return ended < until

    def _empty_slice(self) -> None:
        self._slice = (self._slice + 1) % SLICES
        for sock in self._others[self._slice :: SLICES]:
            data = _receive(sock)
            if data is None:
                continue
            if not data:
                self._lost(sock)
                continue
            for ping in _PING_FRAME.finditer(data):
                end = ping.end()
                _answer_ping(sock, data[end : end + data[end - 1]])

    def _lost(self, sock: socket.socket) -> None:
        self._others = [each for each in self._others if each is not sock]
        self.timed.closed += 1
        close([sock])

    def _read(self, probe: Probe) -> None:
        data = _receive(probe.sock)
        now = time.monotonic()
        if data is None:
            return
        if not data:
            self._poll.unregister(probe.sock)
            probe.sock.close()
            self.timed.closed += 1
            return
        probe.rest += data
        end = 0
        for opcode, payload, end in _frames(probe.rest):  # noqa: B007 -- the last one's
            if opcode == _TEXT:
                self._take(probe, payload, now)
            elif opcode == _PING:
                _answer_ping(probe.sock, payload)
        probe.rest = probe.rest[end:]

    def _take(self, probe: Probe, payload: bytes, now: float) -> None:
        event = _EVENT.search(payload)
        if event is None:  # a snapshot, or another kind of event
            return
        milliseconds, sequence, number, at = map(int, event.groups())
        faults = self.timed.faults
        if number <= probe.seen or (milliseconds, sequence) <= probe.last_id:
            faults.again += 1
            return
        faults.missing += number - probe.seen - 1
        probe.seen, probe.last_id = number, (milliseconds, sequence)
        self.timed.latencies.append((at / 1e6, now - at / 1e6))


class Idle:
    """Sockets on which nothing comes but a snapshot and pings."""

    def __init__(self, port: int, job_ids: Sequence[str]) -> None:
        self._port = port
        self._job_ids = job_ids
        self._sockets: dict[int, socket.socket] = {}
        self._greeted: set[int] = set()
        self._poll = select.epoll()
        self.pings = 0

    def open(self) -> float:
        """The seconds until each has its snapshot. Raises NotMeasured."""
        began = time.monotonic()
        for sock, rest in opened(self._port, [handshake(each) for each in self._job_ids], b"101"):
            self._sockets[sock.fileno()] = sock
            self._take(sock, rest)
            self._poll.register(sock, select.EPOLLIN)
            if len(self._sockets) % AT_ONCE == 0:
                self.run(0.0)
        while len(self._greeted) < len(self._job_ids):
            if time.monotonic() > began + OPEN_WITHIN:
                raise NotMeasured(f"{len(self._job_ids) - len(self._greeted)} got no snapshot in {OPEN_WITHIN:.0f} s")
            self.run(time.monotonic() + 0.01)
        return time.monotonic() - began

    def run(self, until: float) -> None:
        """Answer pings until then; at least once. Raises NotMeasured if one is closed."""
        while True:
            for fd, _ in self._poll.poll(max(0.0, until - time.monotonic()), 1_000):
                sock = self._sockets[fd]
                self._take(sock, _receive(sock))
            if time.monotonic() >= until:
                return

    def close(self) -> None:
        close(list(self._sockets.values()))
        self._poll.close()

    def __enter__(self) -> Idle:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _take(self, sock: socket.socket, data: bytes | None) -> None:
        # Each frame comes whole: the sockets are idle, so none is ever cut.
        if data == b"" and sock.fileno() in self._greeted:
            raise NotMeasured("the server closed an idle socket")
        for opcode, payload, _ in _frames(data or b""):
            if opcode == _TEXT:
                self._greeted.add(sock.fileno())
            elif opcode == _PING:
                self.pings += 1
                _answer_ping(sock, payload)
            elif opcode == _CLOSE:
                raise NotMeasured(f"the server closed an idle socket: {payload!r}")
