"""Long polls on the relay's loop: an answer that is held until its job is done."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from service.relay.loop import Relay
from service.relay.peer import Peer
from service.relay.readers import NotLive
from service.relay.watch import Watch
from service.store.events import Event

SHORTLY = 0.005  # seconds in which most jobs that are waited for are over, and told to be


class _Ending(Watch):
    """Watches for a job's end only. The log is read for those that may have ended before they were listened to."""

    __slots__ = ()

    def live(self, event: Event) -> None:
        if event.terminal and event.order > self._order and not self.over:
            self._end()

    def catch_up(self) -> None:
        # Not at once: the worker that runs the job needs Redis at this moment, and is quicker without.
        asyncio.get_running_loop().call_later(SHORTLY, super().catch_up)


class LongPoll(Peer):
    """A request that waits for a job. `answer`, called in a thread, gives the whole HTTP answer; `otherwise` gives
    it while Redis hangs."""

    __slots__ = ("_answer", "_otherwise", "_seconds", "_task", "_timer", "_watch")

    def __init__(
        self,
        relay: Relay,
        job_id: str,
        after: str,
        seconds: float,
        answer: Callable[[], bytes],
        otherwise: Callable[[], bytes],
    ) -> None:
        """It is answered as soon as the job is done, or after so many seconds; the log is read from `after`."""
        super().__init__(relay)
        self._watch = _Ending(relay, self, job_id, after)
        self._seconds = seconds
        self._answer = answer
        self._otherwise = otherwise
        self._timer: asyncio.TimerHandle | None = None
        self._task: asyncio.Task[None] | None = None

    def begin(self) -> None:
        self._timer = asyncio.get_running_loop().call_later(self._seconds, self.restart)
        self._relay.channels.join(self._watch)

    def send(self, event: Event) -> None:
        """It waits for the end only."""

    def over(self, watch: Watch) -> None:
        self.restart()

    def failed(self, watch: Watch, error: Exception) -> None:
        self.restart()

    def restart(self) -> None:
        """Answer with the job as it is."""
        if self._task is None:
            self._task = self._relay.start(self._finish(self._relay.readers.call(self._answer)), self)

    def too_slow(self) -> None:
        self._transport.abort()

    def beat(self) -> None:
        """Nothing can be said before the answer; that it has gone is read from its socket."""

    def left(self) -> None:
        self._watch.leave()
        if self._timer is not None:
            self._timer.cancel()

    async def _finish(self, answered: asyncio.Future[bytes]) -> None:
        self._watch.leave()
        try:
            answer = await answered
        except NotLive:
            # In another thread than those which hang. It asks Redis nothing.
            answer = await asyncio.get_running_loop().run_in_executor(None, self._otherwise)
        self.write(answer)
        self.finish()
