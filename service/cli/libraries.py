"""Whether libraries were installed or removed: for a model that waits for them."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterable
from pathlib import Path

SETTLED = 1.0
"""Seconds without a change after which an installation is taken to be over."""


class Libraries:
    """What is installed in the folders that Python imports from."""

    def __init__(self, folders: Iterable[str] | None = None) -> None:
        self._folders = [Path(folder) for folder in (sys.path if folders is None else folders) if folder]
        self._times = self._now()
        self._installed = self._names()
        self._settles_at: float | None = None

    def changed(self) -> bool:
        """Whether others are installed than when this was last true, and pip has come to rest."""
        moment, times = time.monotonic(), self._now()
        if times != self._times:
            self._times, self._settles_at = times, moment + SETTLED
        if self._settles_at is None or moment < self._settles_at:
            return False
        self._settles_at = None
        before, self._installed = self._installed, self._names()
        return self._installed != before

    def _now(self) -> list[int]:
        return [_changed_at(folder) for folder in self._folders]

    def _names(self) -> frozenset[str]:
        # With the version in it: a folder's time alone also changes when Python keeps what it has compiled there.
        return frozenset(
            name for folder in self._folders for name in _entries(folder) if name.endswith((".dist-info", ".egg-link"))
        )


def _changed_at(folder: Path) -> int:
    try:
        return folder.stat().st_mtime_ns
    except OSError:
        return 0


def _entries(folder: Path) -> list[str]:
    try:
        return os.listdir(folder)
    except OSError:
        return []
