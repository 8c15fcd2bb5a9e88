"""Pools of processes, which a model may keep from job to job.

One that import or setup has made serves all jobs, though it starts its processes only when a job needs them. One that
a job has left ends with it, in order: if only its processes were killed, whoever uses it next would wait for ever.
"""

from __future__ import annotations

import gc
import sys
import threading
from collections.abc import Collection
from typing import Any
from weakref import WeakSet

_WAIT = 1.0


class Pools:
    """Knows those that may stay."""

    def __init__(self) -> None:
        self._lasting: WeakSet[Any] = WeakSet()

    def remember(self) -> None:
        """Those that are there now may stay, with all processes that they start."""
        self._lasting.update(_all())

    def lasting(self) -> set[int]:
        """The processes of those that may stay."""
        return {pid for pool in self._lasting for pid in _processes(pool)}

    def end(self, pids: Collection[int]) -> None:
        """End those to which one of these processes belongs: using one is an error from now on."""
        for pool in _all():
            if pool not in self._lasting and hasattr(pool, "terminate") and not _processes(pool).isdisjoint(pids):
                # In a thread, as it may wait for ever if the job has ended one of the processes by itself.
                ending = threading.Thread(target=pool.terminate, daemon=True)
                ending.start()
                ending.join(_WAIT)


def _all() -> list[Any]:
    places = (("multiprocessing.pool", "Pool"), ("concurrent.futures.process", "ProcessPoolExecutor"))
    kinds = tuple(getattr(sys.modules[module], name) for module, name in places if module in sys.modules)
    # By their type: to ask an object for its class may run code of others.
    return [each for each in gc.get_objects() if issubclass(type(each), kinds)]


def _processes(pool: Any) -> set[int]:
    workers = getattr(pool, "_pool", None)
    if workers is None:  # a ProcessPoolExecutor, which has none any more once it was shut down
        return set(getattr(pool, "_processes", None) or ())
    return {each.pid for each in list(workers) if hasattr(each, "pid")}  # not the threads of a ThreadPool
