"""Python's own places, in which a job may put something of its own: hooks, and functions that every model calls.

Elsewhere a module that a job patches stays so: to look at all of them for each job would take longer than most jobs.
"""

from __future__ import annotations

import sys
from operator import itemgetter
from typing import Any

_PLACES = {
    "builtins": ("print", "open", "input", "__import__"),
    "sys": ("excepthook", "unraisablehook", "stdin"),
    "threading": ("excepthook", "_trace_hook", "_profile_hook"),
    "logging": (
        *("_loggerClass", "_logRecordFactory", "_warnings_showwarning", "lastResort", "raiseExceptions"),
        *("getLogger", "basicConfig"),
    ),
    "warnings": ("showwarning",),
    "time": ("sleep", "time", "monotonic"),
    "json": ("dumps", "loads"),
    "socket": ("socket", "getaddrinfo", "create_connection"),
    "urllib.request": ("_opener",),
    "ssl": ("_create_default_https_context",),
}


class Hooks:
    """Each place as it was; of modules that something has imported by then."""

    what = "hooks"

    def remember(self) -> None:
        found = [(vars(sys.modules[module]), names) for module, names in _PLACES.items() if module in sys.modules]
        self._places = [(there, list(filter(there.__contains__, names))) for there, names in found]
        # With the module's name, as itemgetter gives no tuple of one alone.
        self._reads = [(there, itemgetter(*names, "__name__")) for there, names in self._places]
        self._before = self._now()

    def changed(self) -> bool:
        try:
            return self._now() != self._before
        except KeyError:  # it has taken one away
            return True

    def put_back(self) -> None:
        for (module, names), before in zip(self._places, self._before, strict=True):
            module.update(zip(names, before, strict=False))

    def _now(self) -> list[tuple[Any, ...]]:
        return [read(module) for module, read in self._reads]


class Torch:
    """What torch does by default for all that follows, once something has imported it."""

    what = "torch"

    def remember(self) -> None:
        self._before = _torch()

    def changed(self) -> bool:
        return "torch" in sys.modules and _torch() != self._before

    def put_back(self) -> None:
        if self._before is None:  # a job has imported it
            self.remember()
            return
        torch: Any = sys.modules["torch"]
        dtype, grad, threads = self._before
        torch.set_default_dtype(dtype)
        torch.set_grad_enabled(grad)
        torch.set_num_threads(threads)


def _torch() -> tuple[Any, bool, int] | None:
    module: Any = sys.modules.get("torch")
    if not hasattr(module, "get_num_threads"):  # also one that is half imported
        return None
    return module.get_default_dtype(), module.is_grad_enabled(), module.get_num_threads()
