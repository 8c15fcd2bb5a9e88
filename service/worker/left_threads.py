"""Threads that a job has left: a timer is cancelled; what runs on can only be ended with the process."""

from __future__ import annotations

import functools
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any
from weakref import WeakSet

from service.progress import reporter
from service.worker.carried import context_of


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

    def remember(self) -> None:
        """Those that are there now may stay."""
        self._known.update(threading.enumerate())

    def look(self) -> list[str]:
        """Cancel the timers that were left, and name the threads that run on."""
        now = threading.enumerate()
        if now != self._last:
            self._last = now
            self._strangers.update(thread for thread in now if thread not in self._known)
            self._known.update(now)
        if not self._strangers:
            return []
        frames = sys._current_frames()
        alive = [thread for thread in self._strangers if thread.is_alive()]
        return sorted(f"thread {each.name}" for each in alive if not _has_a_job(each) and self._runs_on(each, frames))

    def _runs_on(self, thread: threading.Thread, frames: dict[int, FrameType]) -> bool:
        if isinstance(thread, threading.Timer) and self._is_a_models(thread.function):
            thread.cancel()
        frame = frames.get(thread.ident or 0)
        while frame is not None:
            if frame.f_code.co_filename.startswith(self._folder):
                return True
            frame = frame.f_back
        target = getattr(thread, "_target", None)  # of one that is in C code no frame tells
        return target is not None and self._is_a_models(target)

    def _is_a_models(self, function: Callable[..., Any]) -> bool:
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
