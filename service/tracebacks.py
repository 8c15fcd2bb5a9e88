"""Tracebacks as the author of a model reads them: the model's frames first, none of the service's before them."""

from __future__ import annotations

import os
import sysconfig
import traceback
from collections.abc import Iterator
from pathlib import Path

LONGEST = 10_000
"""Characters of a traceback that are kept; of a longer one the middle is left out."""

_SERVICE = str(Path(__file__).resolve().parent) + os.sep
_LIBRARIES = {path for name, path in sysconfig.get_paths().items() if name.endswith("lib")}
_NOT_THE_AUTHORS = (
    _SERVICE,
    "<frozen ",
    *(path + os.sep for path in _LIBRARIES | set(map(os.path.realpath, _LIBRARIES))),
)


def traceback_of(error: BaseException) -> str:
    """What was raised, with its causes and its group, at most LONGEST characters; "" if nothing but the service ran."""
    try:
        told = traceback.TracebackException.from_exception(error, compact=True)
        for each in _with_causes(told):
            each.stack = traceback.StackSummary.from_list(_from_the_author_on(list(each.stack)))
        seen = any(each.stack or issubclass(each.exc_type, SyntaxError) for each in _with_causes(told))
        return shortened("".join(told.format())) if seen else ""
    except Exception:  # what a model raises may have any __str__, and memory or stack may be used up
        return _frames_of(error)


def _frames_of(error: BaseException) -> str:
    """Where it was raised, though not what it says."""
    try:
        frames = _from_the_author_on(list(traceback.extract_tb(error.__traceback__)))
        return shortened("".join(["Traceback (most recent call last):\n", *traceback.format_list(frames)]))
    except Exception:
        return ""


def last_line(error: BaseException) -> str:
    """What was raised, in words, without its traceback: `ValueError: too short`."""
    try:
        return "".join(traceback.format_exception_only(error)).strip()
    except Exception:  # as above
        return type(error).__name__


def text_of(error: BaseException) -> str:
    """What an exception says of itself; its class if it cannot."""
    try:
        return str(error)
    except (Exception, SystemExit, KeyboardInterrupt):  # as above
        return type(error).__name__


def line_in(error: BaseException, path: Path) -> int | None:
    """The line of a file at which an exception was raised, or is because it cannot be compiled; None if it was not."""
    if isinstance(error, SyntaxError) and error.filename and _same(error.filename, path):
        return error.lineno
    lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if _same(frame.filename, path)]
    return lines[-1] if lines else None


def raised_at(error: BaseException) -> tuple[str, int] | None:
    """File (its real path) and line where an exception was raised, or which cannot be compiled."""
    if isinstance(error, SyntaxError) and error.filename:
        return os.path.realpath(error.filename), error.lineno or 0
    frames = [each for each in traceback.extract_tb(error.__traceback__) if not each.filename.startswith("<frozen ")]
    frames = [each for each in frames if not each.filename.startswith(_SERVICE)] or frames
    return (os.path.realpath(frames[-1].filename), frames[-1].lineno or 0) if frames else None


def shortened(text: str) -> str:
    """A text without its middle, if it is longer than LONGEST."""
    if len(text) <= LONGEST:
        return text
    half = LONGEST // 2 - 40
    return f"{text[:half]}\n  ... {len(text) - 2 * half} characters left out ...\n{text[-half:]}"


def _same(filename: str, path: Path) -> bool:
    return os.path.realpath(filename) == os.path.realpath(path)


def _with_causes(told: traceback.TracebackException) -> Iterator[traceback.TracebackException]:
    waiting = [told]
    while waiting:
        each = waiting.pop()
        yield each
        inner = (each.__cause__, each.__context__, *(getattr(each, "exceptions", None) or ()))
        waiting += [other for other in inner if other is not None]


def _from_the_author_on(frames: list[traceback.FrameSummary]) -> list[traceback.FrameSummary]:
    # Between the service and the author may lie asyncio, pydantic, or whatever wraps predict.
    for place, frame in enumerate(frames):
        if not frame.filename.startswith(_NOT_THE_AUTHORS):
            return frames[place:]
    ours = [place for place, frame in enumerate(frames) if frame.filename.startswith(_SERVICE)]
    return frames[ours[-1] + 1 :] if ours else frames
