"""Types that a model's inputs and outputs cannot have, because JSON carries none of them; and what to do instead."""

from __future__ import annotations

import dataclasses
import inspect
import os
from collections.abc import Iterable, Iterator
from pathlib import PurePath
from typing import Annotated, Any, get_args, get_origin, get_type_hints

from pydantic import (
    BaseModel,
    BeforeValidator,
    EncodedBytes,
    GetPydanticSchema,
    PlainSerializer,
    PlainValidator,
    WrapSerializer,
    WrapValidator,
)
from typing_extensions import is_typeddict  # typing's own knows none that came from here

_BYTES = (bytes, bytearray, memoryview)
_CONVERTED: tuple[type, ...] = (EncodedBytes, GetPydanticSchema)
_CONVERTED += (BeforeValidator, PlainValidator, WrapValidator, PlainSerializer, WrapSerializer)
"""An annotation with one of these says itself how the type comes from JSON, or becomes it."""
_IMAGE = "PIL.Image"


def advice(what: str, model: str, hint: Any, returned: bool) -> str | None:
    """One sentence on the first type in a hint that cannot be used, at any depth; None if there is none.

    `what` of which model has the hint: `input photo`.
    """
    for found in _types(hint, ()):
        if (kind := _unusable(found[0])) is not None:
            instead = _returned(kind) if returned else _taken(kind)
            return (
                f"{what}{found[1]} of {model} is {kind}, which JSON cannot carry, and there are no files yet: {instead}"
            )
    return None


def _taken(kind: str) -> str:
    if kind == _IMAGE:
        return "take pydantic.Base64Bytes, and open it in predict with Image.open(io.BytesIO(...))"
    if kind == "bytes":
        return "take pydantic.Base64Bytes, which callers send as base64 text"
    return "take a str, as a URL or a name that predict opens, or the content itself as pydantic.Base64Bytes"


def _returned(kind: str) -> str:
    if kind == _IMAGE:
        return "save it to io.BytesIO() and return a str, base64.b64encode(...).decode()"
    if kind == "bytes":
        return "return a str, base64.b64encode(...).decode()"
    return "return a str, the content or where it was put; what lies on the worker's disk no caller can read"


def _unusable(kind: Any) -> str | None:
    if not inspect.isclass(kind) or hasattr(kind, "__get_pydantic_core_schema__"):
        return None
    if issubclass(kind, _BYTES):
        return "bytes"
    if issubclass(kind, PurePath) or kind is os.PathLike:
        return "Path"
    # By its name: the library need not be here, and if it is, importing it takes time.
    return _IMAGE if any(each.__module__ == _IMAGE and each.__name__ == "Image" for each in kind.__mro__) else None


def _types(hint: Any, seen: tuple[Any, ...], field: str = "") -> Iterator[tuple[Any, str]]:
    """All types in a hint, each with the field in which it stands, as `.photo`."""
    hint = getattr(hint, "__value__", hint)  # type X = ...
    hint = getattr(hint, "__supertype__", hint)  # NewType
    if hint in seen:
        return
    seen = (*seen, hint)
    if get_origin(hint) is Annotated:
        if not any(isinstance(each, _CONVERTED) for each in hint.__metadata__):
            yield from _types(hint.__origin__, seen, field)
        return
    yield get_origin(hint) or hint, field
    for each in get_args(hint):
        yield from _types(each, seen, field)
    for name, each in _fields(get_origin(hint) or hint):
        yield from _types(each, seen, f"{field}.{name}")


def _fields(kind: Any) -> Iterable[tuple[str, Any]]:
    if not inspect.isclass(kind):
        return ()
    if issubclass(kind, BaseModel):
        return _model_fields(kind)
    named = dataclasses.is_dataclass(kind) or is_typeddict(kind) or hasattr(kind, "_fields")
    try:
        return get_type_hints(kind, include_extras=True).items() if named else ()
    except Exception:  # which pydantic says better
        return ()


def _model_fields(kind: type[BaseModel]) -> Iterator[tuple[str, Any]]:
    decorators: Any = kind.__pydantic_decorators__
    converted = {
        name
        for each in (*decorators.field_validators.values(), *decorators.field_serializers.values())
        if getattr(each.info, "mode", "") in ("before", "plain", "wrap")
        for name in each.info.fields
    }  # those that a validator or serializer of the model converts itself
    for name, field in kind.model_fields.items():
        if name not in converted and "*" not in converted:
            metadata = [each for each in field.metadata if isinstance(each, _CONVERTED)]
            yield name, Annotated[field.annotation, *metadata] if metadata else field.annotation
