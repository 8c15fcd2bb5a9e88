"""`.env`: settings, and what model files read of the environment, for `up` on one machine."""

from __future__ import annotations

import os
import stat
from collections.abc import MutableMapping
from io import StringIO
from pathlib import Path

from dotenv.main import DotEnv
from dotenv.parser import parse_stream

from service.failure import Failure

LARGEST = 2**20


class InvalidEnvFile(Failure):
    """The file is there and cannot be used."""


def load(path: Path, environment: MutableMapping[str, str] = os.environ) -> None:
    """Set what the file says and the environment does not; without a file do nothing. Raises InvalidEnvFile."""
    text = _text(path)
    if text is None:
        return
    for binding in parse_stream(StringIO(text)):
        if binding.error or (binding.key is not None and not _usable(binding.key, binding.value)):
            raise InvalidEnvFile(f"{path}, line {_line(binding.original)}: expected NAME=value")
    for name, value in DotEnv(None, stream=StringIO(text), override=False).dict().items():
        if value is not None:
            environment.setdefault(name, value)


def _text(path: Path) -> str | None:
    try:
        mode = path.stat().st_mode
        if not stat.S_ISREG(mode):  # a pipe would have us wait
            raise InvalidEnvFile(
                f"{path} is {'a folder' if stat.S_ISDIR(mode) else 'no file'}: expected NAME=value lines"
            )
        if path.stat().st_size > LARGEST:
            raise InvalidEnvFile(f"{path} has more than {LARGEST} bytes")
        return path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        if path.is_symlink():
            raise InvalidEnvFile(f"{path} is a link to a file that is not there") from None
        return None
    except OSError as error:
        raise InvalidEnvFile(f"{path} cannot be read: {error.strerror}") from None
    except UnicodeDecodeError as error:
        line = error.object[: error.start].count(b"\n") + 1
        raise InvalidEnvFile(f"{path}, line {line}: it is not UTF-8") from None


def _usable(name: str, value: str | None) -> bool:
    # None: a name without a value, which is a slip more often than a wish.
    return value is not None and "\0" not in f"{name}{value}" and "=" not in name


def _line(original: object) -> int:
    # dotenv counts from the end of the binding before, whose line break may be part of this one.
    text = str(getattr(original, "string", ""))
    return int(getattr(original, "line", 1)) + len(text) - len(text.lstrip("\r\n"))
