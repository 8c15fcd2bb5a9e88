"""The loggers of a process as they were: a job that silences them, or listens to them, does so for itself only."""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import wraps
from operator import attrgetter
from typing import Any

_shape = attrgetter("disabled", "level", "propagate", "handlers", "filters")
_disabled = attrgetter("disabled")
_OURS = "service."
_MARK: Any = "unchanged"
# What logging itself keeps: verdicts by level, which each setLevel throws away, and all handlers that there are.
_verdicts: Any = getattr(logging.root, "_cache", None)
_handlers: Any = getattr(logging, "_handlerList", None)


class Loggers:
    """All of them, the root logger too."""

    what = "loggers"

    def __init__(self) -> None:
        self._names = -1
        self._loggers: list[logging.Logger] = []
        self._shapes: list[Any] = []
        self._of_root: list[logging.Handler] = []
        self._disabled: list[bool] = []
        self._handlers = -1

    def remember(self) -> None:
        self._loggers = _all()
        self._names = len(logging.root.manager.loggerDict)
        self._shapes = list(map(_kept_shape, self._loggers))
        self._of_root = _of_root()
        self._mark()

    def changed(self) -> bool:
        if len(logging.root.manager.loggerDict) != self._names:
            self._meet_new_ones()
        if self._marked() and list(map(_disabled, self._loggers)) == self._disabled and _of_root() == self._of_root:
            return False  # to look at all of each takes as long as a short job
        if list(map(_shape, self._loggers)) != self._shapes or _of_root() != self._of_root:
            return True
        self._mark()
        return False

    def put_back(self) -> None:
        for logger, (disabled, level, propagate, handlers, filters) in zip(self._loggers, self._shapes, strict=True):
            logger.disabled, logger.propagate, logger.filters[:] = disabled, propagate, filters
            if logger.level != level:
                logger.setLevel(level)
            if logger.handlers != handlers:
                logger.handlers[:] = handlers
        theirs = _of_root()
        ours = [handler for handler in logging.root.handlers if handler not in theirs]
        logging.root.handlers[:] = [*self._of_root, *ours]
        self._mark()

    def _mark(self) -> None:
        self._disabled = [shape[0] for shape in self._shapes]
        if _verdicts is not None and _handlers is not None:
            _verdicts[_MARK] = True
            self._handlers = len(_handlers)

    def _marked(self) -> bool:
        return _verdicts is not None and _MARK in _verdicts and len(_handlers) == self._handlers

    def _meet_new_ones(self) -> None:
        """Those that a job has made, most often by importing something: they keep what they were made with."""
        known = set(map(id, self._loggers))
        for logger in _all():
            if id(logger) not in known:
                self._loggers.append(logger)
                self._shapes.append((False, *_kept_shape(logger)[1:]))
        self._names = len(logging.root.manager.loggerDict)


def _all() -> list[logging.Logger]:
    manager = logging.root.manager
    for name, logger in list(manager.loggerDict.items()):
        if not isinstance(logger, logging.Logger):
            manager.getLogger(name)  # else it could be made later without a new name
    return [logger for logger in list(manager.loggerDict.values()) if isinstance(logger, logging.Logger)]


def _kept_shape(logger: logging.Logger) -> tuple[bool, int, bool, list[logging.Handler], list[Any]]:
    disabled, level, propagate, handlers, filters = _shape(logger)
    return disabled, level, propagate, handlers[:], filters[:]


def _noted(method: Callable[..., None]) -> Callable[..., None]:
    """The method, taking the mark away as setLevel does."""

    @wraps(method)
    def note(*arguments: Any) -> None:
        if _verdicts is not None:
            _verdicts.pop(_MARK, None)
        method(*arguments)

    return note


for _name in ("addFilter", "removeFilter"):
    setattr(logging.Filterer, _name, _noted(getattr(logging.Filterer, _name)))


def _of_root() -> list[logging.Handler]:
    """Its handlers, without the one that makes events of a job's records."""
    return [each for each in logging.root.handlers if not type(each).__module__.startswith(_OURS)]
