"""The loggers of a process as they were: a job that silences them, or listens to them, does so for itself only."""

from __future__ import annotations

import logging
from operator import attrgetter
from typing import Any

from service.worker.calls import Calls

_shape = attrgetter("disabled", "level", "propagate", "handlers", "filters")
_OURS = "service."
_handlers: Any = getattr(logging, "_handlerList", None)  # all that there are


_sets = Calls()
"""Of something in any logger: to look at all of each takes as long as a short job."""
for _type, _name in (
    (logging.Logger, "__setattr__"),
    (logging.Filterer, "addFilter"),
    (logging.Filterer, "removeFilter"),
):
    setattr(_type, _name, _sets.of(getattr(_type, _name)))


class Loggers:
    """All of them, the root logger too."""

    what = "loggers"
    before = False

    def __init__(self) -> None:
        self._loggers: list[logging.Logger] = []
        self._shapes: list[Any] = []
        self._of_root: list[logging.Handler] = []
        self._seen: Any = None
        """How much there was of all that may change, when nothing was changed."""

    def remember(self) -> None:
        self._seen = None
        self._loggers = _all()
        self._shapes = list(map(_kept_shape, self._loggers))
        self._of_root = _of_root()

    def now(self) -> bool:
        """Whether they are changed."""
        seen = _sets.number, len(logging.root.manager.loggerDict), len(_handlers or ()), logging.root.handlers[:]
        if seen == self._seen and _handlers is not None:
            return False
        if self._seen is None or seen[1] != self._seen[1]:
            self._meet_new_ones()
        if list(map(_shape, self._loggers)) != self._shapes or _of_root() != self._of_root:
            return True
        self._seen = seen
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

    def _meet_new_ones(self) -> None:
        """Those that a job has made, most often by importing something: they keep what they were made with."""
        known = set(map(id, self._loggers))
        for logger in _all():
            if id(logger) not in known:
                self._loggers.append(logger)
                self._shapes.append((False, *_kept_shape(logger)[1:]))


def _all() -> list[logging.Logger]:
    manager = logging.root.manager
    for name, logger in list(manager.loggerDict.items()):
        if not isinstance(logger, logging.Logger):
            manager.getLogger(name)  # else it could be made later without a new name
    return [logger for logger in list(manager.loggerDict.values()) if isinstance(logger, logging.Logger)]


def _kept_shape(logger: logging.Logger) -> tuple[bool, int, bool, list[logging.Handler], list[Any]]:
    disabled, level, propagate, handlers, filters = _shape(logger)
    return disabled, level, propagate, handlers[:], filters[:]


def _of_root() -> list[logging.Handler]:
    """Its handlers, without the one that makes events of a job's records."""
    return [each for each in logging.root.handlers if not type(each).__module__.startswith(_OURS)]
