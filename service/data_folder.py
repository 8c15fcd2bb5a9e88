"""DATA_DIR: made so that only its owner reads it, tried before anything is started in it, used by one at a time."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import re
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from service.failure import RedisUnavailable
from service.process import lives

OURS = re.compile(r"redis(\.sock|\.log|-before-repair-.*)?|lock|webhook-secret")
PROBE_BYTES = 64 * 1024
LEFT_WITHIN = 30.0  # seconds in which what a killed `up` has left behind surely ends
WAITED_LONG = 2.0


def prepare(data_dir: Path) -> None:
    """Make the folder, closed to others, and make sure that it can be written to. Raises RedisUnavailable."""
    with told(data_dir):
        data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        (data_dir / "redis").mkdir(mode=0o700, exist_ok=True)
        _close_to_others(data_dir)
        _try_to_write(data_dir / "redis")


@contextmanager
def told(data_dir: Path) -> Iterator[None]:
    """Whatever the system says of the folder is told with what to do about it. Raises RedisUnavailable."""
    try:
        yield
    except OSError as error:
        remedy = "make it a folder that this user may write to"
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            remedy = "make room on its disk"
        elif isinstance(error, FileExistsError | NotADirectoryError):
            remedy = "it, or what it is in, is a file: remove that"
        raise RedisUnavailable(
            f"DATA_DIR is {data_dir}, which cannot be used ({error.strerror}): {remedy}, or set DATA_DIR to another"
        ) from None


class Lock:
    """The one right to use a data folder; whoever inherits its descriptor holds it as well."""

    def __init__(self, data_dir: Path) -> None:
        """Take it, waiting for what a killed owner has left to end. Raises RedisUnavailable."""
        # Two servers over one append-only file would destroy it.
        with told(data_dir):
            self.fileno = os.open(data_dir / "lock", os.O_RDWR | os.O_CREAT, 0o600)
        started = time.monotonic()
        waited_long = False
        while not self._taken(data_dir):
            owner = self._owner()
            waited = time.monotonic() - started
            if waited > LEFT_WITHIN or owner is None or lives(owner):
                self.release()
                who = f" (process {owner})" if owner else ""
                raise RedisUnavailable(
                    f"another service already uses {data_dir}{who}: stop it, or set DATA_DIR to another folder"
                )
            if waited > WAITED_LONG and not waited_long:
                waited_long = True
                print(f"waiting for what an earlier service has left in {data_dir} to end", file=sys.stderr)
            time.sleep(0.05)
        os.ftruncate(self.fileno, 0)
        os.pwrite(self.fileno, b"%d\n" % os.getpid(), 0)

    def release(self) -> None:
        """Let others have it."""
        os.close(self.fileno)

    def _taken(self, data_dir: Path) -> bool:
        with told(data_dir):  # some network file systems have no locks
            try:
                fcntl.flock(self.fileno, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                return False
        return True

    def _owner(self) -> int | None:
        text = os.pread(self.fileno, 32, 0).strip()
        return int(text) if text.isdigit() else None


def _close_to_others(data_dir: Path) -> None:
    """Also what an older version made: it let everybody read every input and result."""
    if all(OURS.fullmatch(each.name) for each in data_dir.iterdir()):  # else it is not ours alone: /tmp, a home
        _restrict(data_dir, 0o700)
    for name in ("redis.log", "lock", "webhook-secret"):
        _restrict(data_dir / name, 0o600)
    for folder, _, files in os.walk(data_dir / "redis"):
        _restrict(Path(folder), 0o700)
        for file in files:
            _restrict(Path(folder, file), 0o600)


def _restrict(path: Path, mode: int) -> None:
    # Not there, somebody else's, or on a file system without modes: what we write now is closed by our umask.
    with contextlib.suppress(OSError):
        if not path.is_symlink() and path.stat().st_mode & 0o077:
            path.chmod(mode)


def _try_to_write(folder: Path) -> None:
    probe = folder / ".probe"
    try:
        with probe.open("wb") as file:
            file.write(os.urandom(PROBE_BYTES))  # zeros may take no room
            file.flush()
            os.fsync(file.fileno())
    finally:
        with contextlib.suppress(OSError):
            probe.unlink()
