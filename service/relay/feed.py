"""One WebSocket for many jobs: the client says which, by their ids, by their model, or all of them."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from itertools import islice

from service.relay.loop import Relay
from service.relay.watch import Watch
from service.relay.websocket import POLICY, TRY_LATER, WebSocket, complaint, event_types, why
from service.relay.wishes import AllJobs, InvalidMessage, OneJob, Wish, wishes
from service.store.events import BEGINNING
from service.store.job import ID
from service.store.models import ModelNotFound

MOST_JOBS = 10_000
"""Jobs that one socket may watch."""
MOST_FEEDS = 100
"""Models whose jobs one socket may watch."""
READS = 4  # jobs whose logs are read for one socket at a time
MOST_BEGINNING = 64  # jobs that wait for that; more are not begun before
STEPS = 100  # jobs that are subscribed at a time, before others have their turn
MESSAGES, MESSAGES_PER_SECOND = 1_000, 50  # that a client may send at once, and in the long run
REMEMBERED = 60.0  # seconds for which a feed knows a job that it has begun, and does not begin it again
SKEW = 10.0  # seconds by which the clocks of two web processes may differ
AGAIN = 0.2  # seconds between two looks for jobs


class TooManyJobs(Exception):
    """The socket watches as many jobs as one may."""


class FeedSocket(WebSocket):
    """The socket of a watcher of many jobs. Each of them is watched as if it had a socket of its own.

    What it may cost is bounded: it is not read while there are wishes left of what it said, those are granted as
    their jobs are told, and these as it reads.
    """

    largest_message = 2**20

    def __init__(self, relay: Relay, types: str | None) -> None:
        """`types` as the client wrote them."""
        super().__init__(relay)
        self._asked_types = types
        self._types: frozenset[str] | None = None
        self._watches: dict[str, Watch] = {}
        self._beginning: set[str] = set()
        self._room = asyncio.Event()
        self._feeds: dict[str | None, Feed] = {}
        self._wishes: deque[Wish] = deque()
        self._task: asyncio.Task[None] | None = None
        self._messages = float(MESSAGES)
        self._messages_at = time.monotonic()
        self.turn = asyncio.Semaphore(READS)
        self.looks = asyncio.Lock()
        """Held by the one of its feeds that looks for jobs."""

    def begin(self) -> None:
        try:
            self._types = event_types(self._asked_types)
        except ValueError as error:
            self.close(*why(error))

    def message(self, text: str) -> None:
        if not self._may_say_more():
            self.refuse(POLICY, "too-many-messages", f"at most {MESSAGES_PER_SECOND} a second")
            return
        try:
            self._wishes.extend(wishes(text))
        except InvalidMessage as error:
            self.complain("invalid-message", str(error))
        if self._wishes and self._task is None:
            self._task = self._relay.start(self._grant(), self)

    def is_busy(self) -> bool:
        return bool(self._wishes)

    def watch(self, job_id: str, after: str | None) -> None:
        """Watch one more job; nothing new if it is watched already. Raises TooManyJobs."""
        if job_id in self._watches or self.closing:
            return
        if len(self._watches) >= MOST_JOBS:
            raise TooManyJobs
        watch = self._watches[job_id] = Watch(self._relay, self, job_id, after, self._types)
        self._beginning.add(job_id)
        self._relay.channels.join(watch)

    async def room(self) -> None:
        """Return when one more job can be begun: when the client has read enough of those before."""
        await self.drained()
        while len(self._beginning) >= MOST_BEGINNING and not self.closing:
            self._room.clear()
            await self._room.wait()

    def began(self, watch: Watch) -> None:
        self._beginning.discard(watch.job_id)
        self._room.set()

    def over(self, watch: Watch) -> None:
        self._watches.pop(watch.job_id, None)
        self.began(watch)

    def failed(self, watch: Watch, error: Exception) -> None:
        self.over(watch)
        for feed in self._feeds.values():
            feed.forget(watch.job_id)
        self.cannot(error, watch.job_id)

    def cannot(self, error: Exception, job_id: str = "") -> None:
        """Tell the client why it is not told of a job, or close if that is so of all."""
        code, kind, title = why(error)
        if code == TRY_LATER:
            self.close(code, kind, "reconnect, and subscribe with after=<last id>")
        else:
            self.complain(kind, title, job_id)

    def left(self) -> None:
        if self._task is not None:
            self._task.cancel()
        self._wishes.clear()
        for watch in list(self._watches.values()):
            watch.leave()
        for feed in list(self._feeds.values()):
            feed.leave()
        self._room.set()

    def complain(self, kind: str, title: str, job_id: str = "") -> None:
        """Tell the client of what it asked for and does not get."""
        self.send(complaint(kind, title, job_id))

    async def _grant(self) -> None:
        while self._wishes and not self.closing:
            for _ in range(min(STEPS, len(self._wishes))):
                await self.room()  # a client that asks and does not read waits
                if self.closing:
                    break
                self._grant_one(self._wishes.popleft())
            await asyncio.sleep(0)
        self._wishes.clear()
        self._task = None
        self.listen()

    def _grant_one(self, wish: Wish) -> None:
        match wish.verb, wish.subject:
            case "subscribe", OneJob(job_id, after):
                try:
                    self.watch(job_id, after)
                except TooManyJobs:
                    self.complain("too-many-jobs", f"one socket may watch {MOST_JOBS} jobs", job_id)
            case "subscribe", AllJobs(model) if model not in self._feeds:
                self._feed(model)
            case "unsubscribe", OneJob(job_id, _):
                if watch := self._watches.get(job_id):
                    self.over(watch)
                    watch.leave()
            case "unsubscribe", AllJobs(model):
                if feed := self._feeds.pop(model, None):
                    feed.leave()

    def _feed(self, model: str | None) -> None:
        if len(self._feeds) >= MOST_FEEDS:
            self.complain("too-many-feeds", f"one socket may watch the jobs of {MOST_FEEDS} models")
            return
        feed = self._feeds[model] = Feed(self._relay, self, model)
        self._relay.feeds.follow(feed)

    def drop(self, feed: Feed, error: Exception) -> None:
        """A feed cannot go on."""
        if self._feeds.get(feed.model) is feed:
            del self._feeds[feed.model]
        feed.leave()
        self._relay.trouble.of_watch(self, error)
        if isinstance(error, ModelNotFound):
            self.complain("model-not-found", f"no model is called {str(feed.model)[:64]!r}")
        else:
            self.cannot(error)

    def _may_say_more(self) -> bool:
        moment = time.monotonic()
        earned = (moment - self._messages_at) * MESSAGES_PER_SECOND
        self._messages = min(MESSAGES, self._messages + earned) - 1
        self._messages_at = moment
        return self._messages >= 0


class Feed:
    """Has a socket watch the jobs of a model: those that are not over, and all that are submitted from now on."""

    def __init__(self, relay: Relay, socket: FeedSocket, model: str | None) -> None:
        self.model = model
        self.peer = socket
        self._relay = relay
        self._begun: dict[str, float] = {}
        self._since = 0.0  # all that were submitted before are known, by time.monotonic()
        self._full = False
        self._over = False
        self._again = False
        self._task: asyncio.Task[None] | None = None

    def submitted(self, job_id: str) -> None:
        """A job of the model was accepted."""
        self._since = time.monotonic()
        self._begin(job_id, BEGINNING)

    def catch_up(self) -> None:
        """Some may have been missed."""
        self._again = True
        if self._task is None:
            self._task = self._relay.start(self._look(), self.peer)

    def forget(self, job_id: str) -> None:
        """A job is not there: one of its id that comes is another one."""
        self._begun.pop(job_id, None)

    def fail(self, error: Exception) -> None:
        """It cannot go on."""
        self.peer.drop(self, error)

    def leave(self) -> None:
        """It is wanted no more; the jobs that are watched already are watched to their ends."""
        # Its task ends by itself: a thread that looks for it must be back before another one does for this socket.
        self._over = True
        self._relay.feeds.unfollow(self)

    async def _look(self) -> None:
        async with self.peer.looks:
            try:
                while self._again and not self._over:
                    self._again = False
                    await self._look_once()
                    if self._again:
                        await asyncio.sleep(AGAIN)
            except Exception as error:
                if not self._over:
                    self.fail(error)
            finally:
                self._task = None

    async def _look_once(self) -> None:
        moment = time.monotonic()
        if self._since:
            found = await self._relay.readers.call(self._submitted_since, self._since)
            new, after = [job_id for job_id in found if job_id not in self._begun], BEGINNING
        else:
            new, after = await self._relay.readers.call(self._active), None
        self._since = max(self._since, moment)
        for job_id in new:
            await self.peer.room()
            if self._over:
                return
            if ID.fullmatch(job_id):  # anything may be in a queue
                self._begin(job_id, after)

    def _active(self) -> list[str]:
        if self.model is not None:
            self._relay.models.described(self.model)
        return self._relay.jobs.active(self.model, MOST_JOBS)

    def _submitted_since(self, since: float) -> list[str]:
        # By Redis's clock; how long ago it was is measured here.
        seconds, microseconds = self._relay.redis.time()
        moment = seconds + microseconds / 1e6 - (time.monotonic() - since)
        return self._relay.jobs.submitted_since(self.model, moment - SKEW, MOST_JOBS)

    def _begin(self, job_id: str, after: str | None) -> None:
        self._forget_old(time.monotonic())
        if job_id in self._begun or self._over:
            return
        self._begun[job_id] = time.monotonic()
        try:
            self.peer.watch(job_id, after)
        except TooManyJobs:
            if not self._full:
                self._full = True
                self.peer.complain("too-many-jobs", f"one socket may watch {MOST_JOBS} jobs")

    def _forget_old(self, moment: float) -> None:
        # The oldest comes first: a look at two of them each time keeps up.
        for job_id in list(islice(self._begun, 2)):
            if moment - self._begun[job_id] > REMEMBERED:
                del self._begun[job_id]
