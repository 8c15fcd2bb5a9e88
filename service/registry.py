"""Finds the models in the jobs folder. Only a work-horse imports them."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from types import MappingProxyType, ModuleType
from typing import Any

from service.failure import Failure
from service.model import InvalidModel, Model
from service.not_served import PACKAGE, Misdeclared, NotServed, broken, deadly, folders, without_a_model
from service.webhooks import MODEL as DELIVERIES
from service.webhooks import delivery


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


class ModelNotFound(Failure):
    """No file has declared the model; `cause`: what its own file, or the only one that is broken, raised."""

    def __init__(self, name: str, jobs_dir: Path, others: list[str], errors: dict[Path, BaseException]) -> None:
        known = f"there are {', '.join(others)}" if others else "there is none"
        reasons = [f"\n  {path.name} cannot be imported: {broken(path, error).error}" for path, error in errors.items()]
        super().__init__(f"no model {name} in {jobs_dir}: {known}{''.join(reasons)}")
        own = [error for path, error in errors.items() if path.stem == name or len(errors) == 1]
        self.cause = own[0] if own else None


def model_files(jobs_dir: Path) -> list[Path]:
    """The files that may hold models: those whose name does not start with _."""
    # A dot is how editors and other systems name what is theirs: `.#embed.py`, `._embed.py`.
    return sorted(path for path in jobs_dir.glob("*.py") if not path.name.startswith(("_", ".")))


def find_models(
    jobs_dir: Path,
    with_webhooks: bool = False,
    passed_over: Mapping[str, str] = MappingProxyType({}),
    begins: Callable[[str], None] = lambda _: None,
) -> tuple[dict[str, Found], list[NotServed]]:
    """Import every model file, each on its own: one that fails does not keep the others from serving.

    `with_webhooks`: with the built-in model that delivers them. `passed_over`: files that end the process that imports
    them, and how they do. `begins` is told the name of each that is imported, and "" after the last.
    """
    found = {DELIVERIES: _webhooks()}  # first: no model file may take its name
    not_served: list[NotServed] = []
    _make_package(jobs_dir)
    helpers = _helpers(jobs_dir)
    for path in model_files(jobs_dir):
        if path.name in passed_over:
            not_served.append(deadly(path, passed_over[path.name]))
            continue
        begins(path.name)
        try:
            models = _models_of(path, helpers)
            _check_names(models, found)
        except BaseException as error:  # noqa: B902 -- a file may also call sys.exit while it is imported
            sys.modules.pop(f"{PACKAGE}.{path.stem}", None)  # half of it
            not_served.append(broken(path, error))
        else:
            if not models:
                not_served.append(without_a_model(path))
            found.update((each.model.name, each) for each in models)
    begins("")
    if not with_webhooks:
        del found[DELIVERIES]
    return found, [*not_served, *folders(jobs_dir)]


def _check_names(models: Sequence[Found], taken: Mapping[str, Found]) -> None:
    """Raises InvalidModel if one of these has the name of another model."""
    names: set[str] = set()
    for each in models:
        name = each.model.name
        if name == DELIVERIES:
            why = f"the name {name} is the service's own: choose another one, as in @model(name=...)"
            raise Misdeclared(InvalidModel(why), each.model.target)
        if name in taken or name in names:
            where = "this file" if name in names else taken[name].description.file
            raise Misdeclared(InvalidModel(f"model {name} is declared in {where} already"), each.model.target)
        names.add(name)


def _helpers(jobs_dir: Path) -> bytes:
    """What the files hold that model files may import; one that cannot be read fails those that do."""
    parts = []
    for path in sorted(jobs_dir.glob("_*.py")):
        with suppress(OSError):
            parts.append(path.read_bytes())
    return b"".join(parts)


def find_model(jobs_dir: Path, name: str) -> Found:
    """One model. Files are imported until one has it, first the one that is called so. Raises ModelNotFound."""
    _make_package(jobs_dir)
    helpers = _helpers(jobs_dir)
    others: list[str] = []
    errors: dict[Path, BaseException] = {}
    for path in sorted(model_files(jobs_dir), key=lambda path: (path.stem != name, path.name)):
        try:
            models = _models_of(path, helpers)
        except BaseException as error:  # noqa: B902 -- as above
            if isinstance(error, KeyboardInterrupt):
                raise
            errors[path] = error
            continue
        for each in models:
            if each.model.name == name:
                return each
        others += [each.model.name for each in models]
    raise ModelNotFound(name, jobs_dir, sorted(others), errors)


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
    declared = {id(model): model for value in vars(module).values() for model in _declared(value, name)}
    return [Found(model, _described(model, digest, path)) for model in declared.values()]


def _declared(value: Any, module: str) -> Iterator[Model]:
    """The model that a value is, if it is one of this module."""
    with suppress(Exception):  # a value may be anything, such as a proxy that has nothing behind it yet
        # vars: a subclass of a model is not itself one; __module__: nor is one imported from another file.
        model = vars(value).get("__model__")
        if isinstance(model, Model) and value.__module__ == module:
            yield model


def _described(model: Model, digest: str, path: Path) -> Description:
    """Raises Misdeclared."""
    try:
        return _describe(model, digest, path)
    except InvalidModel as error:
        raise Misdeclared(error, model.target) from error.__cause__


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
