"""The connections of a process that wait for their client, in one epoll, and which of them have to go."""

from __future__ import annotations

import heapq
import select
import threading
from collections.abc import Iterator

from service.web.server_connection import Connection

READABLE, WRITABLE = select.EPOLLIN | select.EPOLLONESHOT, select.EPOLLOUT | select.EPOLLONESHOT


class Waiting:
    """Of those that want a connection, by its descriptor, one gets it. Only the loop takes one that has to go."""

    def __init__(self, epoll: select.epoll) -> None:
        self._epoll = epoll
        self._connections: dict[int, Connection] = {}  # each step is one of the dict's, which no thread sees half done
        self._counting = threading.Lock()
        self.pending = 0
        """Bytes that all of them keep: half requests, and answers that are not read."""

    def __iter__(self) -> Iterator[Connection]:
        return iter(list(self._connections.values()))

    def add(self, conn: Connection, events: int) -> None:
        """It waits from now on. Raises OSError if the system cannot."""
        assert conn.sock is not None
        self._count(conn, conn.pending)
        descriptor = conn.sock.fileno()
        with conn.lock:  # the loop may find that its time is over before it is armed: what is closed cannot be
            self._connections[descriptor] = conn
            if conn.is_armed:
                self._epoll.modify(descriptor, events)
            else:
                conn.is_armed = True
                self._epoll.register(descriptor, events)

    def take(self, descriptor: int) -> Connection | None:
        """It waits no longer; None if somebody else has it."""
        return self._connections.pop(descriptor, None)

    def forget(self, conn: Connection) -> None:
        """It is to be closed."""
        self._count(conn, 0)
        self._take(conn)

    def take_late(self, now: float) -> list[Connection]:
        """Those whose time is over."""
        return [conn for conn in self if conn.deadline < now and self._take(conn)]

    def take_all(self) -> list[Connection]:
        """All."""
        return [conn for conn in self if self._take(conn)]

    def take_least(self, count: int) -> list[Connection]:
        """So many to make room for others: idle ones first, then half requests whose time is over soonest."""
        unanswered = (conn for conn in self if not conn.unsent)
        least = heapq.nsmallest(count, unanswered, key=lambda conn: (not conn.is_idle, conn.deadline))
        return [conn for conn in least if self._take(conn)]

    def take_pending(self, most: int) -> list[Connection]:
        """Those whose time is over soonest, until the others keep no more bytes than so many."""
        taken, left = [], self.pending
        for conn in sorted((conn for conn in self if conn.counted), key=lambda conn: conn.deadline):
            if left <= most:
                break
            left -= conn.counted
            if self._take(conn):
                taken.append(conn)
        return taken

    def _take(self, conn: Connection) -> bool:
        with conn.lock:
            if conn.sock is None or self._connections.get(descriptor := conn.sock.fileno()) is not conn:
                return False
            return self._connections.pop(descriptor, None) is conn

    def _count(self, conn: Connection, pending: int) -> None:
        if pending != conn.counted:
            with self._counting:
                self.pending += pending - conn.counted
            conn.counted = pending
