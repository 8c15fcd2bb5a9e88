"""The relay: one event loop, in one thread of a web process, that holds everybody who waits.

WebSockets, event streams and long polls are its peers; no thread waits for any of them. A job's channel
is subscribed while somebody watches the job, on one connection to Redis for all. The loop itself never
blocks: what is read from Redis is read in a few threads.

An error in what is done for a peer ends that peer (trouble.py). The process ends only if the loop itself, its
clock or its subscription cannot go on.
"""

from __future__ import annotations

import asyncio
import gc
import itertools
import logging
import os
import select
import socket
import sys
import threading
import time
from collections.abc import Callable, Coroutine, Iterator
from typing import Any

import redis

from service.relay.channels import TICKS, Channels
from service.relay.feeds import Feeds
from service.relay.peer import BEAT, Peer
from service.relay.readers import Readers
from service.relay.subscription import Subscription
from service.relay.trouble import Trouble
from service.store.jobs import Jobs
from service.store.models import Models

log = logging.getLogger("service.relay")

SWITCH = 0.001  # seconds after which a thread that wants to run may
MORE = 200  # peers by which their number must grow to be put out of the garbage collector's sight


class TooManyWaiters(Exception):
    """As many already wait in this process as it can hold."""


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
        self.redis = connection
        self.jobs = jobs
        self.models = Models(connection)
        self.trouble = Trouble()
        self.readers = Readers()
        self._subscription = Subscription(url, self.trouble, self._live, self._message, self._lost)
        self.channels = Channels(connection, jobs, self._subscription, self.readers, self.trouble)
        self.feeds = Feeds(connection, self._subscription, self.trouble)
        self._most_waiters = most_waiters
        self._on_crash = on_crash
        self._lock = threading.Lock()
        self._waiters = 0
        self._loop: asyncio.AbstractEventLoop | None = None
        self._empty = threading.Event()
        # What follows is the loop's own.
        self._ending = False
        self._number = itertools.count()
        self._beats: list[set[Peer]] = [set() for _ in range(BEAT * TICKS)]
        self._tasks: set[asyncio.Task[None]] = set()
        self._looking: asyncio.Task[None] | None = None
        self._frozen = 0
        self.full: set[Peer] = set()
        """Those whose buffer is full."""
        self.closing: set[Peer] = set()
        """Those that are to be closed soon."""
        self.unheard: set[Peer] = set()
        """Those that are not listened to, so that nobody tells if they go."""

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

    def hold(self, sock: socket.socket, peer: Callable[[], Peer], request_id: str = "") -> None:
        """Serve an admitted peer on a socket, which is the relay's from now on. `request_id` is what is logged."""
        try:
            sock.setblocking(False)
            self._call(self._take, sock, peer, request_id)
        except Exception:  # no thread can be started
            sock.close()
            self.dismiss()
            raise

    def close(self, within: float) -> None:
        """This process ends: all are told, and those that come are too. Returns when they are gone, or after
        `within` seconds."""
        if self._loop is not None and not self._loop.is_closed():
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
        except BaseException as error:
            # A process that answers but relays nothing is worse than one that is restarted.
            log.critical("the relay has crashed: its loop cannot go on", exc_info=error)
            self._on_crash()

    async def _serve(self, started: list[asyncio.AbstractEventLoop], ready: threading.Event) -> None:
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(lambda _, context: self.trouble.handle(context))
        started.append(loop)
        ready.set()
        listening = loop.create_task(self._subscription.run())
        due = time.monotonic()
        for tick in itertools.count():
            self._tick(tick, time.monotonic())
            if listening.done():
                listening.result()  # raises
            due = max(due + 1 / TICKS, time.monotonic())
            await asyncio.sleep(due - time.monotonic())

    def start(self, step: Coroutine[Any, Any, None], peer: Peer | None = None) -> asyncio.Task[None]:
        """Do something on the loop, beside all else, for a peer if one is given: an error in it ends that one."""
        task = asyncio.get_running_loop().create_task(step)
        self._tasks.add(task)  # asyncio itself would forget it
        task.add_done_callback(self._tasks.discard if peer is None else lambda task: self._check(task, peer))
        return task

    def _check(self, task: asyncio.Task[None], peer: Peer) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            self.trouble.of_peer(peer, error, "a task")

    def _tick(self, tick: int, now: float) -> None:
        if tick % TICKS == 0:
            self._subscription.look()
            self.readers.look(now)
            self.feeds.look(now)
            self._look_at_unheard()
            self._spare_the_collector()
        for peer in list(self.closing):
            self.attend(peer, peer.look_at_close, now)
        for peer in list(self.full):
            self.attend(peer, peer.look_at_buffer, now)
        for peer in list(self._beats[tick % len(self._beats)]):
            if not peer.closing and not peer.full_since:
                self.attend(peer, peer.beat)
        if self.channels.look(tick, now) and (self._looking is None or self._looking.done()):
            self._looking = self.start(self.channels.look_at_jobs())

    def attend(self, peer: Peer, step: Callable[..., None], *arguments: Any) -> None:
        """Do something for a peer that others come after."""
        try:
            step(*arguments)
        except Exception as error:  # it must not keep the others from being attended to
            self.trouble.of_peer(peer, error, "to look after it")

    def _look_at_unheard(self) -> None:
        if not self.unheard:
            return
        poll, peers = select.poll(), {}
        for peer in self.unheard:
            if (descriptor := peer.descriptor()) >= 0:
                peers[descriptor] = peer
                poll.register(descriptor, 0)  # errors and a lost connection are always told
        for descriptor, _ in poll.poll(0):
            peers[descriptor].abort()

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

    def _take(self, sock: socket.socket, peer: Callable[[], Peer], request_id: str) -> None:
        self.start(self._connect(sock, peer, request_id))

    async def _connect(self, sock: socket.socket, peer: Callable[[], Peer], request_id: str) -> None:
        held: list[Peer] = []

        def known() -> Peer:
            held.append(peer())
            held[0].request_id = request_id
            return held[0]

        try:
            await asyncio.get_running_loop().connect_accepted_socket(known, sock)
        except Exception as error:
            if not isinstance(error, OSError):  # else it has gone already
                self.trouble.note(logging.ERROR, "a connection cannot be held", error)
            sock.close()
            if not held or not held[0].beats_with:  # else it is dismissed when its connection is lost
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
        for peers in (self.full, self.closing, self.unheard):
            peers.discard(peer)
        self.dismiss()
        if self._ending and not any(self._beats):
            self._empty.set()

    def _end(self) -> None:
        self._ending = True
        for peer in self._peers():
            if not peer.closing:
                self.attend(peer, peer.restart)
        if not any(self._beats):
            self._empty.set()

    def _peers(self) -> Iterator[Peer]:
        for beat in self._beats:
            yield from list(beat)

    # --- what the subscription tells ----------------------------------------------------------------

    def _live(self, name: bytes) -> None:
        if name == self.feeds.channel:
            self.feeds.live()
        else:
            self.channels.live(name)

    def _message(self, name: bytes, data: bytes) -> None:
        if self.channels.message(name, data):
            return
        if name != self.feeds.channel or not self.feeds.message(data):
            self._subscription.unsubscribe(name)  # told just before a reconnection: tell it again

    def _lost(self) -> None:
        self.channels.lost()
        self.feeds.lost()
