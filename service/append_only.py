"""The append-only file of the embedded Redis: is it whole, why could it not be read, and how it is mended.

Redis reads a file that ends in the middle of a command as far as it goes, which is right for the last moments before
a power cut, and wrong for a file that has lost half of itself. So the guardian keeps how long the files surely were.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import time
from pathlib import Path
from typing import BinaryIO

from service.failure import Failure, RedisUnavailable
from service.guardian import MANIFEST, SIZES, sizes

REPAIR = "python -m service repair"

_TOO_NEW = re.compile(r"Can't handle RDB format version \d+")
_BAD_FILE = re.compile(r"reading the append only file:? ?([\w.-]*)")  # 6.2 does not name it
_DAMAGED = re.compile(r"append only|AOF|RDB|Short read|Wrong signature|CRC", re.IGNORECASE)
_STAMP = re.compile(r"^\d+:\w \d\d \w+ \d{4} [\d:.]+ [.*#-] ")


class WrittenByAnother(RedisUnavailable):
    """This Redis cannot read what another one has written; that one, or a newer one, may."""


def check(folder: Path) -> None:
    """Make sure that what was surely on disk is still there. Raises RedisUnavailable."""
    now = sizes(folder)
    manifest = folder / MANIFEST
    if not now and any(manifest.parent.glob("*.incr.aof")):
        raise RedisUnavailable(f"{manifest} is missing: {_restore(folder)}")
    for name, (before, its_inode) in _known(folder).items():
        if not now:
            raise RedisUnavailable(f"{folder / name} is missing: {_repair_or_restore(folder)}")
        size, inode = now.get(name, (before, its_inode))
        if size < before and inode == its_inode:
            raise RedisUnavailable(f"{folder / name} was cut to {size} of {before} bytes: {_repair_or_restore(folder)}")


def explain(folder: Path, log: list[str], executable: str) -> RedisUnavailable:
    """Why Redis has ended at its start, from what it wrote to its log."""
    lines = [text for line in log if (text := _STAMP.sub("", line).strip())]
    bad = next((match[1] for line in lines if (match := _BAD_FILE.search(line))), None)
    if any(map(_TOO_NEW.search, lines)) or (bad and _starts_with(folder / MANIFEST.parent / bad, b"VALKEY")):
        return WrittenByAnother(
            f"the data in {folder} was written by a newer Redis, or by Valkey: {_other(executable)}"
        )
    if any("unix socket" in line.lower() for line in lines):
        return RedisUnavailable(f"no socket can be made beside {folder}: set DATA_DIR to a folder on a local disk")
    reason = next((line for line in lines if _DAMAGED.search(line)), "")
    if not reason:
        return RedisUnavailable(f"the embedded Redis did not start: {lines[-1] if lines else 'it wrote no log'}")
    remedy = _repair_or_restore if bad is not None and not bad.endswith(".base.rdb") else _restore
    reason = reason.partition(": make a backup")[0][:200]
    return RedisUnavailable(f"the data in {folder} is damaged ({reason}): {remedy(folder)}")


def too_old(folder: Path, executable: str) -> RedisUnavailable:
    """Why a Redis that `can_read` says no of is not run."""
    return RedisUnavailable(f"the data in {folder} was written by Redis 7 or newer, or by Valkey: {_other(executable)}")


def can_read(folder: Path, version: tuple[int, ...]) -> bool:
    """Whether a Redis of this version looks at the files that are there: 6.2 would begin anew beside those of 7."""
    return version >= (7, 0) or not (folder / MANIFEST).exists()


def cut_tail(folder: Path) -> str | None:
    """Cut off what is no command after all that was surely on disk, and say so; None if that is not the damage.

    After a power cut some file systems have zeros there, which Redis refuses: github.com/redis/redis/issues/5177.
    """
    for name, (sure, _) in list(_known(folder).items())[-1:]:
        file = folder / name
        if not file.exists() or _starts_with(file, b"REDIS", b"VALKEY"):
            return None
        size, whole = file.stat().st_size, _whole_commands(file)
        if sure <= whole < size:
            os.truncate(file, whole)
            return f"{file}: cut off {size - whole} bytes that are no commands, as a power cut leaves them"
    return None


def repair(folder: Path) -> str:
    """Keep a copy, and cut off what follows the last whole command; say what was done. Raises Failure."""
    files = [folder / name for name in sizes(folder)]
    commands = [file for file in files if not _starts_with(file, b"REDIS", b"VALKEY")]
    if files and not commands:
        raise Failure(f"what is damaged in {folder} cannot be cut off: {_restore(folder)}")
    copy = folder.with_name(f"{folder.name}-before-repair-{time.strftime('%Y%m%d-%H%M%S')}")
    shutil.copytree(folder, copy)
    cut = 0
    for file in commands:
        size = file.stat().st_size
        keep = 0 if cut else _whole_commands(file)  # what came after a gap is of no use
        cut += size - keep
        with file.open("r+b") as opened:
            opened.truncate(keep)
    (folder / SIZES).unlink(missing_ok=True)
    return f"{folder}: cut off {cut} bytes; as it was, it is in {copy}"


def _known(folder: Path) -> dict[str, tuple[int, int]]:
    try:
        read = json.loads((folder / SIZES).read_text())
        return {str(name): (int(size), int(inode)) for name, (size, inode) in read.items()}
    except (OSError, ValueError, TypeError, AttributeError):  # never written, or half by a power cut
        return {}


def _starts_with(file: Path, *words: bytes) -> bool:
    try:
        with file.open("rb") as opened:
            return opened.read(16).startswith(words)
    except OSError:
        return False


def _whole_commands(file: Path) -> int:
    """How many bytes from the start are whole commands, and whole transactions."""
    whole, in_transaction = 0, False
    with file.open("rb") as opened:
        while command := _command(opened):
            in_transaction = command == b"MULTI" or (in_transaction and command != b"EXEC")
            if not in_transaction:
                whole = opened.tell()
    return whole


def _command(file: BinaryIO) -> bytes:
    """The name of the next one; empty if it is none, or not whole."""
    line = file.readline(64 * 1024)
    if line.startswith(b"#") and line.endswith(b"\r\n"):  # a remark: a time
        return b"#"
    count = re.fullmatch(rb"\*([1-9]\d{0,8})\r\n", line)
    words = [_word(file) for _ in range(int(count[1]))] if count else [None]
    return words[0].upper() if words[0] and None not in words else b""


def _word(file: BinaryIO) -> bytes | None:
    length = re.fullmatch(rb"\$(\d{1,9})\r\n", file.readline(64))
    if length is None:
        return None
    word = file.read(int(length[1]) + 2)
    return word[:-2] if len(word) == int(length[1]) + 2 and word.endswith(b"\r\n") else None


def _other(executable: str) -> str:
    return f"{executable} cannot read it; install the one that wrote it, or set DATA_DIR to another folder"


def _restore(folder: Path) -> str:
    return f"put a backup of {folder} back, or move it away to begin with no jobs"


def _repair_or_restore(folder: Path) -> str:
    return f"put a backup of {folder} back, or run `{REPAIR}`, which keeps a copy and goes on with what can be read"
