"""What a model is: the @model decorator, its options, its types and the schemas made from them."""

from __future__ import annotations

import inspect
import re
import warnings
from collections.abc import (
    AsyncGenerator,
    AsyncIterable,
    AsyncIterator,
    Callable,
    Generator,
    Iterable,
    Iterator,
    Sequence,
)
from dataclasses import dataclass, fields
from difflib import get_close_matches
from functools import cached_property
from typing import Any, Literal, TypeVar, get_args, get_origin, get_type_hints, overload

from pydantic import BaseModel, ConfigDict, PydanticUserError, TypeAdapter, create_model
from pydantic.errors import PydanticInvalidForJsonSchema, PydanticSchemaGenerationError
from pydantic.json_schema import GenerateJsonSchema

from service.model_class import parameters, unfit
from service.secret_fields import NOTHING_SECRET, Mask, SecretFields, without_secret_defaults
from service.unusable_types import advice

T = TypeVar("T")
Kind = Literal["function", "generator", "async", "async generator"]

NAME = re.compile(r"[a-z][a-z0-9_]{0,62}")
LONGEST_TIMEOUT = 7 * 86_400
LONGEST_DELAY = 7 * 86_400
MOST_RETRIES = 100
MOST_QUEUED = 10_000_000
MOST_AT_ONCE = 1_000
_STREAMS = (Iterator, Iterable, Generator, AsyncIterator, AsyncIterable, AsyncGenerator)


class InvalidModel(Exception):
    """A model cannot be served as it is declared; the message says what to change."""


class Retry(Exception):
    """Raised by a model: this try is over, try again after `after` seconds, if the job has retries left.

    Without `after` the job's back-off says when. Raises ValueError.
    """

    def __init__(self, message: str = "", after: float | None = None) -> None:
        super().__init__(message or "the model asked for another try")
        if after is not None and not 0 <= after <= LONGEST_DELAY:
            raise ValueError(f"after is {after!r}: expected seconds from 0 to {LONGEST_DELAY}")
        self.after = after


class Fatal(Exception):
    """Raised by a model: the job has failed, and another try would not help. `type` is that of the job's error."""

    type = "model_error"


@dataclass(frozen=True)
class Options:
    """What @model was told. Durations are seconds; None means the service's default."""

    name: str | None = None
    version: str | None = None
    timeout: int = 300
    retries: int = 0
    backoff: float | Sequence[float] = 1.0
    fatal: type[BaseException] | tuple[type[BaseException], ...] = ()
    max_crashes: int = 2
    max_queued: int | None = None
    result_ttl: int | None = None
    max_batch_size: int | None = None
    batch_timeout: float = 0.01
    concurrency: int = 1
    keep_alive: float | None = None
    detached: bool = False

    @property
    def fatal_names(self) -> list[str]:
        """The exceptions of `fatal` by name, as a job may name them too."""
        return [exception_name(each) for each in self._fatal]

    @property
    def _fatal(self) -> tuple[type[BaseException], ...]:
        return self.fatal if isinstance(self.fatal, tuple) else (self.fatal,)

    def __post_init__(self) -> None:
        if self.name is not None and not (isinstance(self.name, str) and NAME.fullmatch(self.name)):
            raise InvalidModel(f"name is {self.name!r}: expected lower-case letters, digits and _, a letter first")
        _whole("timeout", self.timeout, 1, LONGEST_TIMEOUT)
        _whole("retries", self.retries, 0, MOST_RETRIES)
        _backoff(self.backoff)
        for each in self._fatal:
            if not inspect.isclass(each) or not issubclass(each, BaseException):
                raise InvalidModel(f"fatal is {self.fatal!r}: expected an exception class, or a tuple of them")
        _whole("max_crashes", self.max_crashes, 0, MOST_RETRIES)
        if self.max_queued is not None:
            _whole("max_queued", self.max_queued, 1, MOST_QUEUED)
        if self.result_ttl is not None:
            _whole("result_ttl", self.result_ttl, 1, 10 * 365 * 86_400)
        if self.max_batch_size is not None:
            _whole("max_batch_size", self.max_batch_size, 1, MOST_AT_ONCE)
        _seconds("batch_timeout", self.batch_timeout, 0, 60)
        _whole("concurrency", self.concurrency, 1, MOST_AT_ONCE)
        if self.keep_alive is not None:
            _seconds("keep_alive", self.keep_alive, 0, LONGEST_TIMEOUT)
        _true_or_false("detached", self.detached)


def _whole(name: str, value: Any, least: int, most: int) -> None:
    if not isinstance(value, int) or isinstance(value, bool) or not least <= value <= most:
        raise InvalidModel(f"{name} is {value!r}: expected a whole number from {least} to {most}")


def _seconds(name: str, value: Any, least: float, most: float) -> None:
    if not isinstance(value, (int, float)) or isinstance(value, bool) or not least <= value <= most:
        raise InvalidModel(f"{name} is {value!r}: expected seconds from {least} to {most}")


def _true_or_false(name: str, value: Any) -> None:
    if not isinstance(value, bool):
        raise InvalidModel(f"{name} is {value!r}: expected True or False")


def _backoff(value: Any) -> None:
    if isinstance(value, (list, tuple)):
        if not 0 < len(value) <= MOST_RETRIES:
            raise InvalidModel(f"backoff is {value!r}: expected from 1 to {MOST_RETRIES} numbers of seconds")
        for each in value:
            _seconds("backoff", each, 0, LONGEST_DELAY)
    else:
        _seconds("backoff", value, 0, LONGEST_DELAY)


def exception_name(kind: type[BaseException]) -> str:
    """How an exception is named where no class can be: `ValueError`, `jobs.embed.TooLong`."""
    return kind.__qualname__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"


@overload
def model(target: T, /) -> T: ...
@overload
def model(
    *,
    name: str | None = None,
    version: str | None = None,
    timeout: int = 300,
    retries: int = 0,
    backoff: float | Sequence[float] = 1.0,
    fatal: type[BaseException] | tuple[type[BaseException], ...] = (),
    max_crashes: int = 2,
    max_queued: int | None = None,
    result_ttl: int | None = None,
    max_batch_size: int | None = None,
    batch_timeout: float = 0.01,
    concurrency: int = 1,
    keep_alive: float | None = None,
    detached: bool = False,
) -> Callable[[T], T]: ...
def model(target: Any = None, /, **options: Any) -> Any:
    """Make a function, or a class with `predict` and perhaps `setup`, a model of this service.

    name: default the function's, or the class's in snake_case. version: default a digest of the file.
    timeout: seconds that one try may run (default 300). retries: further tries after a failed one
    (default 0). backoff: seconds before a further try, doubled for each one more up to 600 and shortened
    at random by up to half (default 1); or a list with the seconds before each, the last for all that
    follow. fatal: exceptions after which another try would not help. max_crashes: how often a job is
    tried again whose process died (default 2), within `retries`. max_queued: how many jobs may wait
    (default: MAX_QUEUED). result_ttl: seconds a finished job is kept. max_batch_size: predict gets lists, with an
    item for each of up to so many jobs, and returns a list of their outputs; batch_timeout: seconds that a
    batch may wait for more jobs (default 0.01). concurrency: jobs of an async model that run at once
    (default 1). keep_alive: seconds without a job after which the model is unloaded (default: never).
    detached: processes that a job has started may outlive it (default: they end with it).
    Raises InvalidModel. What it decorates stays callable as it was.
    """

    _check_known(options)

    def declare(target: Any) -> Any:
        target.__model__ = Model(target, Options(**options))
        return target

    return declare if target is None else declare(target)


def _check_known(options: Iterable[str]) -> None:
    """Raises InvalidModel that says of each unknown option which one may be meant."""
    names = [field.name for field in fields(Options)]
    unknown = [
        f"{each}: did you mean {close[0]}?" if (close := _close(each, names)) else each
        for each in options
        if each not in names
    ]
    if unknown:
        raise InvalidModel(f"@model has no option {'; nor '.join(unknown)} (it has {', '.join(names)})")


def _close(name: str, names: list[str]) -> list[str]:
    """Those that may be meant: `ttl` is rather a part of a name than like one."""
    parts = [each for each in names if name.lower() in each.split("_")]
    return parts or get_close_matches(name, names, 1, 0.5)


class Model:
    """A declared model: how it is called, and the types of what goes in and comes out."""

    def __init__(self, target: Any, options: Options) -> None:
        if not inspect.isclass(target) and not inspect.isfunction(target):
            raise InvalidModel(f"{target!r} is no function or class")
        self.target = target
        self.options = options
        self.name = options.name or _snake_case(target.__name__)
        if not NAME.fullmatch(self.name):
            raise InvalidModel(f"{target.__name__} gives no model name: set @model(name=...)")
        if inspect.isclass(target) and not callable(getattr(target, "predict", None)):
            raise InvalidModel(f"class {target.__name__} has no method predict")
        if inspect.isclass(target) and (why := unfit(target)) is not None:
            raise InvalidModel(why)
        if self.batches and self.kind != "function":
            raise InvalidModel(f"max_batch_size is for a plain predict: that of {self.name} is an {self.kind} one")
        if options.concurrency > 1 and not self.runs_on_event_loop:
            raise InvalidModel(f"concurrency is for async models: predict of {self.name} is not async")
        if options.keep_alive is not None and not self.has_setup:
            raise InvalidModel(f"keep_alive is for a class with setup: {self.name} is a function")

    @property
    def description(self) -> str:
        """The docstring of the function or class, else of predict."""
        return inspect.cleandoc(self.target.__doc__ or self._predict.__doc__ or "")

    @cached_property
    def has_setup(self) -> bool:
        """Whether there is something to load before the first job."""
        return inspect.isclass(self.target)

    @cached_property
    def kind(self) -> Kind:
        """How it runs: what `predict` is decides, or what a decorator that is a plain function has wrapped."""
        kind = _kind(self._predict)
        return kind if kind != "function" else _kind(inspect.unwrap(self._predict))

    @cached_property
    def runs_on_event_loop(self) -> bool:
        """Whether several of its jobs can run at once."""
        return self.kind in ("async", "async generator")

    @cached_property
    def batches(self) -> bool:
        """Whether predict takes the inputs of several jobs at once."""
        return self.options.max_batch_size is not None

    @cached_property
    def parameter_names(self) -> list[str]:
        """What predict is called with, by name."""
        return [parameter.name for parameter in self._parameters]

    @cached_property
    def row(self) -> type[BaseModel] | None:
        """The type of the inputs of a predict that batches and takes them as one list of pydantic models."""
        hints = [self._item_of(parameter) for parameter in self._parameters] if self.batches else []
        if len(hints) != 1 or not inspect.isclass(hints[0]) or not issubclass(hints[0], BaseModel):
            return None
        return hints[0]

    @cached_property
    def input_type(self) -> type[BaseModel]:
        """The parameters as one pydantic model; unknown ones are refused. Raises InvalidModel."""
        if self.row is not None:
            self._check_type("an input", self.row)
            # Unless it says otherwise itself, unknown fields are refused as everywhere.
            config = ConfigDict(**{"extra": "forbid", **self.row.model_config})
            return type(self.row.__name__, (self.row,), {"model_config": config})
        fields: dict[str, Any] = {}
        for parameter in self._parameters:
            if parameter.kind not in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY):
                raise InvalidModel(f"parameter {parameter} of {self.name}: every parameter needs a name")
            if parameter.name.startswith("_") or parameter.name == "model_config":  # pydantic would pass it over
                raise InvalidModel(f"parameter {parameter.name} of {self.name}: an input cannot be called so")
            default = ... if parameter.default is parameter.empty else parameter.default
            fields[parameter.name] = (self._item_of(parameter), default)
            self._check_type(f"input {parameter.name}", fields[parameter.name][0])
        config = ConfigDict(extra="forbid", arbitrary_types_allowed=False, protected_namespaces=())
        with _declaring(self.name), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # a field may well be called `json`, as a method of pydantic's is
            return create_model(f"{self.name}_input", __config__=config, **fields)

    @cached_property
    def output_type(self) -> TypeAdapter[Any]:
        """What a finished job holds: the return type, or the list (str: the joined string) of what is yielded."""
        self._check_type("the output", self._hints.get("return", Any), returned=True)
        with _declaring(self.name):
            if "generator" not in self.kind:
                return _adapter(self._listed("return") if self.batches else self._hints.get("return", Any))
            return _adapter(str if self.joins else list[self._item_hint])  # type: ignore[name-defined]

    @cached_property
    def item_type(self) -> TypeAdapter[Any]:
        """What a generator yields."""
        with _declaring(self.name):
            return _adapter(self._item_hint)

    @property
    def joins(self) -> bool:
        """Whether the outputs of a generator are pieces of one string."""
        return self._item_hint is str

    @cached_property
    def secret_fields(self) -> SecretFields:
        """What of an input nobody may see but the model. Raises InvalidModel."""
        return SecretFields(self.input_schema())

    @cached_property
    def _has_secrets(self) -> bool:
        return self.secret_fields.any

    def mask(self, value: dict[str, Any]) -> Mask:
        """Hides the secrets of an input in what is written."""
        if not self._has_secrets:
            return NOTHING_SECRET
        return Mask(secret for _, secret in self.secret_fields.split(value)[1])

    def input_schema(self) -> dict[str, Any]:
        """JSON Schema of the input. Raises InvalidModel."""
        with _declaring(self.name):
            schema = self.input_type.model_json_schema(schema_generator=_Schema)
            return {**without_secret_defaults(schema), "title": f"{self.name} input"}

    def output_schema(self) -> dict[str, Any]:
        """JSON Schema of the output. Raises InvalidModel."""
        with _declaring(self.name):
            return self.output_type.json_schema(mode="serialization")

    def _check_type(self, what: str, hint: Any, returned: bool = False) -> None:
        if (sentence := advice(what, self.name, hint, returned)) is not None:
            raise InvalidModel(sentence)

    @property
    def _predict(self) -> Any:
        return getattr(self.target, "predict") if inspect.isclass(self.target) else self.target  # noqa: B009 -- mypy

    @cached_property
    def _hints(self) -> dict[str, Any]:
        with _declaring(self.name):
            return get_type_hints(self._predict, include_extras=True)

    @property
    def _item_hint(self) -> Any:
        hint = self._hints.get("return", Any)
        if get_origin(hint) in _STREAMS or get_origin(hint) in {get_origin(stream[Any]) for stream in _STREAMS}:
            return get_args(hint)[0]
        return Any

    def _item_of(self, parameter: inspect.Parameter) -> Any:
        """What a job gives for a parameter."""
        if not self.batches:
            return self._hints.get(parameter.name, Any)
        if parameter.default is not parameter.empty:
            raise InvalidModel(
                f"parameter {parameter.name} of {self.name} has a default: with max_batch_size it is a list with an "
                "item for each job; a list of pydantic models may have defaults"
            )
        return self._listed(parameter.name)

    def _listed(self, name: str) -> Any:
        hint = self._hints.get(name, list[Any])
        if get_origin(hint) is not list:
            raise InvalidModel(
                f"{name} of {self.name} is {hint}: with max_batch_size it is a list with an item for each job"
            )
        return get_args(hint)[0]

    @property
    def _parameters(self) -> list[inspect.Parameter]:
        return parameters(self.target)


class _Schema(GenerateJsonSchema):
    """As pydantic makes it, where also Secret[...] is `writeOnly`, as SecretStr is."""

    def json_or_python_schema(self, schema: Any) -> dict[str, Any]:
        made = super().json_or_python_schema(schema)
        hides = schema.get("serialization", {}).get("function")
        return {**made, "writeOnly": True} if getattr(hides, "__name__", "") == "_serialize_secret" else made


def _adapter(hint: Any) -> TypeAdapter[Any]:
    try:
        # Else NaN becomes null without a word; so it stays NaN, and is refused as what JSON cannot carry.
        return TypeAdapter(hint, config=ConfigDict(ser_json_inf_nan="constants"))
    except PydanticUserError:  # a type with a config of its own, such as a BaseModel
        return TypeAdapter(hint)


def _kind(predict: Any) -> Kind:
    if inspect.isasyncgenfunction(predict):
        return "async generator"
    if inspect.isgeneratorfunction(predict):
        return "generator"
    return "async" if inspect.iscoroutinefunction(predict) else "function"


class _declaring:
    """Turns whatever the types of a model raise into InvalidModel."""

    def __init__(self, name: str) -> None:
        self.name = name

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: object, error: BaseException | None, traceback: object) -> None:
        if isinstance(error, PydanticSchemaGenerationError | PydanticInvalidForJsonSchema):
            kind = re.search(r"schema for (?:<class ')?([\w.]+)", str(error))
            raise InvalidModel(
                f"the types of {self.name} cannot be used: {kind[1] if kind else 'one of them'} is none that JSON can "
                "carry: use what it is made of, as list[float], str or a pydantic BaseModel, and convert it in predict"
            ) from error
        if isinstance(error, Exception) and not isinstance(error, InvalidModel):
            raise InvalidModel(f"the types of {self.name} cannot be used: {error}") from error


def _snake_case(name: str) -> str:
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", "_", name).lower()
