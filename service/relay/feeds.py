"""Who is told of jobs as they are submitted."""

from __future__ import annotations

import logging
import re
import time
from collections import defaultdict
from typing import TYPE_CHECKING

import redis

from service.relay.readers import NotLive
from service.relay.subscription import Subscription
from service.relay.trouble import Trouble
from service.store import keys

if TYPE_CHECKING:
    from service.relay.feed import Feed

LIVE_WITHIN = 10.0  # seconds in which Redis must confirm the channel, or the feeds are sent away

_MESSAGE = re.compile(rb"([a-z0-9_]+) ([A-Za-z0-9_-]+)")


class Feeds:
    """All of this process, by the model of whose jobs they are told; None is all models. On the relay's loop only."""

    def __init__(self, connection: redis.Redis, subscription: Subscription, trouble: Trouble) -> None:
        self.channel = keys.Channels(connection).submitted.encode()
        """On which each submitted job is told."""
        self._subscription = subscription
        self._trouble = trouble
        self._feeds: defaultdict[str | None, set[Feed]] = defaultdict(set)
        self._live = False
        self._since = 0.0

    def follow(self, feed: Feed) -> None:
        """Tell a feed of submitted jobs from now on; `catch_up` comes first."""
        if not self._feeds:
            self._live = False
            self._since = time.monotonic()
            self._subscription.subscribe(self.channel)
        self._feeds[feed.model].add(feed)
        if self._live:
            feed.catch_up()

    def unfollow(self, feed: Feed) -> None:
        """A feed goes."""
        feeds = self._feeds.get(feed.model)
        if feeds is None or feed not in feeds:
            return
        feeds.discard(feed)
        if not feeds:
            del self._feeds[feed.model]
        if not self._feeds:
            self._subscription.unsubscribe(self.channel)

    def live(self) -> None:
        """Redis has confirmed the channel."""
        self._live = True
        self._catch_up()

    def lost(self) -> None:
        """Redis is not listened to any more."""
        if self._live:
            self._live = False
            self._since = time.monotonic()

    def message(self, data: bytes) -> bool:
        """A job was submitted; whether anybody wants to know."""
        if not self._feeds:
            return False
        parts = _MESSAGE.fullmatch(data)
        if parts is None:
            self._trouble.note(logging.WARNING, f"a message about a submitted job cannot be read: {data[:80]!r}")
            self._catch_up()
            return True
        model, job_id = parts[1].decode(), parts[2].decode()
        for wanted in (model, None):
            for feed in tuple(self._feeds.get(wanted, ())):
                try:
                    feed.submitted(job_id)
                except Exception as error:
                    self._trouble.of_peer(feed.peer, error, "to tell of a job")
        return True

    def look(self, now: float) -> None:
        """To be called each second: send those away who are told nothing."""
        if self._feeds and not self._live and now - self._since > LIVE_WITHIN:
            for feed in self._all():
                try:
                    feed.fail(NotLive("Redis is not listened to"))
                except Exception as error:
                    self._trouble.of_peer(feed.peer, error, "to give up a feed")

    def _catch_up(self) -> None:
        for feed in self._all():
            try:
                feed.catch_up()
            except Exception as error:
                self._trouble.of_peer(feed.peer, error, "to look for jobs")

    def _all(self) -> list[Feed]:
        return [feed for feeds in self._feeds.values() for feed in feeds]
