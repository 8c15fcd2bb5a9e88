"""What is done in the work-horse after a job, so that nothing of it reaches the next one."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from service.worker.children import Children
from service.worker.left_state import ProcessState
from service.worker.left_tasks import LeftTasks
from service.worker.left_threads import LeftThreads
from service.worker.link import LinkClosed, Message

LOOK_AGAIN = 0.5
"""Seconds after which what was left is looked at again, if no job comes: a thread may end by itself."""
FOR_GOOD = 1.0
"""Seconds after which it is held to stay: one that writes its last lines is no reason for a fresh work-horse."""


class Leftovers:
    """Puts back what can be, and tells what cannot: a work-horse with such is replaced."""

    def __init__(
        self,
        jobs_dir: Path,
        loop_is_busy: Callable[[], bool],
        tell: Callable[[Message], None],
        goes_on: Callable[[bool], None],
    ) -> None:
        """`goes_on` is told whether a thread or a task of a job that is over does."""
        self._loop_is_busy = loop_is_busy
        self._tell = tell
        self._goes_on = goes_on
        self._state = ProcessState()
        self._threads = LeftThreads(jobs_dir)
        self.tasks = LeftTasks(self._threads.is_a_models)
        self._children = Children()
        self._lock = threading.Lock()
        self._in_unit = False
        self._stays: list[str] = []
        self._left: list[str] = []
        self._since = 0.0
        self._told: Message = {"left": [], "for_good": False}
        self._repeats = False
        self.remember()

    def __bool__(self) -> bool:
        return bool(self._left)

    def remember(self) -> None:
        """How the process is now, after import or a setup, is how each job shall find it."""
        with self._lock:
            self._state.remember()
            self._threads.remember()
            self._children.remember()

    def unit_begins(self) -> None:
        """The main thread runs jobs from now on: what they change is theirs to change."""
        with self._lock:
            self._in_unit = True
            if self._loop_is_busy():  # one that is over there may have left something
                self._state.put_back(in_main_thread=True)

    def unit_is_over(self, detached: bool = False) -> None:
        """In the main thread, after its jobs. `detached`: the processes that they have started may go on."""
        with self._lock:
            self._in_unit = False
            self._clean(True, detached)

    def loop_is_idle(self, detached: bool) -> None:
        """In the event loop's thread, after the last of its jobs: unless the main thread runs one."""
        self.tasks.cancel_timers(asyncio.get_running_loop())
        with self._lock:
            if not self._in_unit:
                self._clean(False, detached)

    def _clean(self, in_main_thread: bool, detached: bool) -> None:
        self._stays = self._state.put_back(in_main_thread)
        self._stays += self._children.end(of_main_thread=self._loop_is_busy(), detached=detached)
        message = self._look()
        if message == self._told:
            return
        self._told = message
        self._tell(message)
        if message["left"] and not self._repeats:
            self._repeats = True
            threading.Thread(target=self._repeat, name="leftovers", daemon=True).start()

    def _look(self) -> Message:
        busy = self._in_unit or self._loop_is_busy()
        at_work = [*self._threads.look(busy), *self.tasks.look()]
        self._goes_on(bool(at_work))
        left = [*self._stays, *at_work]
        if not self._left:
            self._since = time.monotonic()
        self._left = left
        return {"left": left, "for_good": bool(left) and time.monotonic() >= self._since + FOR_GOOD}

    def _repeat(self) -> None:
        """Tell it again and again: a thread that was left may hold the interpreter, and then nobody hears of it."""
        with suppress(LinkClosed):
            while self._repeats:
                time.sleep(LOOK_AGAIN)
                with self._lock:
                    self._told = self._look()
                    self._repeats = bool(self._told["left"])
                    self._tell(self._told)
