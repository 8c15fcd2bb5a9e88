"""What of the jobs folder is not served, and why, in words that say what to do."""

from __future__ import annotations

import importlib.util
import inspect
import os
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from service.model import InvalidModel, exception_name
from service.tracebacks import line_in, raised_at, text_of, traceback_of

PACKAGE = "jobs"
"""The folder, as model files import from each other."""
LIBRARIES_MISSING = "install what it needs with"
"""Stands in the error of a model file whose libraries are listed beside it and not installed."""
LONGEST_REASON = 1_000
_TO_ITS_AUTHOR = "put @model on a function or a class, or let the name begin with _ if other files import it"


@dataclass(frozen=True)
class NotServed:
    """A model file that cannot be served, or what looks like one. `name`: of the model, if it has its file's.

    One that is not `listed` is only said: it is no model that has failed.
    """

    name: str
    file: str
    error: str
    line: int | None = None
    traceback: str = ""
    listed: bool = True
    library: str = ""
    """The one that is listed beside the file and not installed."""


class Misdeclared(InvalidModel):
    """A model whose declaration was taken and cannot be served; `line` is where it stands."""

    def __init__(self, error: InvalidModel, target: Any) -> None:
        super().__init__(str(error))
        self.__cause__ = error.__cause__
        try:
            self.line: int | None = inspect.getsourcelines(target)[1]
        except (OSError, TypeError):
            self.line = None


def broken(path: Path, error: BaseException) -> NotServed:
    """A file that raised while it was imported, or whose models cannot be used."""
    line = line_in(error, path) or getattr(error, "line", None)
    reason = f"{_reason(error)} ({_where(error, path, line)})"
    library = _missing_library(error)
    if library:
        reason += _advice(path, library)
    elif not isinstance(error, InvalidModel):
        return NotServed(path.stem, path.name, reason, line, traceback_of(error))
    listed = library if library and _requirements(path) else ""
    return NotServed(path.stem, path.name, reason, line, library=listed)


def deadly(path: Path, how: str) -> NotServed:
    """A file that ends the process which imports it, or never ends; it is imported again when a worker starts."""
    return NotServed(path.stem, path.name, f"{how} while {path.name} was imported ({path.name})")


def without_a_model(path: Path) -> NotServed:
    """A file that was imported, and declares none."""
    return NotServed(path.stem, path.name, f"{path.name} declares no model: {_TO_ITS_AUTHOR}", listed=False)


def folders(jobs_dir: Path) -> Iterator[NotServed]:
    """The folders that hold Python files: model files lie in the jobs folder itself."""
    for path in sorted(jobs_dir.glob("*")):
        if path.name.startswith(("_", ".")) or path.suffix == ".py" or not path.is_dir():
            continue
        if next(path.rglob("*.py"), None) is not None:
            error = f"no model is looked for in the folder {path.name}: move its model files to {jobs_dir.name}, "
            yield NotServed(path.name, path.name, f"{error}or let its name begin with _", listed=False)


def _reason(error: BaseException) -> str:
    text = (error.msg or "") if isinstance(error, SyntaxError) else text_of(error)
    text = " ".join(text.split())
    if len(text) > LONGEST_REASON:
        text = f"{text[:LONGEST_REASON]} ..."
    if isinstance(error, InvalidModel):
        return text
    kind = exception_name(type(error))
    return f"{kind}: {text}" if text else kind


def _where(error: BaseException, path: Path, line: int | None) -> str:
    here = f"{path.name}, line {line}" if line else path.name
    at, folder = raised_at(error), os.path.realpath(path.parent)
    if at is None or not at[0].startswith(folder + os.sep) or at[0] == os.path.realpath(path):
        return here
    return f"{here}, which imports {os.path.relpath(at[0], folder)}, line {at[1]}"


def _missing_library(error: BaseException) -> str:
    """The name of the library for want of which a file cannot be imported."""
    if not isinstance(error, ModuleNotFoundError) or not error.name:
        return ""
    library = error.name.partition(".")[0]
    if library in (PACKAGE, "service") or library in sys.stdlib_module_names:
        return ""
    try:
        return "" if importlib.util.find_spec(library) else library
    except (ImportError, ValueError):
        return ""


def _requirements(path: Path) -> Path | None:
    """What is to be installed for a model file: the lock, if there is one, is complete."""
    beside = (path.with_suffix(".requirements.lock"), path.with_suffix(".requirements.txt"))
    return next((each for each in beside if each.is_file()), None)


def _advice(path: Path, library: str) -> str:
    if path.with_name(f"{library}.py").is_file() or path.with_name(library).is_dir():
        return f": it lies in {path.parent.name}, so it is imported as in `from {PACKAGE} import {library}`"
    listed = _requirements(path)
    wanted = listed or path.with_suffix(".requirements.txt")
    complete = "--no-deps " if wanted.suffix == ".lock" else ""
    command = f"`{_short(Path(sys.executable))} -m pip install {complete}-r {_short(wanted)}`"
    if listed is not None:
        return f": {LIBRARIES_MISSING} {command}"
    return f": list what has {library} in {_short(wanted)}, and install that with {command}"


def _short(path: Path) -> str:
    """As one would type it in the folder where the service was started."""
    path = path if path.is_absolute() else Path.cwd() / path
    return str(path.relative_to(Path.cwd())) if path.is_relative_to(Path.cwd()) else str(path)
