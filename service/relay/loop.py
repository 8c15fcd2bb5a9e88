"""The relay loop: one Redis subscription for all that anybody in this process waits for.

A job's channel is subscribed while somebody watches the job. Each message is parsed once for all its
watchers. A watcher that has fallen behind, and every watcher after a lost connection, is told to read
the job's log from its cursor: so no event is missed, and a slow one costs a bounded memory.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import Enum
from types import TracebackType
from typing import Any

import redis

from service.store import keys
from service.store.events import Event, parse_message

log = logging.getLogger("service.relay")

BUFFERED = 1_000  # events a watcher may be behind before it must read the log itself
LINGER = 5.0  # a channel nobody watches any more is kept for this long


class Signal(Enum):
    """What a watcher may get instead of an event."""

    READ_LOG = "events may have been missed: read the log from the cursor"
    CLOSING = "this process ends: come back elsewhere"


class TooManyWaiters(Exception):
    """As many already wait in this process as it can hold."""


class Subscription:
    """One watcher's place in the relay; leave it with `close`, or use it in a `with`."""

    def __init__(self, relay: Relay, job_id: str) -> None:
        self.job_id = job_id
        self._relay = relay
        self._changed = threading.Condition()
        self._events: deque[Event] = deque()
        self._read_log = False
        self._closing = False

    def get(self, timeout: float) -> Event | Signal | None:
        """The next event or signal; None if `timeout` seconds pass without one."""
        with self._changed:
            self._changed.wait_for(lambda: self._closing or self._read_log or self._events, timeout)
            if self._closing:
                return Signal.CLOSING
            if self._read_log:
                self._read_log = False
                self._events.clear()
                return Signal.READ_LOG
            return self._events.popleft() if self._events else None

    def close(self) -> None:
        self._relay.leave(self)

    def put(self, event: Event) -> None:
        """Called by the relay."""
        with self._changed:
            if len(self._events) >= BUFFERED:
                self._read_log = True
            elif not self._read_log:
                self._events.append(event)
            self._changed.notify_all()

    def signal(self, signal: Signal) -> None:
        """Called by the relay."""
        with self._changed:
            self._read_log |= signal is Signal.READ_LOG
            self._closing |= signal is Signal.CLOSING
            self._changed.notify_all()

    def __enter__(self) -> Subscription:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()


@dataclass
class _Channel:
    live: bool = False
    watchers: set[Subscription] = field(default_factory=set)
    empty_since: float | None = None


class Relay:
    """All watchers of one process. The thread starts with the first of them, so after any fork."""

    def __init__(
        self, connection: redis.Redis, most_waiters: int, on_crash: Callable[[], None] = lambda: os._exit(70)
    ) -> None:
        # A pubsub has a connection of its own; health checks find one that was cut without a word.
        self._pubsub: Any = connection.pubsub()  # type: ignore[no-untyped-call]
        self._pubsub.health_check_interval = 10
        self._most_waiters = most_waiters
        self._on_crash = on_crash
        self._lock = threading.Lock()
        self._channels: dict[bytes, _Channel] = {}
        self._waiters = 0
        self._closing = False
        self._thread: threading.Thread | None = None

    def watch(self, job_id: str) -> Subscription:
        """A place among the watchers of a job. Its first signal, READ_LOG, says that the subscription is live.

        Raises TooManyWaiters, and redis errors.
        """
        subscription = Subscription(self, job_id)
        name = keys.events(job_id).encode()
        with self._lock:
            if self._waiters >= self._most_waiters:
                raise TooManyWaiters
            self._start()
            channel = self._channels.get(name)
            if channel is None:
                self._pubsub.subscribe(name)
                channel = self._channels[name] = _Channel()
            channel.watchers.add(subscription)
            channel.empty_since = None
            self._waiters += 1
            if channel.live:
                subscription.signal(Signal.READ_LOG)
            if self._closing:
                subscription.signal(Signal.CLOSING)
        return subscription

    def leave(self, subscription: Subscription) -> None:
        """A watcher goes."""
        with self._lock:
            channel = self._channels.get(keys.events(subscription.job_id).encode())
            if channel is None or subscription not in channel.watchers:
                return
            channel.watchers.remove(subscription)
            self._waiters -= 1
            if not channel.watchers:
                channel.empty_since = time.monotonic()

    def close(self) -> None:
        """This process ends: every watcher is told, and those that come are too."""
        with self._lock:
            self._closing = True
            watchers = [watcher for channel in self._channels.values() for watcher in channel.watchers]
        for watcher in watchers:
            watcher.signal(Signal.CLOSING)

    def _start(self) -> None:
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="relay", daemon=True)
            self._thread.start()

    def _run(self) -> None:
        while True:
            try:
                message = self._pubsub.get_message(timeout=1.0)
                if message is not None:
                    self._take(message)
                self._drop_unwatched()
            except redis.exceptions.RedisError as error:
                # The pubsub connects and subscribes again by itself; its confirmations then say READ_LOG.
                log.warning("the relay's connection is lost: %s", error)
                time.sleep(0.2)
            except Exception:
                # A process that answers but relays nothing is worse than one that is restarted.
                log.critical("the relay has crashed", exc_info=True)
                self._on_crash()
                return

    def _take(self, message: dict[str, Any]) -> None:
        name: bytes = message["channel"]
        with self._lock:
            channel = self._channels.get(name)
            if channel is None:
                if message["type"] == "message":  # unsubscribed just before a reconnection: do it again
                    self._pubsub.unsubscribe(name)
                return
            watchers = list(channel.watchers)
            if message["type"] == "subscribe":
                channel.live = True
        if message["type"] == "subscribe":
            for watcher in watchers:
                watcher.signal(Signal.READ_LOG)
        elif message["type"] == "message" and watchers:
            event = parse_message(watchers[0].job_id, message["data"])
            for watcher in watchers:
                watcher.put(event)

    def _drop_unwatched(self) -> None:
        # Not at once: a caller that polls comes back soon. And only a live channel: so the confirmation
        # of an older subscription is never taken for that of a newer one.
        before = time.monotonic() - LINGER
        with self._lock:
            unwatched = [
                name
                for name, channel in self._channels.items()
                if channel.live and channel.empty_since is not None and channel.empty_since < before
            ]
            if unwatched:
                self._pubsub.unsubscribe(*unwatched)
                for name in unwatched:
                    del self._channels[name]
