"""Whether a class can be made and set up as the service does that, and what its predict takes."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any


def unfit(target: type) -> str | None:
    """Why instances of a class with `predict` cannot be served, in words that say what to change; None if they can."""
    setup = inspect.unwrap(getattr(target, "setup", _nothing))
    if inspect.iscoroutinefunction(setup) or inspect.isgeneratorfunction(setup) or inspect.isasyncgenfunction(setup):
        return f"setup of {target.__name__} has to be a plain method, neither async nor with yield"
    if _takes_self(target) and not inspect.signature(target.predict).parameters:  # type: ignore[attr-defined]
        return f"predict of {target.__name__} is a method: its first parameter is self"
    for call in ("__init__", "setup"):
        if needs := _needed(getattr(target, call, None))[1:]:  # beside self
            return f"{call} of {target.__name__} needs {', '.join(needs)}, which nobody gives: read it in setup"
    return None


def parameters(target: type | Callable[..., Any]) -> list[inspect.Parameter]:
    """What a function, or predict of a class, is called with."""
    if not inspect.isclass(target):
        return list(inspect.signature(target).parameters.values())
    found = list(inspect.signature(target.predict).parameters.values())  # type: ignore[attr-defined]
    return found[1:] if _takes_self(target) else found


def _takes_self(target: type) -> bool:
    return not isinstance(inspect.getattr_static(target, "predict"), staticmethod | classmethod)


def _needed(call: Any) -> list[str]:
    """The parameters of a function that have no default."""
    if not inspect.isfunction(call):
        return []
    return [
        each.name
        for each in inspect.signature(call).parameters.values()
        if each.default is each.empty and each.kind not in (each.VAR_POSITIONAL, each.VAR_KEYWORD)
    ]


def _nothing() -> None: ...
