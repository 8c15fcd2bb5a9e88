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
    "socket": ("socket", "getaddrinfo", "create_connection"),
    "urllib.request": ("_opener",),
    "ssl": ("_create_default_https_context",),
}


class Hooks:
    """Each place as it was; of modules that something has imported by then."""

    what = "hooks"
    before: list[tuple[Any, ...]] = []

    def remember(self) -> None:
        found = [(vars(sys.modules[module]), names) for module, names in _PLACES.items() if module in sys.modules]
        self._places = [(there, list(filter(there.__contains__, names))) for there, names in found]
        # With the module's name, as itemgetter gives no tuple of one alone.
        self._reads = [(there, itemgetter(*names, "__name__")) for there, names in self._places]
        self.before = self.now()

    def put_back(self) -> None:
        for (module, names), before in zip(self._places, self.before, strict=True):
            module.update(zip(names, before, strict=False))

    def now(self) -> list[tuple[Any, ...]]:
        try:
            return [read(module) for module, read in self._reads]
        except KeyError:  # a job has taken one away
            return []


class Torch:
    """What torch does by default for all that follows, once something has imported it."""

    what = "torch"
    before: tuple[Any, bool, int] | None = None

    def remember(self) -> None:
        self.before = self.now()

    def now(self) -> tuple[Any, bool, int] | None:
        module: Any = sys.modules.get("torch")
        if not hasattr(module, "get_num_threads"):  # also one that is half imported
            return None
        return module.get_default_dtype(), module.is_grad_enabled(), module.get_num_threads()

    def put_back(self) -> None:
        if self.before is None:  # a job has imported it
            self.remember()
            return
        torch: Any = sys.modules["torch"]
        dtype, grad, threads = self.before
        torch.set_default_dtype(dtype)
        torch.set_grad_enabled(grad)
        torch.set_num_threads(threads)
