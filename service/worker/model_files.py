"""Whether somebody has changed the model files: for a worker that takes changes up at once, in development."""

from __future__ import annotations

import contextlib
import sysconfig
from pathlib import Path

State = dict[Path, tuple[int, int, int]]


class ModelFiles:
    """All Python files of the jobs folder and below it, and the folder that libraries are installed into."""

    def __init__(self, jobs_dir: Path) -> None:
        self._jobs_dir = jobs_dir
        self._libraries = Path(sysconfig.get_paths()["purelib"])
        self._known = self._seen = self._look()

    def changed(self, libraries: bool) -> bool:
        """Whether files have changed since this was last true, and nobody writes to them any more.

        `libraries`: whether one that was installed is a change, too.
        """
        seen, self._seen = self._seen, self._look()
        if self._seen != seen:  # half of it may be written
            return False
        known = self._known if libraries else {**self._known, self._libraries: seen.get(self._libraries, (0, 0, 0))}
        if seen == known:
            return False
        self._known = seen
        return True

    def _look(self) -> State:
        files = [path for path in self._jobs_dir.rglob("*.py") if "__pycache__" not in path.parts]
        state: State = {}
        for path in (*files, self._libraries):
            with contextlib.suppress(OSError):  # it has gone in between
                found = path.stat()
                state[path] = (found.st_mtime_ns, found.st_size, found.st_ino)
        state.setdefault(self._libraries, (0, 0, 0))
        return state
