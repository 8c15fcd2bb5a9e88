"""What a model returns, as JSON: NumPy's and torch's values at any depth too; what cannot be is named by its place."""

from __future__ import annotations

import inspect
from collections.abc import Collection, Iterable, Iterator, Mapping, Set
from dataclasses import fields, is_dataclass
from functools import lru_cache
from typing import Any

from pydantic import BaseModel, ConfigDict, TypeAdapter, ValidationError

from service.own_json import dumps
from service.secret_fields import SecretFields

_ANYTHING: TypeAdapter[Any] = TypeAdapter(Any, config=ConfigDict(ser_json_inf_nan="constants"))
_LONGEST_PATH = 12
_DEEPEST = 300
"""More than pydantic goes into."""


class OutputTooLarge(Exception):
    """The output is more than max_output_bytes of JSON."""


class NotJson(Exception):
    """A value is not what its type says, or JSON cannot carry it; the message says where and why."""


def to_json(adapter: TypeAdapter[Any], value: Any, max_bytes: int, where: str = "output") -> str:
    """A value as its type has it, at most so large. `where`: what the path to a part of it begins with.

    Raises NotJson, OutputTooLarge.
    """
    if _is_array(value):
        value = _plain(value, max_bytes)
    try:
        checked = _checked(adapter, value, max_bytes)
    except ValidationError as error:
        raise NotJson(sentence(where, error)) from None
    try:
        text = _dumps(adapter, checked, max_bytes)
    except OutputTooLarge:
        raise
    except Exception as error:  # pydantic's serialization errors, NaN, a key that is no string, depth
        place, reason = _wrong_place(checked, max_bytes) or ((), str(error) or type(error).__name__)
        raise NotJson(f"{_path(where, place)}: {reason}") from None
    if len(text) > max_bytes:  # ASCII: a character is a byte
        raise OutputTooLarge(_too_large(f"{len(text)} bytes", max_bytes))
    return text


def sentence(where: str, error: ValidationError) -> str:
    """What is wrong first, with its path: `input.scores[3]: Input should be ...`."""
    first, *more = error.errors(include_url=False, include_input=False)
    rest = f" (and {len(more)} more)" if more else ""
    return f"{_path(where, first['loc'])}: {first['msg']}{rest}"


def _checked(adapter: TypeAdapter[Any], value: Any, max_bytes: int) -> Any:
    try:
        return adapter.validate_python(value)
    except ValidationError as error:
        try:  # what it is as JSON may fit: a date for a strict type, an array within a typed list
            return adapter.validate_json(_dumps(_ANYTHING, value, max_bytes))
        except OutputTooLarge:
            raise
        except Exception:
            raise error from None


def _dumps(adapter: TypeAdapter[Any], value: Any, max_bytes: int) -> str:
    plain = adapter.dump_python(value, mode="json", warnings="error", fallback=lambda other: _plain(other, max_bytes))
    plain, _ = _secret_fields(adapter).split(plain)
    return dumps(plain)


@lru_cache(maxsize=1024)
def _secret_fields(adapter: TypeAdapter[Any]) -> SecretFields:
    """What of an output is not shown, though the model returns it: what it was given itself, perhaps."""
    return SecretFields(adapter.json_schema(mode="serialization"))


def _is_array(value: Any) -> bool:
    return hasattr(value, "tolist") and not inspect.isclass(value) and not isinstance(value, memoryview)


def _plain(value: Any, max_bytes: int) -> Any:
    """What pydantic does not know, as something that it does. Raises NotJson, OutputTooLarge."""
    if _is_array(value):
        _limit(value.numel() if hasattr(value, "numel") else getattr(value, "size", 0), max_bytes)
        return value.tolist()
    if isinstance(value, Mapping):
        return dict(value)
    if isinstance(value, Collection) and not isinstance(value, type):
        _limit(len(value), max_bytes)
        return list(value)
    raise NotJson(_reason(value))


def _limit(count: Any, max_bytes: int) -> None:
    if isinstance(count, int) and 2 * count > max_bytes + 1:  # a digit and a comma each: not made at all
        raise OutputTooLarge(_too_large(f"{count} values", max_bytes))


def _too_large(size: str, max_bytes: int) -> str:
    return f"the output is larger than MAX_OUTPUT_BYTES allows: {size}, {max_bytes} bytes left"


# --- where it is wrong --------------------------------------------------------------------------------------

_Place = tuple[str | int, ...]


def _wrong_place(value: Any, max_bytes: int) -> tuple[_Place, str] | None:
    """The first part of a value that JSON cannot carry, and why; None if each part can be carried."""
    place: _Place = ()
    above: set[int] = set()
    while True:
        if len(above) > _DEEPEST:
            return place, "it is nested too deeply"
        if id(value) in above:
            return place, f"this {type(value).__name__} contains itself"
        above.add(id(value))
        for name, part, is_key in _parts(value, max_bytes):
            if (reason := _why_not(part, max_bytes)) is not None:
                if is_key:
                    return place, f"a key cannot be text: {_reason(next(iter(part)))}"
                place, value = (*place, name), part
                break
        else:
            reason = _why_not(value, max_bytes)
            return None if reason is None else (place, reason)


def _why_not(value: Any, max_bytes: int) -> str | None:
    try:
        _dumps(_ANYTHING, value, max_bytes)
    except NotJson as error:
        return str(error)
    except Exception as error:
        return _reason(value) if not isinstance(value, int) else str(error)
    return None


def _parts(value: Any, max_bytes: int) -> Iterable[tuple[str | int, Any, bool]]:
    """Names, values, and whether it is a key that is looked at."""
    if _is_array(value):
        value = _plain(value, max_bytes)
    if isinstance(value, BaseModel):
        value = dict(value)
    elif is_dataclass(value) and not isinstance(value, type):
        value = {field.name: getattr(value, field.name, None) for field in fields(value)}
    if isinstance(value, Mapping):
        return _items(value)
    if isinstance(value, Collection) and not isinstance(value, (str, bytes, bytearray, memoryview, type)):
        return ((number, each, False) for number, each in enumerate(value))
    return ()


def _items(value: Mapping[Any, Any]) -> Iterator[tuple[str | int, Any, bool]]:
    for name, each in value.items():
        yield "", {name: None}, True
        yield str(name), each, False


def _reason(value: Any) -> str:
    if _is_array(value) and not isinstance(plain := value.tolist(), list):  # a scalar: infinity, or an object
        value = plain
    if isinstance(value, float):
        return f"{value} is no number that JSON has"
    if isinstance(value, str):
        return "it has half of a surrogate pair"
    if isinstance(value, (bytes, bytearray, memoryview)):
        return "these bytes are no UTF-8 text: return text, such as base64"
    if isinstance(value, (Mapping, list, tuple, Set)):
        return "it is nested too deeply"
    kind = type(value)
    name = kind.__qualname__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"
    return f"JSON cannot carry a value of type {name}"


def _path(where: str, place: _Place) -> str:
    shown = place if len(place) <= _LONGEST_PATH else place[:_LONGEST_PATH]
    text = where
    for each in shown:
        name = str(each)[:100]
        text += f"[{each}]" if isinstance(each, int) else f".{name}" if name.isidentifier() else f"[{dumps(name)}]"
    return text if shown == place else f"{text}..."
