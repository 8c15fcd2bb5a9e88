"""Whether somebody has changed the model files: for a worker that takes changes up at once, in development."""

from __future__ import annotations

import contextlib
import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path

_REST = 10
"""A look at very many files is followed by so many times its time without one."""
State = dict[Path, tuple[int, int, int]]


class ModelFiles:
    """All Python files of the jobs folder and below it, and the folders that libraries are imported from."""

    def __init__(self, jobs_dir: Path) -> None:
        self._jobs_dir = jobs_dir
        self._libraries = [Path(folder) for folder in sys.path if folder and Path(folder).is_dir()]
        self._known = self._seen = self._look()
        self._look_at = 0.0

    def changed(self, libraries: bool) -> bool:
        """Whether files have changed since this was last true, and nobody writes to them any more.

        `libraries`: whether one that was installed is a change, too.
        """
        if time.monotonic() < self._look_at:
            return False
        began = time.monotonic()
        seen, self._seen = self._seen, self._look()
        self._look_at = time.monotonic() + _REST * (time.monotonic() - began)
        if self._seen != seen:  # half of it may be written
            return False
        known = self._known if libraries else {**self._known, **{each: seen[each] for each in self._libraries}}
        if seen == known:
            return False
        self._known = seen
        return True

    def _look(self) -> State:
        state: State = dict.fromkeys(self._libraries, (0, 0, 0))
        for path in (*self._files(), *self._libraries):
            with contextlib.suppress(OSError):  # it has gone in between
                found = path.stat()
                state[path] = (found.st_mtime_ns, found.st_size, found.st_ino)
        return state

    def _files(self) -> Iterator[Path]:
        for folder, folders, files in os.walk(self._jobs_dir):
            # Nobody writes models there; and somebody may have a virtual environment in the jobs folder.
            passed_over = {each for each in folders if each.startswith((".", "__pycache__"))}
            folders[:] = [] if "pyvenv.cfg" in files else [each for each in folders if each not in passed_over]
            yield from (Path(folder, file) for file in files if file.endswith(".py") and file[0] != ".")
