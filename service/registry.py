"""Finds the models in the jobs folder. Only a work-horse imports them."""

from __future__ import annotations

import importlib.util
import sys
import traceback
from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from types import ModuleType
from typing import Any

from service.model import InvalidModel, Model
from service.webhooks import delivery

PACKAGE = "jobs"
MISSING_LIBRARY = "pip install --no-deps -r"
"""Stands in the error of a model file whose libraries are listed beside it and not installed."""


@dataclass(frozen=True)
class Description:
    """A model as the web process knows it, without importing it. All of it is JSON."""

    name: str
    version: str
    description: str
    kind: str
    input_schema: dict[str, Any]
    output_schema: dict[str, Any]
    timeout: int
    retries: int
    backoff: float | list[float]
    fatal: list[str]
    max_crashes: int
    max_queued: int | None
    result_ttl: int | None
    max_batch_size: int | None
    batch_timeout: float | None
    concurrency: int
    keep_alive: float | None
    file: str


@dataclass(frozen=True)
class Found:
    """A model of the jobs folder that can be served."""

    model: Model
    description: Description


@dataclass(frozen=True)
class Broken:
    """A model file that cannot be served, and why."""

    name: str
    file: str
    error: str


def model_files(jobs_dir: Path) -> list[Path]:
    """The files that may hold models: those whose name does not start with _."""
    return sorted(path for path in jobs_dir.glob("*.py") if not path.name.startswith("_"))


def find_models(jobs_dir: Path, with_webhooks: bool = False) -> tuple[dict[str, Found], list[Broken]]:
    """Import every model file, each on its own: one that fails does not keep the others from serving.

    `with_webhooks`: with the built-in model that delivers them.
    """
    found = {delivery.NAME: _webhooks()}  # first: no model file may take its name
    broken: list[Broken] = []
    _make_package(jobs_dir)
    helpers = b"".join(path.read_bytes() for path in sorted(jobs_dir.glob("_*.py")))
    for path in model_files(jobs_dir):
        try:
            models = _models_of(path, helpers)
            for each in models:
                if each.model.name in found:
                    other = found[each.model.name].description.file
                    raise InvalidModel(f"model {each.model.name} is declared in {other} already")
        except BaseException as error:  # noqa: B902 -- a file may also call sys.exit while it is imported
            if isinstance(error, KeyboardInterrupt):
                raise
            broken.append(Broken(path.stem, path.name, _reason(error, path)))
        else:
            found.update((each.model.name, each) for each in models)
    if not with_webhooks:
        del found[delivery.NAME]
    return found, broken


def _webhooks() -> Found:
    built_in: Model = delivery.webhooks.__model__  # type: ignore[attr-defined]
    return Found(built_in, _describe(built_in, "built-in", Path(delivery.__file__)))


def _make_package(jobs_dir: Path) -> None:
    # The folder is the package `jobs`, so that model files can import each other wherever it lies.
    package = ModuleType(PACKAGE)
    package.__path__ = [str(jobs_dir.resolve())]
    sys.modules[PACKAGE] = package


def _models_of(path: Path, helpers: bytes) -> list[Found]:
    name = f"{PACKAGE}.{path.stem}"
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    # With the helper files, which any model file may import: a changed one is a changed model.
    digest = sha256(path.read_bytes() + helpers).hexdigest()[:12]
    declared = {
        id(value.__model__): value.__model__
        for value in vars(module).values()
        # vars: a subclass of a model is not itself one; __module__: nor is one imported from another file.
        if isinstance(getattr(value, "__dict__", {}).get("__model__"), Model) and value.__module__ == name
    }
    return [Found(model, _describe(model, digest, path)) for model in declared.values()]


def _describe(model: Model, digest: str, path: Path) -> Description:
    return Description(
        name=model.name,
        version=_version(model.options.version) or digest,
        description=model.description,
        kind=model.kind,
        input_schema=model.input_schema(),
        output_schema=model.output_schema(),
        timeout=model.options.timeout,
        retries=model.options.retries,
        backoff=_numbers(model.options.backoff),
        fatal=model.options.fatal_names,
        max_crashes=model.options.max_crashes,
        max_queued=model.options.max_queued,
        result_ttl=model.options.result_ttl,
        max_batch_size=model.options.max_batch_size,
        batch_timeout=model.options.batch_timeout if model.batches else None,
        concurrency=model.options.concurrency,
        keep_alive=model.options.keep_alive,
        file=path.name,
    )


def _version(declared: Any) -> str:
    """As text that every part of the service takes; an author may well say version=2."""
    return "" if declared is None else str(declared).encode(errors="replace").decode()


def _numbers(backoff: float | Sequence[float]) -> float | list[float]:
    return backoff if isinstance(backoff, (int, float)) else list(backoff)


def _reason(error: BaseException, path: Path) -> str:
    reason = traceback.format_exception_only(error)[-1].strip()
    requirements = path.with_suffix(".requirements.txt")
    if isinstance(error, ImportError) and requirements.exists():
        return f"{reason} ({MISSING_LIBRARY} {path.parent.name}/{requirements.name})"
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if Path(frame.filename) == path]
    return f"{reason} ({path.name}, line {frames[-1].lineno})" if frames else f"{reason} ({path.name})"
