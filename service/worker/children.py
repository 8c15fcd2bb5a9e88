"""Processes that a job has started and left: they end with it, unless its model has them detached.

On Linux the work-horse is their reaper: what a child has left in a session of its own comes to it when the child ends.
Source: prctl(2), PR_SET_CHILD_SUBREAPER; proc(5), /proc/pid/task/tid/children.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

from service.worker.pools import Pools

_getpid = os.getpid  # a model may patch it, and then others' children would be ended
_WAIT = 1.0
_PAUSE = 0.001


class Children:
    """Ends those that jobs leave; those of an import and of setup may stay."""

    def __init__(self) -> None:
        self._may_stay: set[int] = set()
        self._pools = Pools()

    def remember(self) -> None:
        """Those that run now may stay."""
        self._may_stay = set(of_process())
        self._pools.remember()

    def end(self, of_main_thread: bool, detached: bool) -> list[str]:
        """End those that were left, all or those of the main thread, and return what could not be ended.

        `detached`: the model wants them to go on.
        """
        if not has_any():
            return []
        if detached:
            self._may_stay.update(of_process())
            return []
        left = self._left(of_main_thread)
        if {child.pid for child in _active_children()}.intersection(left):
            self._pools.end(left)
        deadline = time.monotonic() + _WAIT
        while left := self._left(of_main_thread):
            for pid in left:
                _end(pid)
            if time.monotonic() > deadline:
                return [f"process {pid}" for pid in left]
            time.sleep(_PAUSE)  # what they had started comes to us
        return []

    def _left(self, of_main_thread: bool) -> list[int]:
        # Of these only our own: the number of one that has ended may be another's by now, whose children are not ours.
        serving = _of_multiprocessing().intersection(of_process())
        may_stay = self._may_stay | self._pools.lasting()
        pids = of_process(of_main_thread=of_main_thread)
        pids += [pid for server in serving for pid in of_process(server)]  # a fork server is the parent of its forks
        return [pid for pid in pids if pid not in may_stay and pid not in serving]


class Newcomers:
    """Tells whether there are others than before."""

    def __init__(self) -> None:
        self._known: frozenset[int] = frozenset()

    def came(self) -> bool:
        """Whether there are children that were not there at the last call."""
        if not has_any():
            return False
        before, self._known = self._known, frozenset(of_process())
        return not self._known or not self._known <= before  # the kernel may not list them


def of_process(pid: int | None = None, of_main_thread: bool = False) -> list[int]:
    """The children of a process, by default of this one; none where the kernel does not list them."""
    pid = pid or _getpid()
    tasks = [str(pid)] if of_main_thread else _tasks(pid)
    pids: list[int] = []
    for task in tasks:
        with contextlib.suppress(OSError):  # it has ended
            pids += map(int, Path(f"/proc/{pid}/task/{task}/children").read_text().split())
    return pids


def descendants(pid: int) -> list[int]:
    """All processes below one."""
    found: list[int] = []
    left = of_process(pid)
    while left:
        found += left
        left = [child for each in left for child in of_process(each)]
    return found


def _tasks(pid: int) -> list[str]:
    try:
        return os.listdir(f"/proc/{pid}/task")
    except OSError:
        return []


# Through ctypes: os.waitid would raise an error for "none", which takes five times as long.
_waitid = ctypes.PyDLL(None).waitid
_info = ctypes.create_string_buffer(128)


def has_any() -> bool:
    """Whether there is any, running or ended; none is waited for. Asked for each job: to have none costs one call."""
    return bool(_waitid(0, 0, _info, os.WEXITED | os.WNOHANG | os.WNOWAIT) == 0)


def _end(pid: int) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.kill(pid, signal.SIGKILL)
    for each in _active_children():  # which waits for it itself, and would not be told
        if each.pid == pid:
            each.join(_PAUSE)
            return
    with contextlib.suppress(ChildProcessError):
        os.waitpid(pid, os.WNOHANG)


def _active_children() -> list[Any]:
    module = sys.modules.get("multiprocessing.process")
    return list(getattr(module, "_children", ()))


def _of_multiprocessing() -> set[int]:
    """Its resource tracker (joblib has one like it) and its fork server, which serve the jobs that come as well."""
    trackers = [module for name, module in list(sys.modules.items()) if name.endswith("resource_tracker")]
    pids = [getattr(getattr(module, "_resource_tracker", None), "_pid", None) for module in trackers]
    server = getattr(sys.modules.get("multiprocessing.forkserver"), "_forkserver", None)
    return {pid for pid in (*pids, getattr(server, "_forkserver_pid", None)) if pid is not None}
