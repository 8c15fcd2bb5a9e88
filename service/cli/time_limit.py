"""The timeout of a model that runs in this process: as in a work-horse, but never while it is debugged."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from types import FrameType
from typing import Any

from service.cli.terminal import say
from service.worker.link import INTERRUPT
from service.worker.prediction import Interrupted

LOOK_INTERVAL = 0.2
_DEBUGGERS = ("bdb", "pdb", "debugpy", "pydevd", "ipdb")


class TimedOut(Interrupted, KeyboardInterrupt):
    """Its time is over. A KeyboardInterrupt too: an event loop lets no other exception through at any moment."""


class TimeLimit:
    """Within it the main thread has so many seconds, then TimedOut is raised; after `grace` more the process ends.

    0 seconds are no limit. `asked`: whether its time is over, or Ctrl-C was pressed.
    """

    def __init__(self, seconds: float, grace: float) -> None:
        self.seconds = seconds
        self._grace = grace
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="time limit", daemon=True)
        self._main = threading.main_thread().ident or 0
        self.asked = self.passed = False

    def __enter__(self) -> TimeLimit:
        signal.signal(signal.SIGINT, self._leave)
        if self.seconds > 0 and sys.gettrace() is None:
            signal.signal(INTERRUPT, self._interrupt)
            self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        signal.signal(signal.SIGINT, signal.default_int_handler)

    def _watch(self) -> None:
        ends_at = time.monotonic() + self.seconds
        while (left := ends_at - time.monotonic()) > 0:
            # Whoever looks at the model with a debugger has all the time there is.
            if self._done.wait(min(left, LOOK_INTERVAL)) or _debugged(sys._current_frames().get(self._main)):
                return
        self.asked = self.passed = True
        signal.pthread_kill(self._main, INTERRUPT)
        if not self._done.wait(self._grace):
            say(f"error: timeout: it ran for longer than {self.seconds:g} s, and did not leave within STOP_GRACE")
            os._exit(1)

    def _leave(self, *_: Any) -> None:
        self.asked = True
        raise KeyboardInterrupt

    def _interrupt(self, *_: Any) -> None:
        if not self._done.is_set():
            raise TimedOut


def _debugged(frame: FrameType | None) -> bool:
    while frame is not None:
        if frame.f_globals.get("__name__", "").partition(".")[0] in _DEBUGGERS:
            return True
        frame = frame.f_back
    return False
