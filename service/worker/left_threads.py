"""Threads that a job has left: a timer is cancelled; what runs on can only be ended with the process."""

from __future__ import annotations

import _thread
import functools
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any
from weakref import WeakSet

from service.progress import reporter
from service.worker.calls import Seldom
from service.worker.carried import context_of, thread_starts


class LeftThreads:
    """Looks for threads that run a model's code for a job that is over, or for none.

    Those that were there after import and setup are the model's own for good, and a library's worker that waits for
    work (a pool, tqdm's monitor) hurts nobody: to replace the work-horse for it would be to do so after each job.
    """

    def __init__(self, jobs_dir: Path) -> None:
        self._folder = f"{jobs_dir.resolve()}/"
        self._known: WeakSet[threading.Thread] = WeakSet()
        self._strangers: WeakSet[threading.Thread] = WeakSet()
        self._last: list[threading.Thread] = []
        self._raw = 0
        self._seldom = Seldom(thread_starts)

    def remember(self) -> None:
        """Those that are there now may stay."""
        now = threading.enumerate()
        self._known.update(now)
        self._raw = _thread._count() - len(now)

    def look(self, busy: bool) -> list[str]:
        """Cancel the timers that were left, and name the threads that run on.

        `busy`: jobs run, whose threads these may be; of some nobody can tell.
        """
        if not self._seldom.due():
            return []
        left = self._look(busy)
        if not busy and not left and not self._strangers:
            self._seldom.looked()
        return left

    def _look(self, busy: bool) -> list[str]:
        now = threading.enumerate()
        if now != self._last:
            self._last = now
            self._strangers.update(thread for thread in now if thread not in self._known)
            self._known.update(now)
        # Those of _thread, which threading does not know.
        raw = not busy and _thread._count() - len(now) > self._raw
        if not self._strangers and not raw:
            return []
        frames = sys._current_frames()
        alive = [each for each in self._strangers if each.is_alive() and not _has_a_job(each)]
        left = [f"thread {each.name}" for each in alive if self._runs_on(each, frames)]
        if raw:
            known = {thread.ident for thread in now}
            left += [f"thread {ident}" for ident in frames.keys() - known if self._is_in_model(frames[ident])]
        return sorted(left)

    def _runs_on(self, thread: threading.Thread, frames: dict[int, FrameType]) -> bool:
        if isinstance(thread, threading.Timer) and self.is_a_models(thread.function):
            thread.cancel()
        elif getattr(thread, "started_in", "").startswith(self._folder):  # a library's, as a server of HTTP
            return True
        if self._is_in_model(frames.get(thread.ident or 0)):
            return True
        target = getattr(thread, "_target", None)  # of one that is in C code no frame tells
        return target is not None and self.is_a_models(target)

    def _is_in_model(self, frame: FrameType | None) -> bool:
        while frame is not None:
            if frame.f_code.co_filename.startswith(self._folder):
                return True
            frame = frame.f_back
        return False

    def is_a_models(self, function: Callable[..., Any]) -> bool:
        """Whether it is a function of a model file, or one in C of the standard library."""
        while isinstance(function, functools.partial):
            function = function.func
        code = getattr(function, "__code__", None)
        if code is not None:
            return bool(code.co_filename.startswith(self._folder))
        module = getattr(function, "__module__", None) or type(function).__module__
        return module.partition(".")[0] in sys.stdlib_module_names


def _has_a_job(thread: threading.Thread) -> bool:
    """Whether it works for one that runs: on the event loop some may, all the time."""
    context = context_of(thread)
    job = None if context is None else context.get(reporter)
    return job is not None and not getattr(job, "closed", False)
