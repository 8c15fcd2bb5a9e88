"""Which values of an input or output are secret: those that its JSON Schema calls `writeOnly`, at any depth.

pydantic says so of SecretStr and SecretBytes. A secret is taken out of an input when a job is submitted, kept beside
it, and put back for the model alone: whatever else reads a job finds the mask.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from functools import cached_property
from typing import Any
from urllib.parse import quote, quote_plus

MASK = "**********"
"""As pydantic shows a SecretStr."""

Path = list[str | int]
Kept = list[tuple[Path, Any]]
"""Secrets, and where each was."""

_ALL_OF = ("allOf", "anyOf", "oneOf")
_ONE_OF = ("if", "then", "else")
_NAMED = frozenset({"properties", "patternProperties", "$defs", "definitions", "dependentSchemas"})
"""Keywords that hold schemas by names of others' choice."""
_DATA = frozenset({"default", "examples", "const", "enum"})
"""Keywords that hold no schemas."""
_SHORTEST, _SHORTEST_LINE = 3, 8
"""Characters of a secret, and of a line of one, that are looked for in other texts."""
_MOST_FORMS = 1_000
_PIECE = 10
"""Characters of the beginning, or the end, of a longer secret that are enough to know it by."""


class SecretFields:
    """The secrets of one JSON Schema."""

    def __init__(self, schema: Any) -> None:
        self._root = schema
        self._expanded: dict[tuple[int, ...], list[Any]] = {}
        self._leads: dict[int, bool] = {}

    @cached_property
    def any(self) -> bool:
        """Whether it has one at all: most have none."""
        return _says_secret(self._root)

    def split(self, value: Any) -> tuple[Any, Kept]:
        """A value with the mask in place of each secret, and the secrets."""
        if not self.any:
            return value, []
        kept: Kept = []
        return self._split(value, self._meant([self._root]), [], kept), kept

    def hides(self, path: Iterable[str | int]) -> bool:
        """Whether what stands at a place is a secret, or may hold one."""
        if not self.any:
            return False
        schemas = self._meant([self._root])
        for part in path:
            if _is_secret(schemas) or self._is_stray(schemas, part) or self._is_beside_secret(schemas, part):
                return True
            schemas = self._meant(_below(schemas, part))
        return any(map(self._leads_to_secret, schemas))

    def _split(self, value: Any, schemas: list[Any], path: Path, kept: Kept) -> Any:
        if not any(map(self._leads_to_secret, schemas)):
            return value
        # An input is an object whatever its schema says, so that of a secret one each field is.
        secret = _is_secret(schemas)
        if secret and (path or not isinstance(value, dict)):
            return _keep(value, path, kept)

        def part_of(part: str | int, each: Any) -> Any:
            if secret or self._is_stray(schemas, part):
                return _keep(each, [*path, part], kept)
            return self._split(each, self._meant(_below(schemas, part)), [*path, part], kept)

        if isinstance(value, dict):
            return {part: part_of(part, each) for part, each in value.items()}
        return [part_of(*each) for each in enumerate(value)] if isinstance(value, list) else value

    def _is_stray(self, schemas: list[Any], part: str | int) -> bool:
        """Whether a field that no schema names stands beside a secret one: it may be another name of that."""
        if isinstance(part, int) or _below(schemas, part):
            return False
        fields = [field for each in schemas for field in _named(each, "properties").values()]
        return any(_is_secret(self._meant([field])) for field in fields)

    def _is_beside_secret(self, schemas: list[Any], part: str | int) -> bool:
        """Whether an item stands in a row with a secret one: the order may be wrong."""
        row = [item for each in schemas for item in each.get("prefixItems") or []] if isinstance(part, int) else []
        return any(map(self._leads_to_secret, row))

    def _meant(self, schemas: Iterable[Any]) -> list[Any]:
        """These, and all that they refer to for the same value."""
        waiting = list(schemas)
        key = tuple(map(id, waiting))
        if (known := self._expanded.get(key)) is not None:
            return known
        seen: dict[int, Any] = {}
        while waiting:
            each = waiting.pop()
            if not isinstance(each, dict) or id(each) in seen:
                continue
            seen[id(each)] = each
            if isinstance(reference := each.get("$ref"), str):
                waiting.append(self._at(reference))
            for name in _ALL_OF:
                waiting += each[name] if isinstance(each.get(name), list) else []
            waiting += [each[name] for name in _ONE_OF if name in each]
        self._expanded[key] = list(seen.values())
        return self._expanded[key]

    def _leads_to_secret(self, schema: Any) -> bool:
        """Whether there is one in a schema, or in what it refers to, at any depth."""
        if (known := self._leads.get(id(schema))) is not None:
            return known
        waiting, seen = [schema], set()
        found = False
        while waiting and not found:
            each = waiting.pop()
            found = _says_secret(each)
            new = {reference for reference in _references(each) if reference not in seen}
            seen |= new
            waiting += map(self._at, new)
        self._leads[id(schema)] = found
        return found

    def _at(self, reference: str) -> Any:
        found = self._root
        for part in reference.partition("#")[2].split("/")[1:]:
            name = part.replace("~1", "/").replace("~0", "~")
            try:
                found = found[int(name) if isinstance(found, list) else name]
            except (LookupError, ValueError, TypeError):
                return None
        return found if reference.startswith("#") else None


def restored(value: Any, kept: Iterable[tuple[Path, Any]]) -> Any:
    """A value with its secrets. Raises LookupError, TypeError, ValueError if they are not of this value."""
    for path, secret in kept:
        place = value
        *outer, last = path
        for part in outer:
            place = place[part]
        place[last] = secret
    return value


def without_secret_defaults(schema: Any) -> Any:
    """A copy of a schema that does not tell the defaults of secrets."""
    if isinstance(schema, list):
        return [without_secret_defaults(each) for each in schema]
    if not isinstance(schema, dict):
        return schema
    secret = schema.get("writeOnly") is True
    return {
        name: each
        if name in _DATA
        else {key: without_secret_defaults(inner) for key, inner in each.items()}
        if name in _NAMED and isinstance(each, dict)
        else without_secret_defaults(each)
        for name, each in schema.items()
        if not (secret and name in ("default", "examples"))
    }


class Mask:
    """Hides secrets in texts that a model has written."""

    def __init__(self, secrets: Iterable[Any]) -> None:
        self._secrets = list(secrets)

    def __add__(self, other: Mask) -> Mask:
        return Mask([*self._secrets, *other._secrets])

    def __bool__(self) -> bool:
        return bool(self._secrets)

    def __call__(self, text: str) -> str:
        """A text with the mask in place of each."""
        if not self._secrets:
            return text
        for form in self._forms:
            text = text.replace(form, MASK)
        for form in self._forms:
            text = _without_ends(text, form) if len(form) >= 2 * _PIECE else text
        return text

    def json(self, text: str) -> str:
        """The same of all texts in some JSON."""
        return json.dumps(self._within(json.loads(text)), separators=(",", ":")) if self._secrets else text

    def _within(self, value: Any) -> Any:
        if isinstance(value, dict):
            return {self(name): self._within(each) for name, each in value.items()}
        if isinstance(value, list):
            return [self._within(each) for each in value]
        return self(value) if isinstance(value, str) else value

    @cached_property
    def _forms(self) -> list[str]:
        forms = {form for each in self._secrets for text in _texts(each) for form in _forms(text)}
        return sorted(forms, key=len, reverse=True)[:_MOST_FORMS]  # a line of a secret after the whole


NOTHING_SECRET = Mask(())


def _without_ends(text: str, form: str) -> str:
    """A text without the beginning and the end of a secret: pydantic shows these two of a long value."""
    for turn in (1, -1):  # the end of a secret is the beginning of it backwards
        ours, shown = form[::turn], text[::turn]
        at = shown.find(ours[:_PIECE])
        while at >= 0:
            end = at + _PIECE
            while end < len(shown) and end - at < len(ours) and shown[end] == ours[end - at]:
                end += 1
            shown = shown[:at] + MASK + shown[end:]
            at = shown.find(ours[:_PIECE], at + len(MASK))
        text = shown[::turn]
    return text


def _keep(value: Any, path: Path, kept: Kept) -> Any:
    if value is None:
        return None
    kept.append((path, value))
    return MASK


def _is_secret(schemas: Iterable[Any]) -> bool:
    return any(each.get("writeOnly") is True for each in schemas)


def _below(schemas: Iterable[Any], part: str | int) -> list[Any]:
    """The schemas that may hold for a field, or an item, of a value."""
    if isinstance(part, int):
        lists = [each.get("prefixItems") or [] for each in schemas]
        firsts = [each[part] for each in lists if isinstance(each, list) and part < len(each)]
        return firsts + [each[name] for each in schemas for name in ("items", "contains") if name in each]
    named = [_named(each, "properties") for each in schemas]
    found = [each[part] for each in named if part in each]
    for each in schemas:
        found += _named(each, "patternProperties").values()
    others = [each.get(name) for each in schemas for name in ("additionalProperties", "unevaluatedProperties")]
    return found or [each for each in others if isinstance(each, dict)]


def _named(schema: dict[str, Any], keyword: str) -> dict[str, Any]:
    found = schema.get(keyword)
    return found if isinstance(found, dict) else {}


def _inner(schema: Any) -> Iterator[Any]:
    """The schemas that stand in a schema, or in a list of them."""
    if isinstance(schema, list):
        yield from schema
    elif isinstance(schema, dict):
        for name, each in schema.items():
            if name in _NAMED and isinstance(each, dict):
                yield from each.values()
            elif name not in _DATA:
                yield each


def _says_secret(schema: Any) -> bool:
    if isinstance(schema, dict) and schema.get("writeOnly") is True:
        return True
    return any(map(_says_secret, _inner(schema)))


def _references(schema: Any) -> Iterator[str]:
    if isinstance(schema, dict) and isinstance(reference := schema.get("$ref"), str):
        yield reference
    for each in _inner(schema):
        yield from _references(each)


def _texts(secret: Any) -> Iterator[str]:
    """What of a secret is text, and long enough not to be met by chance."""
    if isinstance(secret, dict | list):
        for each in secret.values() if isinstance(secret, dict) else secret:
            yield from _texts(each)
        return
    text = secret if isinstance(secret, str) else json.dumps(secret)
    if len(text) >= _SHORTEST and text not in ("true", "false", "null"):
        yield text
        yield from (line for line in text.splitlines() if len(line) >= _SHORTEST_LINE)


def _forms(text: str) -> Iterator[str]:
    """As it is, as Python shows it, as JSON has it, and as it stands in a URL."""
    yield text
    yield quote(text, safe="", errors="replace")
    yield quote(text, errors="replace")
    yield quote_plus(text, errors="replace")
    yield repr(text)[1:-1]
    yield json.dumps(text)[1:-1]
    yield json.dumps(text, ensure_ascii=False)[1:-1]
