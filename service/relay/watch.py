"""What one watcher sees of a job: what was before, then what follows, each event once, in order."""

from __future__ import annotations

import asyncio
from collections.abc import Collection
from typing import TYPE_CHECKING

from service.relay.pages import LENGTH, Page
from service.relay.peer import Peer
from service.store.events import Event, order
from service.store.jobs import JobGone, JobNotFound

if TYPE_CHECKING:
    from service.relay.loop import Relay

MOST_PENDING, MOST_PENDING_SIZE = 256, 2**20  # events and characters that may arrive while the log is read;
# beyond these it is read again
FIRST_LENGTH, PAGE_SIZE = 32, 2**19  # events of the first page, characters of each further one: a slow peer has one
BEHIND_AFTER = 1.0  # seconds in which a peer's buffer was full; of older progress it then gets the newest only
ALWAYS = frozenset({"snapshot", "gap"})  # sent whatever types a watcher wants


class Watch:
    """One watcher of one job. It ends with the job's terminal event.

    Live, it passes on what is published. Otherwise a task reads the log from the cursor: in the beginning,
    when the connection to Redis was lost, when the peer's buffer was full. What is published meanwhile is
    kept and follows what was read.
    """

    __slots__ = (
        *("_cursor", "_known", "_length", "_order", "_pending", "_pending_size", "_stale", "_task", "_types"),
        *("job_id", "over", "peer", "relay"),
    )

    def __init__(
        self, relay: Relay, peer: Peer, job_id: str, after: str | None, types: Collection[str] | None = None
    ) -> None:
        """Without a cursor to go on `after`, it begins with a snapshot."""
        self.relay = relay
        self.peer = peer
        self.job_id = job_id
        self._cursor = after
        self._order = order(after) if after else (0, 0)
        self._types = types
        self._length = FIRST_LENGTH
        self._known = False  # the job was there
        self._pending: list[Event] | None = None
        self._pending_size = 0
        self._stale = True  # not live: the log must be read
        self._task: asyncio.Task[None] | None = None
        self.over = False

    def live(self, event: Event) -> None:
        """An event was published."""
        if self.over:
            return
        if self._stale:
            if self._pending is not None:
                self._keep(event)
        elif event.order > self._order:
            if self.peer.full_since:
                self.catch_up()
            else:
                self._pass(event)
                if event.terminal:
                    self._end()

    def catch_up(self) -> None:
        """Events may have been missed: read the log."""
        self._stale = True
        self._pending = None  # what is read from now on has it
        if self._task is None and not self.over:
            self._task = self.relay.start(self._read_log(), self.peer)

    def leave(self) -> None:
        """The watcher goes."""
        self.over = True
        self.relay.channels.leave(self)
        if self._task is not None:
            self._task.cancel()

    def fail(self, error: Exception) -> None:
        """It cannot go on."""
        self.leave()
        if isinstance(error, JobNotFound) and self._known:  # Redis came back without it
            error = JobGone(self.job_id)
        self.relay.trouble.of_watch(self.peer, error)
        self.peer.failed(self, error)

    async def _read_log(self) -> None:
        try:
            while not await self._read_to_its_end():
                pass
        except Exception as error:
            self._task = None
            self.fail(error)
        else:
            self._task = None

    async def _read_to_its_end(self) -> bool:
        """Read until live, or over; False if it is to be done again."""
        async with self.peer.turn:
            waited = await self.peer.drained()
            self._pending, self._pending_size = [], 0
            page = await self.relay.channels.read(self.job_id, self._cursor, self._length)
        self._known = True
        self._length = next_length(page.events)
        for event in newest_progress(page.events) if waited > BEHIND_AFTER else page.events:
            self._pass(event)
        self._move_to(page)
        if page.over:
            self._end()
            return True
        if page.more or self._pending is None:
            return False
        return self._go_live(self._pending)

    def _go_live(self, pending: list[Event]) -> bool:
        self._pending = None
        self._stale = False
        for event in pending:
            self.live(event)
            if self._stale:  # its buffer is full again
                return False
        if not self.over:
            self.peer.began(self)
        return True

    def _keep(self, event: Event) -> None:
        self._pending_size += len(event.data)
        if self._pending is not None and len(self._pending) < MOST_PENDING and self._pending_size < MOST_PENDING_SIZE:
            self._pending.append(event)
        else:
            self._pending = None

    def _pass(self, event: Event) -> None:
        self._cursor, self._order = event.id, event.order
        if (self._types is None or event.type in self._types or event.type in ALWAYS) and event.type:
            self.peer.send(event)

    def _move_to(self, page: Page) -> None:
        self._cursor, self._order = page.cursor, order(page.cursor)

    def _end(self) -> None:
        self.over = True
        self.relay.channels.leave(self)
        self.peer.over(self)


def newest_progress(events: list[Event]) -> list[Event]:
    """The events, of those that tell progress the newest only."""
    last = max((number for number, event in enumerate(events) if event.type == "progress"), default=-1)
    return [event for number, event in enumerate(events) if event.type != "progress" or number == last]


def next_length(events: list[Event]) -> int:
    """How many events to read next, by the size of these."""
    size = sum(len(event.data) for event in events)
    return max(1, min(LENGTH, PAGE_SIZE * len(events) // size)) if size else LENGTH
