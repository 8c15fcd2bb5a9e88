"""Python's own places, in which a job may put something of its own: hooks, and functions that every model calls.

Elsewhere a module that a job patches stays so: to look at all of them for each job would take longer than most jobs.
"""

from __future__ import annotations

import json
import sys
from operator import attrgetter
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
    "json": ("dumps", "loads", "dump", "load", "JSONEncoder", "JSONDecoder"),
}
_METHODS = (
    (json.JSONEncoder, ("encode", "iterencode", "default")),
    (json.JSONDecoder, ("decode", "raw_decode")),
)


class Hooks:
    """Each place as it was; of modules that something has imported by then."""

    what = "hooks"
    before: list[tuple[Any, ...]] = []

    def remember(self) -> None:
        modules = [(sys.modules[module], names) for module, names in _PLACES.items() if module in sys.modules]
        self._places: list[tuple[Any, list[str]]] = [
            (owner, [name for name in names if hasattr(owner, name)]) for owner, names in (*modules, *_METHODS)
        ]
        # With the owner's name, as attrgetter gives no tuple of one alone.
        self._reads = [(owner, attrgetter(*names, "__name__")) for owner, names in self._places]
        self.before = self.now()

    def put_back(self) -> None:
        for (owner, names), before in zip(self._places, self.before, strict=True):
            for name, value in zip(names, before, strict=False):
                setattr(owner, name, value)

    def now(self) -> list[tuple[Any, ...]]:
        try:
            return [read(owner) for owner, read in self._reads]
        except AttributeError:  # a job has taken one away
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
