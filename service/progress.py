"""progress: how a model tells how far it is.

Inside a job the numbers go to the job's reporter, which a work-horse sets; outside of one, where a
model file is run alone, they draw a tqdm bar.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sized
from contextvars import ContextVar
from typing import Any, Protocol, TypeVar

T = TypeVar("T")
Number = int | float


class Reporter(Protocol):
    """Takes a job's progress to its watchers."""

    def progress(self, state: dict[str, Any]) -> None: ...


reporter: ContextVar[Reporter | None] = ContextVar("reporter", default=None)
"""The reporter of the job that this code runs for."""


class Progress:
    """`progress(iterable)` like tqdm, or `progress.update(fraction)`."""

    def __call__(
        self, iterable: Iterable[T], total: int | None = None, message: str | None = None, unit: str = "it"
    ) -> Iterator[T]:
        """Iterate and report `{index, length, fraction, unit, message}` after each item.

        `total` is the number of items, for an iterable that has no len(). Updates are coalesced:
        a loop may be as quick as it likes.
        """
        length = _total(total) if total is not None else len(iterable) if isinstance(iterable, Sized) else None
        target = reporter.get()
        if target is None:
            yield from _tqdm()(iterable, total=length, desc=message, unit=unit)
            return
        target.progress(_state(0, length, unit, message))
        for index, item in enumerate(iterable, start=1):
            yield item
            target.progress(_state(index, length, unit, message))

    def update(self, fraction: float, message: str | None = None, **metrics: Number) -> None:
        """Report that `fraction` (0 to 1) of the job is done, and named numbers such as loss=0.3.

        Raises ValueError if the fraction is not within 0 to 1, TypeError if a metric is not a number.
        """
        if not 0 <= fraction <= 1:
            raise ValueError(f"fraction is {fraction!r}: expected a number from 0 to 1")
        state: dict[str, Any] = {
            "index": None,
            "length": None,
            "fraction": float(fraction),
            "unit": None,
            "message": _text(message),
        }
        if metrics:
            state["metrics"] = {name: _number(name, value) for name, value in metrics.items()}
        target = reporter.get()
        if target is not None:
            target.progress(state)
        else:
            numbers = "".join(f" {name}={value:.4g}" for name, value in state.get("metrics", {}).items())
            _tqdm().write(f"{fraction:4.0%} {message or ''}{numbers}")


def _tqdm() -> Any:
    # Only where a bar is drawn: its import takes a tenth of the time in which a process of the service starts.
    from tqdm.auto import tqdm

    return tqdm


def _state(index: int, length: int | None, unit: str, message: str | None) -> dict[str, Any]:
    fraction = min(index / length, 1.0) if length else None
    return {"index": index, "length": length, "fraction": fraction, "unit": str(unit), "message": _text(message)}


def _total(value: Any) -> int:
    """A NumPy integer is not one that JSON knows."""
    try:
        return int(value)
    except (TypeError, ValueError, OverflowError):
        raise TypeError(f"total is {value!r}: expected a whole number") from None


def _text(message: object) -> str | None:
    return None if message is None else str(message)


def _number(name: str, value: Any) -> Number:
    if isinstance(value, (int, float)):
        return value
    try:
        return float(value)  # a NumPy or torch scalar
    except (TypeError, ValueError):
        raise TypeError(f"metric {name} is {value!r}: expected a number") from None


progress = Progress()
