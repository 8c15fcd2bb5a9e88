"""Inputs against published schemas: right in what is refused and why, and quick whatever schema and input are."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from enum import Enum
from itertools import islice
from typing import Annotated, Any, Literal

import pytest
from pydantic import BaseModel, Field

from service.web.input_check import InputCheck

SECONDS = 2.0
"""An input of 1 MiB may take so long here: most take a tenth of it, and what it used to take has no end."""
LARGEST = 2**20


@contextmanager
def within(seconds: float = SECONDS) -> Iterator[None]:
    began = time.process_time()
    yield
    assert time.process_time() - began < seconds


def told(schema: Any, value: Any) -> dict[str, str]:
    """What is wrong with a value, by place."""
    check = InputCheck("m", schema)
    if check.takes(value):
        return {}
    found = {"/".join(map(str, each.path)): each.detail for each in islice(check.mistakes(value), 20)}
    assert found
    return found


class Point(BaseModel):
    x: int
    y: Annotated[float, Field(multiple_of=0.5)] = 0.0


class Colour(Enum):
    RED = "red"
    ONE = 1


class Fields(BaseModel):
    model_config = {"extra": "forbid"}

    points: list[Point] = []
    size: Literal["s", "l"] = "s"
    colour: Colour = Colour.RED
    name: Annotated[str, Field(max_length=5, pattern=r"^\w+$")] = "a"
    maybe: Point | None = None
    either: int | list[int] = 1
    pair: tuple[int, str] = (1, "a")
    counts: dict[str, int] = {}
    some: set[int] = set()
    ratio: Annotated[float, Field(ge=0, lt=1)] = 0.5
    anything: Any = None


SCHEMA = Fields.model_json_schema()


@pytest.mark.parametrize(
    "value",
    [
        {},
        {"points": [{"x": 1}, {"x": 2, "y": 0.5}], "size": "l", "colour": 1, "name": "größe"},
        {"maybe": None, "either": [1, 2], "pair": [1, "b"], "counts": {"a": 1}, "some": [1, 2]},
        {"maybe": {"x": 1}, "ratio": 0, "anything": {"\ud800": ["\udfff", 10**4000]}},
    ],
    ids=json.dumps,
)
def test_what_a_model_takes_is_taken(value: Any) -> None:
    assert told(SCHEMA, value) == {}


@pytest.mark.parametrize(
    ("value", "place", "words"),
    [
        ({"points": 5}, "points", '5 is not of type "array"'),
        ({"points": [{"x": 1}, {"y": 1}]}, "points/1/x", "Field required"),
        ({"points": [{"x": "1"}]}, "points/0/x", '"1" is not of type "integer"'),
        ({"points": [{"x": True}]}, "points/0/x", 'true is not of type "integer"'),
        ({"points": [{"x": 1, "y": 0.3}]}, "points/0/y", "0.3 is not a multiple of 0.5"),
        ({"points": [{"x": 1, "y": 10**400}]}, "points/0/y", "1000"),
        ({"size": "xl"}, "size", '"xl" is not one of "s", "l"'),
        ({"colour": True}, "colour", 'true is not one of "red", 1'),
        ({"name": "!"}, "name", '"!" does not match "^\\\\w+$"'),
        ({"name": "too long"}, "name", "longer than 5"),
        ({"name": "\ud800"}, "name", "surrogate"),
        ({"maybe": {"x": "1"}}, "maybe/x", '"1" is not of type "integer"'),
        ({"maybe": 5}, "maybe", '5 is not of type "object"'),
        ({"either": "1"}, "either", '"1" is not valid under any of the given schemas'),
        ({"pair": [1, 2]}, "pair/1", '2 is not of type "string"'),
        ({"pair": [1]}, "pair", "less than 2"),
        ({"counts": {"a/b": "1"}}, "counts/a/b", '"1" is not of type "integer"'),
        ({"some": [1, 1]}, "some", "non-unique"),
        ({"ratio": 1}, "ratio", "1"),
        ({"colours": 1}, "colours", "Unknown field; allowed: points, size, colour"),
        ({"\ud800": 1}, "\ud800", "Unknown field"),
    ],
    ids=lambda each: json.dumps(each)[:40],
)
def test_what_is_wrong_is_told_at_its_place(value: Any, place: str, words: str) -> None:
    found = told(SCHEMA, value)

    assert list(found) == [place]
    assert words in found[place]


def test_each_wrong_place_is_told() -> None:
    value = {"points": [{}, {"x": "a"}], "size": 1, "more": 1, "maybe": 3}

    assert set(told(SCHEMA, value)) == {"points/0/x", "points/1/x", "size", "more", "maybe"}


BACKTRACKS = r"^([a-z0-9]+-?)+$"
NESTED = {
    "$defs": {
        "tree": {
            "anyOf": [
                {"type": "object", "properties": {"a": {"$ref": "#/$defs/tree"}}, "additionalProperties": False},
                {"type": "object", "properties": {"a": {"$ref": "#/$defs/tree"}}, "required": ["b"]},
                {"type": "integer"},
            ]
        }
    },
    "$ref": "#/$defs/tree",
}


def nested(depth: int, leaf: Any) -> Any:
    for _ in range(depth):
        leaf = {"a": leaf}
    return leaf


def union(many: int) -> Any:
    """A list of what is one of many models."""
    each = [{"type": "object", "properties": {f"p{n}": {}}, "required": [f"p{n}"]} for n in range(many)]
    return {"items": {"anyOf": each}}


@pytest.mark.parametrize(
    ("schema", "value"),
    [
        ({"pattern": BACKTRACKS}, "a" * 28 + "!"),
        ({"pattern": BACKTRACKS}, "a" * LARGEST + "!"),
        ({"items": {"pattern": r"^(\w+\s?)*$"}}, ["a" * 100 + "!"] * 10_000),
        ({"pattern": r"[\s\S]{0,1000}x"}, "y" * LARGEST),
        ({"uniqueItems": True}, list(range(150_000))),
        ({"uniqueItems": True}, [2**64 + n for n in range(45_000)]),
        ({"uniqueItems": True}, [n * (2**61 - 1) for n in range(45_000)]),
        ({"uniqueItems": True}, [{"a": n, "b": "x"} for n in range(40_000)]),
        ({"items": {"enum": [f"v{n}" for n in range(20_000)]}}, ["nope"] * 100_000),
        ({"items": {"enum": [*range(5_000), *map(str, range(5_000))]}}, ["4999", 4999] * 50_000),
        ({"items": {"enum": [{"k": n} for n in range(5_000)]}}, [{"k": 4999}] * 50_000),
        (union(200), [{"p199": 1}] * 50_000),
        (union(200), [{"none": 1}] * 50_000),
        (NESTED, nested(60, "x")),
        (NESTED, nested(60, 1)),
        ({"items": {"type": "integer"}}, ["a"] * 250_000),
        ({"items": {"type": "integer"}}, [1] * 250_000 + ["a"]),
        (
            {"properties": {"x": {}}, "required": ["x"], "additionalProperties": False},
            {str(n): 1 for n in range(90_000)},
        ),
        ({"items": {"type": "number", "multipleOf": 0.01}}, [10**4000] * 250),
        ({"items": {"type": "integer", "multipleOf": 7}}, [7 * 10**4000] * 250),
    ],
    ids=lambda each: json.dumps(each)[:60],
)
def test_no_input_takes_long(schema: Any, value: Any) -> None:
    with within():
        told(schema, value)


@pytest.mark.parametrize(
    ("pattern", "text", "fits"),
    [
        (r"^\p{L}+$", "größe", True),
        (r"^\p{L}+$", "5", False),
        (r"^\d+$", "\u0663", True),
        (r"(?i)^abc$", "ABC", True),
        (r"^(?P<name>a)$", "a", True),
    ],
)
def test_patterns_are_what_they_are_to_pydantic(pattern: str, text: str, fits: bool) -> None:
    assert InputCheck("m", {"properties": {"a": {"pattern": pattern}}}).takes({"a": text}) is fits


@pytest.mark.parametrize(
    "broken",
    [
        {"pattern": "(?=a)a"},
        {"pattern": r"(a)\1"},
        {"pattern": "("},
        {"pattern": 5},
        {"type": "nope"},
        {"enum": 5},
        {"required": "x"},
        {"$ref": "http://127.0.0.1:1/x"},
        {"$ref": "https://example.com/schema.json"},
        {"$ref": "file:///etc/passwd"},
    ],
    ids=json.dumps,
)
def test_what_of_a_schema_cannot_be_used_is_left_to_the_worker(broken: Any, caplog: pytest.LogCaptureFixture) -> None:
    schema = {"properties": {"a": broken, "b": {"type": "integer"}}, "required": ["b"]}

    assert told(schema, {"a": "anything", "b": 1}) == {}
    assert set(told(schema, {"a": "anything", "b": "1"})) == {"b"}
    assert "$ref" in broken or "is checked by the worker" in caplog.text


@pytest.mark.parametrize(
    "schema",
    [None, 5, "x", [], {"$ref": "#/nope"}, {"$ref": "http://x/y#/z"}, {"$id": "::::"}, {"properties": {"\ud800": {}}}],
    ids=repr,
)
def test_a_schema_that_cannot_be_used_at_all_refuses_nothing(schema: Any) -> None:
    assert InputCheck("m", schema).takes({"a": 1})


def test_a_schema_that_refers_to_itself_refuses_what_it_must() -> None:
    schema = {"type": "integer", "$ref": "#/properties/x", "properties": {"x": {"$ref": "#"}}}

    assert told(schema, {"x": 1})


def test_a_schema_that_is_nested_without_end_refuses_nothing() -> None:
    schema: Any = {}
    for _ in range(5_000):
        schema = {"items": schema}

    assert InputCheck("m", schema).takes({})


def test_no_other_document_is_fetched(monkeypatch: pytest.MonkeyPatch) -> None:
    import socket

    def connect(*_: Any) -> None:
        raise AssertionError("a connection was made")

    monkeypatch.setattr(socket.socket, "connect", connect)
    listener = socket.create_server(("127.0.0.1", 0))
    listener.settimeout(0)
    host, port = listener.getsockname()

    check = InputCheck("m", {"properties": {"a": {"$ref": f"http://{host}:{port}/schema"}}})

    assert check.takes({"a": 1})
    with listener, pytest.raises(BlockingIOError):
        listener.accept()
