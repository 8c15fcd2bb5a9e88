"""Who watches which job: a job's channel is subscribed while somebody does, and one read serves all who ask for it."""

from __future__ import annotations

import asyncio
import itertools
import logging
import time
from collections.abc import Iterable
from typing import TYPE_CHECKING

import redis

from service.relay.pages import Page, Pages
from service.relay.readers import NotLive, Readers
from service.relay.subscription import AGAIN, Subscription
from service.relay.trouble import Trouble
from service.store import keys
from service.store.away import is_away
from service.store.events import UnreadableEvent, parse_message
from service.store.jobs import Jobs

if TYPE_CHECKING:
    from service.relay.watch import Watch

LINGER = 5.0  # seconds for which a channel is kept that nobody watches any more: who polls comes back soon
LIVE_WITHIN = 10.0  # seconds in which Redis must confirm a channel, or its watchers are sent away
LOOK = 4  # seconds from one look at a job for a status that was set without an event to the next
TICKS = 10  # in a second: what is due for all peers and jobs is done for some in each, so that it takes no time
LOOKED_AT = 500  # jobs in one round trip


class _Channel:
    """The channel of one job and who watches it."""

    __slots__ = ("job_id", "live", "looked_at_with", "name", "seen", "since", "watchers")

    def __init__(self, name: bytes, job_id: str, looked_at_with: set[_Channel]) -> None:
        self.name = name
        self.job_id = job_id
        self.watchers: set[Watch] = set()
        self.live = False
        self.seen = 0  # grows with what is told here: a read that began at one count can serve all of that count
        self.since = time.monotonic()  # when it was subscribed or, if nobody watches, left
        self.looked_at_with = looked_at_with
        looked_at_with.add(self)


class Channels:
    """All that are watched in this process. On the relay's loop only."""

    def __init__(
        self, connection: redis.Redis, jobs: Jobs, subscription: Subscription, readers: Readers, trouble: Trouble
    ) -> None:
        self._names = keys.Channels(connection)
        self._jobs = jobs
        self._pages = Pages(connection, jobs)
        self._subscription = subscription
        self._readers = readers
        self._trouble = trouble
        self._channels: dict[bytes, _Channel] = {}
        self._reads: dict[tuple[str, str | None, int, int], asyncio.Future[Page]] = {}
        self._number = itertools.count()
        self._looks: list[set[_Channel]] = [set() for _ in range(LOOK * TICKS)]
        self._to_look_at: dict[str, None] = {}

    def _name(self, job_id: str) -> bytes:
        return self._names.events(job_id).encode()

    def join(self, watch: Watch) -> None:
        """Tell a watch of its job from now on: `catch_up` comes first, when nothing can be missed any more."""
        name = self._name(watch.job_id)
        channel = self._channels.get(name)
        if channel is None:
            looks = self._looks[next(self._number) % len(self._looks)]
            channel = self._channels[name] = _Channel(name, watch.job_id, looks)
            self._subscription.subscribe(name)
        elif not channel.watchers and not channel.live:
            channel.since = time.monotonic()
        channel.watchers.add(watch)
        if channel.live:
            watch.catch_up()

    def leave(self, watch: Watch) -> None:
        """A watch goes."""
        channel = self._channels.get(self._name(watch.job_id))
        if channel is not None:
            channel.watchers.discard(watch)
            if not channel.watchers:
                channel.since = time.monotonic()

    def live(self, name: bytes) -> None:
        """Redis has confirmed a channel."""
        channel = self._channels.get(name)
        if channel is not None:
            channel.live = True
            self._catch_up(channel)

    def lost(self) -> None:
        """Redis is not listened to any more."""
        moment = time.monotonic()
        for channel in self._channels.values():
            if channel.live:  # else it has been missing for longer: each try to connect may be lost
                channel.live = False
                if channel.watchers:
                    channel.since = moment

    def message(self, name: bytes, data: bytes) -> bool:
        """Something was published; whether it is on a channel of a job that is watched."""
        channel = self._channels.get(name)
        if channel is None:
            return False
        channel.seen += 1
        if channel.watchers:
            try:
                event = parse_message(channel.job_id, data)
            except UnreadableEvent as error:
                self._trouble.note(logging.WARNING, f"a message about job {channel.job_id} cannot be read: {error}")
                self._catch_up(channel)
                return True
            for watch in tuple(channel.watchers):
                try:
                    watch.live(event)
                except Exception as error:  # nobody else is to miss it
                    self._trouble.of_peer(watch.peer, error, "to tell an event")
        return True

    def _catch_up(self, channel: _Channel) -> None:
        channel.seen += 1
        for watch in list(channel.watchers):
            try:
                watch.catch_up()
            except Exception as error:
                self._trouble.of_peer(watch.peer, error, "to read a log")

    # --- what is looked at now and then -------------------------------------------------------------

    def look(self, tick: int, now: float) -> bool:
        """To be called each tick: see to those channels whose turn it is. Whether their jobs are to be looked at."""
        for channel in list(self._looks[tick % len(self._looks)]):
            if channel.watchers:
                self._to_look_at[channel.job_id] = None
                if not channel.live and now - channel.since > LIVE_WITHIN:
                    self._fail(channel)
            # Only a live one, or while nothing is subscribed: so the confirmation of an older subscription is never
            # taken for a newer one's.
            elif now - channel.since > LINGER and (channel.live or not self._subscription.connected):
                self._drop(channel)
        return bool(self._to_look_at)

    def _fail(self, channel: _Channel) -> None:
        for watch in list(channel.watchers):
            try:
                watch.fail(NotLive("Redis is not listened to"))
            except Exception as error:
                self._trouble.of_peer(watch.peer, error, "to give up a watch")

    def _drop(self, channel: _Channel) -> None:
        del self._channels[channel.name]
        channel.looked_at_with.discard(channel)
        self._subscription.unsubscribe(channel.name)

    async def look_at_jobs(self) -> None:
        """Look for jobs whose status was set without an event, and for those that were deleted."""
        while self._to_look_at:
            job_ids = list(itertools.islice(self._to_look_at, LOOKED_AT))
            for job_id in job_ids:
                del self._to_look_at[job_id]
            await self._look_at(job_ids)

    async def _look_at(self, job_ids: list[str]) -> None:
        try:
            self._untold(await self._readers.call(self._jobs.untold, job_ids))
        except Exception as error:
            if isinstance(error, NotLive) or is_away(error):
                self._trouble.note(logging.WARNING, f"watched jobs cannot be looked at: {error}")
            elif len(job_ids) > 1:  # one that cannot be read must not keep the others from being looked at
                middle = len(job_ids) // 2
                await self._look_at(job_ids[:middle])
                await self._look_at(job_ids[middle:])
            else:
                self._trouble.note(logging.ERROR, f"job {job_ids[0]} cannot be looked at", error)

    def _untold(self, job_ids: Iterable[str]) -> None:
        for job_id in job_ids:
            channel = self._channels.get(self._name(job_id))
            if channel is not None and channel.live:
                self._catch_up(channel)

    # --- reads --------------------------------------------------------------------------------------

    async def read(self, job_id: str, cursor: str | None, length: int) -> Page:
        """The next page of a job's log, or a snapshot. One read serves all that ask for the same at a time."""
        deadline = time.monotonic() + LIVE_WITHIN
        while True:
            try:
                return await asyncio.shield(self._shared_read(job_id, cursor, length))
            except Exception as error:
                if not is_away(error) or time.monotonic() > deadline:
                    raise
            await asyncio.sleep(AGAIN)

    def _shared_read(self, job_id: str, cursor: str | None, length: int) -> asyncio.Future[Page]:
        channel = self._channels.get(self._name(job_id))
        key = job_id, cursor, length, channel.seen if channel is not None else -1
        shared = self._reads.get(key)
        if shared is None:
            shared = self._reads[key] = (
                self._readers.call(self._pages.after, job_id, cursor, length)
                if cursor
                else self._readers.call(self._pages.first, job_id)
            )
            shared.add_done_callback(lambda shared: self._read_is_over(key, shared))
        return shared

    def _read_is_over(self, key: tuple[str, str | None, int, int], shared: asyncio.Future[Page]) -> None:
        del self._reads[key]
        if not shared.cancelled():
            shared.exception()  # who asked may have gone: nobody else is to be told of it
