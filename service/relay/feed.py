"""One WebSocket for many jobs: the client says which, by their ids, by their model, or all of them."""

from __future__ import annotations

import asyncio
import json
import time
from collections import deque
from dataclasses import dataclass
from itertools import islice
from typing import Any, Literal, NamedTuple

import redis

from service.relay.loop import Relay
from service.relay.watch import Watch
from service.relay.websocket import POLICY, WebSocket, complaint, event_types, why
from service.store.clock import now
from service.store.events import BEGINNING, cursor
from service.store.models import ModelNotFound

MOST_JOBS = 10_000
"""Jobs that one socket may watch."""
READS = 4  # jobs whose logs are read for one socket at a time
STEPS = 100  # jobs that are subscribed at a time, before others have their turn
MESSAGES, MESSAGES_PER_SECOND = 1_000, 50  # that a client may send at once, and in the long run
REMEMBERED = 60.0  # seconds for which a feed knows a job that it has begun, and does not begin it again
SKEW = 10.0  # seconds by which the clocks of two web processes may differ


class InvalidMessage(ValueError):
    """What a client said cannot be understood; the argument says where and why."""


class TooManyJobs(Exception):
    """The socket watches as many jobs as one may."""


class OneJob(NamedTuple):
    """A job by its id, to be watched from a cursor or, without one, from a snapshot."""

    job_id: str
    after: str | None


class AllJobs(NamedTuple):
    """The jobs of a model, or of all of them."""

    model: str | None


@dataclass(frozen=True)
class Wish:
    """One thing that a client has asked for."""

    verb: Literal["subscribe", "unsubscribe"]
    subject: OneJob | AllJobs


class FeedSocket(WebSocket):
    """The socket of a watcher of many jobs. Each of them is watched as if it had a socket of its own."""

    largest_message = 2**20

    def __init__(self, relay: Relay, types: str | None) -> None:
        """`types` as the client wrote them."""
        super().__init__(relay)
        self._asked_types = types
        self._types: frozenset[str] | None = None
        self._watches: dict[str, Watch] = {}
        self._feeds: dict[str | None, _Feed] = {}
        self._wishes: deque[Wish] = deque()
        self._task: asyncio.Task[None] | None = None
        self._allowance = float(MESSAGES)
        self._allowed_at = time.monotonic()
        self.turn = asyncio.Semaphore(READS)

    def begin(self) -> None:
        try:
            self._types = event_types(self._asked_types)
        except ValueError as error:
            self.close(*why(error))

    def message(self, text: str) -> None:
        if not self._may_speak():
            self.close(POLICY, "too-many-messages", f"at most {MESSAGES_PER_SECOND} a second")
            return
        try:
            self._wishes.extend(wishes(text))
        except InvalidMessage as error:
            self.complain("invalid-message", str(error))
        if self._wishes and self._task is None:
            self._task = self._relay.start(self._grant())

    def watch(self, job_id: str, after: str | None) -> None:
        """Watch one more job; nothing new if it is watched already. Raises TooManyJobs."""
        if job_id in self._watches:
            return
        if len(self._watches) >= MOST_JOBS:
            raise TooManyJobs
        watch = self._watches[job_id] = Watch(self._relay, self, job_id, after, self._types)
        self._relay.join(watch)

    def over(self, watch: Watch) -> None:
        self._watches.pop(watch.job_id, None)

    def failed(self, watch: Watch, error: Exception) -> None:
        self._watches.pop(watch.job_id, None)
        _, kind, title = why(error)
        self.complain(kind, title, watch.job_id)

    def left(self) -> None:
        if self._task is not None:
            self._task.cancel()
        for watch in list(self._watches.values()):
            watch.leave()
        for feed in self._feeds.values():
            feed.leave()

    def complain(self, kind: str, title: str, job_id: str = "") -> None:
        """Tell the client of what it asked for and does not get."""
        self.send(complaint(kind, title, job_id))

    async def _grant(self) -> None:
        while self._wishes:
            await self.drained()  # a client that asks and does not read waits
            for _ in range(min(STEPS, len(self._wishes))):
                self._grant_one(self._wishes.popleft())
            await asyncio.sleep(0)
        self._task = None

    def _grant_one(self, wish: Wish) -> None:
        match wish.verb, wish.subject:
            case "subscribe", OneJob(job_id, after):
                try:
                    self.watch(job_id, after)
                except TooManyJobs:
                    self.complain("too-many-jobs", f"one socket may watch {MOST_JOBS} jobs", job_id)
            case "subscribe", AllJobs(model) if model not in self._feeds:
                self._feeds[model] = _Feed(self._relay, self, model)
                self._relay.follow(self._feeds[model])
            case "unsubscribe", OneJob(job_id, _):
                if watch := self._watches.pop(job_id, None):
                    watch.leave()
            case "unsubscribe", AllJobs(model):
                if feed := self._feeds.pop(model, None):
                    feed.leave()

    def drop(self, feed: _Feed) -> None:
        """A feed cannot go on."""
        self._feeds.pop(feed.model, None)
        feed.leave()

    def _may_speak(self) -> bool:
        moment = time.monotonic()
        earned = (moment - self._allowed_at) * MESSAGES_PER_SECOND
        self._allowance = min(MESSAGES, self._allowance + earned) - 1
        self._allowed_at = moment
        return self._allowance >= 0


class _Feed:
    """Has a socket watch the jobs of a model: those that are not over, and all that are submitted from now on."""

    def __init__(self, relay: Relay, socket: FeedSocket, model: str | None) -> None:
        self.model = model
        self._relay = relay
        self._socket = socket
        self._begun: dict[str, float] = {}
        self._since = 0.0  # all that were submitted before are known
        self._full = False
        self._task: asyncio.Task[None] | None = None

    def submitted(self, model: str, job_id: str) -> None:
        if self.model in (None, model):
            self._since = now().unix
            self._begin(job_id, BEGINNING)

    def catch_up(self) -> None:
        if self._task is not None:
            self._task.cancel()
        self._task = self._relay.start(self._look())

    def leave(self) -> None:
        """It is wanted no more; the jobs that are watched already are watched to their ends."""
        self._relay.unfollow(self)
        if self._task is not None:
            self._task.cancel()

    async def _look(self) -> None:
        moment = now().unix
        jobs = self._relay.jobs
        try:
            if self.model is not None:
                await self._relay.call(self._relay.models.described, self.model)
            if self._since:
                found = await self._relay.call(jobs.submitted_since, self.model, self._since - SKEW, MOST_JOBS)
                new, after = [job_id for job_id in found if job_id not in self._begun], BEGINNING
            else:
                new, after = await self._relay.call(jobs.active, self.model, MOST_JOBS), None
        except ModelNotFound:
            self._socket.complain("model-not-found", f"no model is called {str(self.model)[:64]!r}")
            self._socket.drop(self)
            return
        except redis.exceptions.RedisError as error:
            _, kind, title = why(error)
            self._socket.complain(kind, title)
            self._socket.drop(self)
            return
        self._since = max(self._since, moment)
        for number, job_id in enumerate(new, start=1):
            self._begin(job_id, after)
            if number % STEPS == 0:
                await asyncio.sleep(0)

    def _begin(self, job_id: str, after: str | None) -> None:
        self._forget(time.monotonic())
        if job_id in self._begun:
            return
        self._begun[job_id] = time.monotonic()
        try:
            self._socket.watch(job_id, after)
        except TooManyJobs:
            if not self._full:
                self._full = True
                self._socket.complain("too-many-jobs", f"one socket may watch {MOST_JOBS} jobs")

    def _forget(self, moment: float) -> None:
        # The oldest comes first: a look at two of them each time keeps up.
        for job_id in list(islice(self._begun, 2)):
            if moment - self._begun[job_id] > REMEMBERED:
                del self._begun[job_id]


def wishes(text: str) -> list[Wish]:
    """What a client's message asks for. Raises InvalidMessage, which says where it is wrong and what is allowed."""
    try:
        message = json.loads(text)
    except (ValueError, RecursionError):
        raise InvalidMessage('expected JSON: {"subscribe": [{"job_id": "..."}]}') from None
    if not isinstance(message, dict) or not message or message.keys() - {"subscribe", "unsubscribe"}:
        raise InvalidMessage('expected an object with "subscribe" or "unsubscribe"')
    found: list[Wish] = []
    for verb in ("subscribe", "unsubscribe"):
        entries = message.get(verb, [])
        if not isinstance(entries, list):
            raise InvalidMessage(f"{verb}: expected a list")
        found += [Wish(verb, _subject(each, f"{verb}[{number}]")) for number, each in enumerate(entries)]
    return found


def _subject(entry: Any, place: str) -> OneJob | AllJobs:
    match entry:
        case {"job_id": str(job_id), "after": str(after), **rest} if not rest:
            try:
                return OneJob(job_id, cursor(after))
            except ValueError as error:
                raise InvalidMessage(f"{place}: {error}") from None
        case {"job_id": str(job_id), **rest} if not rest:
            return OneJob(job_id, None)
        case {"model": str(model), **rest} if not rest:
            return AllJobs(model)
        case {"all": True, **rest} if not rest:
            return AllJobs(None)
    raise InvalidMessage(f'{place}: expected {{"job_id", "after"}}, {{"model"}} or {{"all": true}}')
