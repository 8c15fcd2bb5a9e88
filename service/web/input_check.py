"""Whether a model takes an input, by its published JSON Schema; in a bounded time, whatever schema and input are.

jsonschema-rs says yes or no at once. What is wrong it would say at a length that grows with the input and, for unions,
exponentially with its depth, while no other thread runs: so the first wrong places are looked for here. What of a
schema cannot be checked (a pattern with look-around, another document) is left to the work-horse, which checks all.
"""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Callable, Iterable, Iterator
from functools import reduce
from itertools import chain, islice
from operator import getitem
from typing import Any, NamedTuple
from urllib.parse import quote, unquote

from jsonschema_rs import Draft202012Validator, ValidationError
from pydantic_core import SchemaValidator, core_schema

from service.secret_fields import MASK

log = logging.getLogger("service.web")

MOST_UNUSABLE = 100
"""So many keywords are left out of a schema; one with more is not checked at all."""
_ROOT = "urn:input-schema"
_UNCHECKED = {
    *("date-time", "duration", "hostname", "uri", "uri-reference", "iri", "iri-reference", "uri-template"),
    *("json-pointer", "relative-json-pointer", "time"),
}
"""Formats of which pydantic takes more than the standard does."""
_OF_THE_VALUE = frozenset(
    {
        *("type", "enum", "const", "multipleOf", "maximum", "exclusiveMaximum", "minimum", "exclusiveMinimum"),
        *("maxLength", "minLength", "pattern", "format"),
        *("maxItems", "minItems", "uniqueItems", "maxProperties", "minProperties"),
    }
)
"""Keywords that look at a value without looking into it by another schema."""

_DATA = frozenset({"default", "examples", "const", "enum"})
"""Keywords that hold no schemas."""
Path = tuple[str | int, ...]

_ENCODER = json.JSONEncoder(sort_keys=True)


class Mistake(NamedTuple):
    """Where an input is wrong, as the names and numbers that lead there, and in which way."""

    path: Path
    detail: str


class InputCheck:
    """A model's input schema, ready to check inputs."""

    def __init__(self, name: str, schema: Any, hides: Callable[[Path], bool] = lambda _: False) -> None:
        """`name` is the model's, for the log; `hides` says of which places nothing may be quoted."""
        self._hides = hides
        self._schema, validator = _usable(name, schema)
        self._is_valid = validator.is_valid
        self._places: dict[str, Draft202012Validator] = {}

    def takes(self, value: Any) -> bool:
        """Whether the model takes this input, as far as can be said here."""
        return _fits(self._is_valid, value)

    def mistakes(self, value: Any) -> Iterator[Mistake]:
        """Each place where an input is wrong that `takes` refused; they are found as they are asked for."""
        try:
            yield from self._wrong("#", self._schema, value, ())
        except RecursionError:  # a schema that refers to itself before it looks at a part of the value
            yield Mistake(
                (), f"{MASK if self._hides(()) else shown(value)} is not valid under any of the given schemas"
            )

    def _wrong(self, at: str, schema: Any, value: Any, path: Path) -> Iterator[Mistake]:
        """What is wrong with a value that the schema at a place, a JSON pointer, does not take."""
        found = False
        hidden = self._hides(path)
        for mistake in chain(self._inner(at, schema, value, path), _own(schema, value, path, hidden)):
            found = True
            yield mistake
        if not found:
            yield Mistake(path, f"{MASK if hidden else shown(value)} is not valid under any of the given schemas")

    def _inner(self, at: str, schema: Any, value: Any, path: Path) -> Iterator[Mistake]:
        """By the schemas within it that are certain to be meant."""
        if not isinstance(schema, dict):
            return
        reference = schema.get("$ref", "")
        if reference.startswith("#"):
            yield from self._look(unquote(reference), self._at(reference), [(value, path)])
        for place, each in _choices(schema):
            yield from self._look(f"{at}/{place}", each, [(value, path)])
        if isinstance(value, dict):
            yield from self._fields(at, schema, value, path)
        elif isinstance(value, list):
            yield from self._items(at, schema, value, path)

    def _fields(self, at: str, schema: dict[str, Any], value: dict[str, Any], path: Path) -> Iterator[Mistake]:
        properties, others = schema.get("properties", {}), schema.get("additionalProperties", True)
        for name in schema.get("required", ()):
            if name not in value:
                yield Mistake((*path, name), "Field required")
        for name in (each for each in properties if each in value):
            place = f"{at}/properties/{_escaped(name)}"
            yield from self._look(place, properties[name], [(value[name], (*path, name))])
        if "patternProperties" in schema or others is True:
            return
        unknown = (name for name in value if name not in properties)
        if others is False:
            allowed = ", ".join(properties) or "none"
            yield from (Mistake((*path, name), f"Unknown field; allowed: {allowed}") for name in unknown)
        else:
            rest = ((value[name], (*path, name)) for name in unknown)
            yield from self._look(f"{at}/additionalProperties", others, rest)

    def _items(self, at: str, schema: dict[str, Any], value: list[Any], path: Path) -> Iterator[Mistake]:
        numbered = ((each, (*path, number)) for number, each in enumerate(value))
        for number, inner in enumerate(schema.get("prefixItems", ())):
            yield from self._look(f"{at}/prefixItems/{number}", inner, islice(numbered, 1))
        if "items" in schema:
            yield from self._look(f"{at}/items", schema["items"], numbered)

    def _look(self, at: str, schema: Any, values: Iterable[tuple[Any, Path]]) -> Iterator[Mistake]:
        """What is wrong with each of some values, which are given with their paths."""
        if at not in self._places:
            # Within a list: jsonschema-rs takes half of a surrogate pair there, and raises where it is all there is.
            place = {"items": {"$ref": f"{_ROOT}{quote(at, safe='#/~')}"}}
            self._places[at] = _compiled(place, self._schema)
        takes = self._places[at].is_valid
        for value, path in values:
            if not _fits(takes, [value]):
                yield from self._wrong(at, schema, value, path)

    def _at(self, pointer: str) -> Any:
        found = self._schema
        for part in unquote(pointer).split("/")[1:]:
            name = part.replace("~1", "/").replace("~0", "~")
            found = found[int(name) if isinstance(found, list) else name]
        return found


def _fits(is_valid: Callable[[Any], bool], value: Any) -> bool:
    try:
        return is_valid(value)
    except UnicodeEncodeError:  # a name that is no text, where the schema looks at names
        return False


def _choices(schema: dict[str, Any]) -> Iterator[tuple[str, Any]]:
    """The schemas of which a value must fit each; of a type that may be null, the other one."""
    for number, each in enumerate(schema.get("allOf", ())):
        yield f"allOf/{number}", each
    others = [(number, each) for number, each in enumerate(schema.get("anyOf", ())) if each != {"type": "null"}]
    if len(others) == 1:
        yield f"anyOf/{others[0][0]}", others[0][1]


def _own(schema: Any, value: Any, path: Path, hidden: bool) -> Iterator[Mistake]:
    """What is wrong with a value itself; of one that is hidden, in words that do not quote it."""
    own = {name: schema[name] for name in schema if name in _OF_THE_VALUE} if isinstance(schema, dict) else None
    try:
        for error in islice(_compiled(own or {}).iter_errors(value), 1):
            keyword = str(error.schema_path[0]) if error.schema_path else "schema"
            allowed = f"{MASK} is not what the schema allows: {keyword} {shown((own or {}).get(keyword))}"
            yield Mistake(path, allowed if hidden else _short(error.message))
    except UnicodeEncodeError:
        yield Mistake(path, "it has half of a surrogate pair, which is no character")


class Pattern:
    """`pattern`, as pydantic's own engine has it: in linear time, and with letters of all scripts in `\\w`."""

    def __init__(self, parent: dict[str, Any], value: Any, path: list[str | int]) -> None:
        self._pattern = value
        self._fits = SchemaValidator(core_schema.str_schema(pattern=value)).isinstance_python

    def validate(self, value: Any) -> None:
        """Raises ValueError."""
        if isinstance(value, str) and not self._fits(value):
            raise ValueError(f"{shown(value)} does not match {shown(self._pattern)}")


class Enum:
    """`enum`, for thousands of values of any type: jsonschema-rs compares with each of them."""

    def __init__(self, parent: dict[str, Any], value: Any, path: list[str | int]) -> None:
        self._options = ", ".join(map(shown, value[:10])) + (", ..." if len(value) > 10 else "")
        self._texts = set(map(_text, value))

    def validate(self, value: Any) -> None:
        """Raises ValueError."""
        if _text(value) not in self._texts:
            raise ValueError(f"{shown(value)} is not one of {self._options}")


class UniqueItems:
    """`uniqueItems`, in linear time: jsonschema-rs compares large numbers each with each."""

    def __init__(self, parent: dict[str, Any], value: Any, path: list[str | int]) -> None:
        self._wanted = value is True

    def validate(self, value: Any) -> None:
        """Raises ValueError."""
        if self._wanted and isinstance(value, list) and len(set(map(_text, value))) < len(value):
            raise ValueError(f"{shown(value)} has non-unique elements")


def _text(value: Any) -> str:
    """What two values have in common that are the same in JSON. Text, because callers cannot choose its hash."""
    return _ENCODER.encode(int(value) if isinstance(value, float) and value.is_integer() else value)


def shown(value: Any) -> str:
    """A value as a message quotes it: not all of a long one."""
    return _short(json.dumps(value, ensure_ascii=False))


def _short(text: str) -> str:
    return text if len(text) <= 300 else f"{text[:140]} ... {text[-140:]}"


def _escaped(name: str) -> str:
    return name.replace("~", "~0").replace("/", "~1")


def _compiled(schema: Any, root: Any = True) -> Draft202012Validator:
    """A validator; `root` is what it may refer to. Nothing is fetched: other documents allow everything."""
    return Draft202012Validator(
        schema,
        validate_formats=True,
        formats=_FORMATS,
        keywords={"pattern": Pattern, "enum": Enum, "uniqueItems": UniqueItems},
        retriever=lambda uri: root if uri == _ROOT else {},
    )


_FORMATS = {**{name: lambda _: True for name in _UNCHECKED}, "email": lambda text: "@" in text}


def _usable(name: str, schema: Any) -> tuple[Any, Draft202012Validator]:
    """A schema without the keywords that cannot be used, each of which is logged, and its validator."""
    try:
        schema = _of_doubles(schema)
        for _ in range(MOST_UNUSABLE):
            try:
                return schema, _compiled(schema)
            except ValidationError as error:
                _log_unusable(name, error)
                *outer, keyword = error.instance_path  # ValueError without one: it is the whole schema
                del reduce(getitem, outer, schema)[keyword]
    except (ValueError, TypeError, LookupError, RecursionError) as error:
        _log_unusable(name, error)
    return True, _compiled(True)


def _log_unusable(name: str, error: Exception) -> None:
    extra = {"model": name, "reason": str(error).partition("\n")[0]}
    log.warning("part of an input schema cannot be used, and is checked by the worker only", extra=extra)


def _of_doubles(schema: Any) -> Any:
    """A copy in which a number is what a double holds: jsonschema-rs takes integers of any size for one."""
    if isinstance(schema, list):
        return [_of_doubles(each) for each in schema]
    if not isinstance(schema, dict):
        return schema
    copied = {name: each if name in _DATA else _of_doubles(each) for name, each in schema.items()}
    if copied.get("type") == "number":
        return {"maximum": sys.float_info.max, "minimum": -sys.float_info.max, **copied}
    return copied
