"""The relay: one event loop, in one thread of a web process, that holds everybody who waits.

WebSockets, event streams and long polls are its peers; no thread waits for any of them. A job's channel
is subscribed while somebody watches the job, on one connection to Redis for all. The loop itself never
blocks: what is read from Redis is read in a few threads.
"""

from __future__ import annotations

import asyncio
import gc
import itertools
import logging
import os
import socket
import sys
import threading
import time
from collections.abc import Callable, Coroutine, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Protocol, TypeVar

import redis

from service.relay.pages import Page, Pages
from service.relay.peer import BEAT, Peer
from service.relay.subscription import AGAIN, Subscription
from service.store import keys
from service.store.away import REDIS_IS_AWAY
from service.store.events import Event, parse_message
from service.store.jobs import Jobs
from service.store.models import Models

log = logging.getLogger("service.relay")

T = TypeVar("T")

READERS = 4  # threads that read logs
LINGER = 5.0  # seconds for which a channel is kept that nobody watches any more: who polls comes back soon
LIVE_WITHIN = 10.0  # seconds in which Redis must confirm a channel, or its watchers are sent away
LOOK = 4  # seconds from one look at a job for a status that was set without an event to the next
TICKS = 10  # in a second: what is due for all peers and jobs is done for some in each, so that it takes no time
LOOKED_AT = 500  # jobs in one round trip
SWITCH = 0.001  # seconds after which a thread that wants to run may
MORE = 200  # peers by which their number must grow to be put out of the garbage collector's sight


class TooManyWaiters(Exception):
    """As many already wait in this process as it can hold."""


class NotLive(Exception):
    """Redis does not confirm that it is listened to."""


class Watcher(Protocol):
    """Who is told what is published about a job; all of it on the relay's loop."""

    job_id: str

    def live(self, event: Event) -> None:
        """An event was published."""

    def catch_up(self) -> None:
        """Some may have been missed."""

    def fail(self, error: Exception) -> None:
        """There will be none."""


class Feed(Protocol):
    """Who is told of jobs as they are submitted."""

    def submitted(self, model: str, job_id: str) -> None:
        """A job was accepted."""

    def catch_up(self) -> None:
        """Some may have been missed."""


class _Channel:
    """The channel of one job and who watches it."""

    __slots__ = ("job_id", "live", "looked_at_with", "name", "seen", "since", "watchers")

    def __init__(self, name: bytes, job_id: str, looked_at_with: set[_Channel]) -> None:
        self.name = name
        self.job_id = job_id
        self.watchers: set[Watcher] = set()
        self.live = False
        self.seen = 0  # grows with what is told here: a read that began at one count can serve all of that count
        self.since = time.monotonic()  # when it was subscribed or, if nobody watches, left
        self.looked_at_with = looked_at_with
        looked_at_with.add(self)


class Relay:
    """All who wait in one process. The thread starts with the first of them, so after any fork."""

    def __init__(
        self,
        url: str,
        connection: redis.Redis,
        jobs: Jobs,
        most_waiters: int,
        on_crash: Callable[[], None] = lambda: os._exit(70),
    ) -> None:
        self.jobs = jobs
        self.models = Models(connection)
        self._pages = Pages(connection, jobs)
        self._names = keys.Channels(connection)
        self._submitted = self._names.submitted.encode()
        self._most_waiters = most_waiters
        self._on_crash = on_crash
        self._subscription = Subscription(url, self._live, self._message)
        self._readers = ThreadPoolExecutor(READERS, "relay-read")
        self._lock = threading.Lock()
        self._waiters = 0
        self._loop: asyncio.AbstractEventLoop | None = None
        self._empty = threading.Event()
        # What follows is the loop's own.
        self._ending = False
        self._channels: dict[bytes, _Channel] = {}
        self._feeds: set[Feed] = set()
        self._reads: dict[tuple[str, str | None, int], asyncio.Future[Page]] = {}
        self._number = itertools.count()
        self._beats: list[set[Peer]] = [set() for _ in range(BEAT * TICKS)]
        self._looks: list[set[_Channel]] = [set() for _ in range(LOOK * TICKS)]
        self._tasks: set[asyncio.Task[None]] = set()
        self._looking: asyncio.Task[None] | None = None
        self._frozen = 0
        self.full: set[Peer] = set()
        """Those whose buffer is full."""
        self.closing: set[Peer] = set()
        """Those that are to be closed soon."""

    # --- called in any thread -----------------------------------------------------------------------

    def admit(self) -> None:
        """Take a place for one who waits; `hold` or `dismiss` must follow. Raises TooManyWaiters."""
        with self._lock:
            if self._waiters >= self._most_waiters:
                raise TooManyWaiters
            self._waiters += 1

    def dismiss(self) -> None:
        """Give the place of one who does not wait after all."""
        with self._lock:
            self._waiters -= 1

    def hold(self, sock: socket.socket, peer: Callable[[], Peer]) -> None:
        """Serve an admitted peer on a socket, which is the relay's from now on."""
        sock.setblocking(False)
        self._call(self._take, sock, peer)

    def close(self, within: float) -> None:
        """This process ends: all are told, and those that come are too. Returns when they are gone, or after
        `within` seconds."""
        if self._loop is not None:
            self._loop.call_soon_threadsafe(self._end)
            self._empty.wait(within)

    def _call(self, step: Callable[..., None], *arguments: Any) -> None:
        with self._lock:
            if self._loop is None:
                started: list[asyncio.AbstractEventLoop] = []
                ready = threading.Event()
                threading.Thread(target=self._run, args=(started, ready), name="relay", daemon=True).start()
                ready.wait()
                self._loop = started[0]
        self._loop.call_soon_threadsafe(step, *arguments)

    # --- the thread ---------------------------------------------------------------------------------

    def _run(self, started: list[asyncio.AbstractEventLoop], ready: threading.Event) -> None:
        # A request would else wait for 5 ms, Python's default, whenever the relay has much to send.
        sys.setswitchinterval(SWITCH)
        try:
            asyncio.run(self._serve(started, ready))
        except BaseException:
            self._crash("its thread ended", True)

    async def _serve(self, started: list[asyncio.AbstractEventLoop], ready: threading.Event) -> None:
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(lambda _, context: self._crash(str(context["message"]), context.get("exception")))
        started.append(loop)
        ready.set()
        self.start(self._subscription.run())
        due = time.monotonic()
        for tick in itertools.count():
            self._tick(tick, time.monotonic())
            due = max(due + 1 / TICKS, time.monotonic())
            await asyncio.sleep(due - time.monotonic())

    def _crash(self, message: str, error: Any) -> None:
        # A process that answers but relays nothing is worse than one that is restarted.
        log.critical("the relay has crashed: %s", message, exc_info=error)
        self._on_crash()

    def start(self, step: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """Do something on the loop, beside all else; an error in it is a crash."""
        task = asyncio.get_running_loop().create_task(step)
        task.add_done_callback(self._check)
        self._tasks.add(task)  # asyncio itself would forget it
        return task

    def _check(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            self._crash("a task of it failed", error)

    def _tick(self, tick: int, now: float) -> None:
        if tick % TICKS == 0:
            self._subscription.look()
            self._spare_the_collector()
        for peer in list(self.closing):
            peer.look_at_close(now)
        for peer in list(self.full):
            peer.look_at_buffer(now)
        for peer in list(self._beats[tick % len(self._beats)]):
            if not peer.closing and not peer.full_since:
                peer.beat()
        looked_at = self._looks[tick % len(self._looks)]
        self._look_at_channels(list(looked_at), now)
        if looked_at and (self._looking is None or self._looking.done()):
            job_ids = [channel.job_id for channel in looked_at]
            self._looking = self.start(self._look_at_jobs(job_ids))

    def _spare_the_collector(self) -> None:
        # Python's garbage collector goes through all objects there are: for 0.3 s with 5,000 peers, in which
        # nobody is told anything. What asyncio leaves of a peer (3 kB) it then finds when most have gone.
        if self._waiters > self._frozen + MORE:
            gc.freeze()
            self._frozen = self._waiters
        elif self._waiters < self._frozen // 2:
            gc.unfreeze()
            self._frozen = 0

    # --- peers --------------------------------------------------------------------------------------

    def _take(self, sock: socket.socket, peer: Callable[[], Peer]) -> None:
        self.start(self._connect(sock, peer))

    async def _connect(self, sock: socket.socket, peer: Callable[[], Peer]) -> None:
        try:
            await asyncio.get_running_loop().connect_accepted_socket(peer, sock)
        except OSError:  # it has gone already
            sock.close()
            self.dismiss()

    def joined(self, peer: Peer) -> None:
        """A peer's connection is there."""
        peer.beats_with = self._beats[next(self._number) % len(self._beats)]
        peer.beats_with.add(peer)
        if self._ending:
            asyncio.get_running_loop().call_soon(peer.restart)

    def gone(self, peer: Peer) -> None:
        """A peer's connection is gone."""
        peer.beats_with.discard(peer)
        self.full.discard(peer)
        self.closing.discard(peer)
        self.dismiss()
        if self._ending and not any(self._beats):
            self._empty.set()

    def _end(self) -> None:
        self._ending = True
        for peer in self._peers():
            if not peer.closing:
                peer.restart()
        if not any(self._beats):
            self._empty.set()

    def _peers(self) -> Iterator[Peer]:
        for beat in self._beats:
            yield from list(beat)

    # --- jobs ---------------------------------------------------------------------------------------

    def join(self, watcher: Watcher) -> None:
        """Tell a watcher of its job from now on: `catch_up` comes first, when nothing can be missed any more."""
        name = self._names.events(watcher.job_id).encode()
        channel = self._channels.get(name)
        if channel is None:
            looks = self._looks[next(self._number) % len(self._looks)]
            channel = self._channels[name] = _Channel(name, watcher.job_id, looks)
            self._subscription.subscribe(name)
        channel.watchers.add(watcher)
        if channel.live:
            watcher.catch_up()

    def leave(self, watcher: Watcher) -> None:
        """A watcher goes."""
        channel = self._channels.get(self._names.events(watcher.job_id).encode())
        if channel is not None:
            channel.watchers.discard(watcher)
            if not channel.watchers:
                channel.since = time.monotonic()

    def follow(self, feed: Feed) -> None:
        """Tell a feed of submitted jobs from now on; `catch_up` comes first."""
        self._subscription.subscribe(self._submitted)
        if self._feeds:
            asyncio.get_running_loop().call_soon(feed.catch_up)
        self._feeds.add(feed)

    def unfollow(self, feed: Feed) -> None:
        """A feed goes."""
        self._feeds.discard(feed)
        if not self._feeds:
            self._subscription.unsubscribe(self._submitted)

    def _live(self, name: bytes) -> None:
        if name == self._submitted:
            for feed in list(self._feeds):
                feed.catch_up()
        channel = self._channels.get(name)
        if channel is not None:
            channel.live = True
            channel.seen += 1
            for watcher in list(channel.watchers):
                watcher.catch_up()

    def _message(self, name: bytes, data: bytes) -> None:
        channel = self._channels.get(name)
        if channel is not None:
            channel.seen += 1
            if channel.watchers:
                event = parse_message(channel.job_id, data)
                for watcher in tuple(channel.watchers):
                    watcher.live(event)
        elif name == self._submitted and self._feeds:
            model, job_id = data.decode().split()
            for feed in list(self._feeds):
                feed.submitted(model, job_id)
        else:
            self._subscription.unsubscribe(name)  # told just before a reconnection: tell it again

    def _look_at_channels(self, channels: list[_Channel], now: float) -> None:
        for channel in channels:
            if not channel.watchers:
                # Only a live one: so the confirmation of an older subscription is never taken for a newer one's.
                if channel.live and now - channel.since > LINGER:
                    del self._channels[channel.name]
                    channel.looked_at_with.discard(channel)
                    self._subscription.unsubscribe(channel.name)
            elif not channel.live and now - channel.since > LIVE_WITHIN:
                for watcher in list(channel.watchers):
                    watcher.fail(NotLive())

    # --- Redis, in threads --------------------------------------------------------------------------

    def call(self, step: Callable[..., T], *arguments: Any) -> asyncio.Future[T]:
        """Do in a thread what may block."""
        return asyncio.get_running_loop().run_in_executor(self._readers, step, *arguments)

    async def read(self, job_id: str, cursor: str | None) -> Page:
        """The next page of a job's log, or a snapshot. One read serves all that ask for the same at a time."""
        deadline = time.monotonic() + LIVE_WITHIN
        while True:
            try:
                return await asyncio.shield(self._shared_read(job_id, cursor))
            except REDIS_IS_AWAY:
                if time.monotonic() > deadline:
                    raise
            await asyncio.sleep(AGAIN)

    def _shared_read(self, job_id: str, cursor: str | None) -> asyncio.Future[Page]:
        key = job_id, cursor, self._channels[self._names.events(job_id).encode()].seen
        shared = self._reads.get(key)
        if shared is None:
            shared = self.call(self._pages.after, job_id, cursor) if cursor else self.call(self._pages.first, job_id)
            self._reads[key] = shared
            shared.add_done_callback(lambda _: self._reads.pop(key))
        return shared

    async def _look_at_jobs(self, job_ids: list[str]) -> None:
        """Look for jobs whose status was set without an event, and for those that were deleted."""
        for start in range(0, len(job_ids), LOOKED_AT):
            try:
                untold = await self.call(self.jobs.untold, job_ids[start : start + LOOKED_AT])
            except redis.exceptions.RedisError as error:
                log.warning("watched jobs cannot be looked at: %s", error)
                return
            for job_id in untold:
                channel = self._channels.get(self._names.events(job_id).encode())
                for watcher in list(channel.watchers) if channel is not None and channel.live else ():
                    watcher.catch_up()
