"""What a model returns as JSON, how it says what cannot be, and what it tells when it raises several exceptions."""

from __future__ import annotations

import asyncio
import dataclasses
import datetime
import enum
import functools
import json
import math
import pathlib
from collections import OrderedDict, UserDict, deque
from collections.abc import Callable, Iterator
from typing import Annotated, Any

import numpy
import pytest
from pydantic import BaseModel, ConfigDict, Field

from service import Fatal, Retry, model
from service.worker.jsonable import OutputTooLarge
from service.worker.prediction import Refused, failure, predict


class Color(enum.Enum):
    RED = numpy.int64(3)


@dataclasses.dataclass
class Box:
    inside: Any


class Record(BaseModel):
    inside: Any


class Tensor:
    """As torch's: what it has are methods."""

    def __init__(self, *values: Any) -> None:
        self.values = values

    def numel(self) -> int:
        return len(self.values)

    def size(self) -> list[int]:
        return [len(self.values)]

    def tolist(self) -> list[Any]:
        return list(self.values)


def returned(value: Any, max_bytes: int = 100_000) -> Any:
    """What a job has as its output whose model, without annotations, returns this."""

    @model
    def unannotated():  # type: ignore[no-untyped-def]
        return value

    return json.loads(predict(unannotated.__model__, None, {}, lambda item: None, max_bytes))  # type: ignore[attr-defined]


def refusal(value: Any) -> str:
    with pytest.raises(Refused) as caught:
        returned(value)
    assert caught.value.args[0] == "invalid_output"
    return str(caught.value.args[1])


VALUES = [
    (numpy.float32(1.5), 1.5),
    (numpy.int64(3), 3),
    (numpy.bool_(True), True),
    (numpy.str_("a"), "a"),
    (numpy.arange(4).reshape(2, 2), [[0, 1], [2, 3]]),
    (numpy.array(["2020-01-01"], dtype="datetime64[s]"), ["2020-01-01T00:00:00"]),
    (Tensor(1.0, 2.0), [1.0, 2.0]),
    (datetime.date(2020, 1, 2), "2020-01-02"),
    (datetime.timedelta(seconds=90), "PT1M30S"),
    (Color.RED, 3),
    (Box(1), {"inside": 1}),
    (Record(inside=1), {"inside": 1}),
    ({"a"}, ["a"]),
    (frozenset({1}), [1]),
    (pathlib.Path("a/b"), "a/b"),
    (range(3), [0, 1, 2]),
    ({"a": 1}.keys(), ["a"]),
    (deque([1]), [1]),
    (UserDict({"a": 1}), {"a": 1}),
    (OrderedDict(a=1), {"a": 1}),
    (b"text", "text"),
    ({numpy.int64(1): 1}, {"1": 1}),
    ({datetime.date(2020, 1, 2): 1}, {"2020-01-02": 1}),
]


@pytest.mark.parametrize(("value", "expected"), VALUES, ids=lambda each: type(each).__name__)
def test_a_value_becomes_the_same_json_at_any_depth(value: Any, expected: Any) -> None:
    assert returned(value) == expected
    assert returned({"a": [value, (value,)]}) == {"a": [expected, [expected]]}
    assert returned(Box(Record(inside=[Box(value)]))) == {"inside": {"inside": [{"inside": expected}]}}


WRONG = [
    (math.nan, "nan is no number that JSON has"),
    (numpy.float32("inf"), "inf is no number that JSON has"),
    (object(), "JSON cannot carry a value of type object"),
    (b"\xff", "these bytes are no UTF-8 text: return text, such as base64"),
    (len, "JSON cannot carry a value of type builtin_function_or_method"),
    (ValueError("x"), "JSON cannot carry a value of type ValueError"),
    ({object(): 1}, "a key cannot be text: JSON cannot carry a value of type object"),
]


@pytest.mark.parametrize(("value", "why"), WRONG)
def test_what_json_cannot_carry_is_named_with_the_path_to_it(value: Any, why: str) -> None:
    assert refusal(value) == f"output: {why}"
    assert refusal({"scores": [1, 2, 3, value]}) == f"output.scores[3]: {why}"
    assert refusal([Box({"a key": value})]) == f'output[0].inside["a key"]: {why}'
    if not isinstance(
        value, (float, numpy.floating)
    ):  # which pydantic's own models show as null, unless they are told otherwise
        assert refusal({"ok": 1, "inner": Record(inside=(value,))}) == f"output.inner.inside[0]: {why}"


def test_a_value_within_an_array_of_objects_is_named_too() -> None:
    message = refusal({"a": numpy.array([1, object()], dtype=object)})
    assert message == "output.a[1]: JSON cannot carry a value of type object"


def test_what_contains_itself_or_is_too_deep_is_said_to() -> None:
    cycle: list[Any] = [1]
    cycle.append({"again": cycle})
    assert "contains itself" in refusal({"a": cycle})
    deep: Any = 1
    for _ in range(100_000):
        deep = [deep]
    assert "too deeply" in refusal(deep)


def test_what_is_too_large_is_not_even_made() -> None:
    for huge in (range(10**12), numpy.broadcast_to(numpy.float32(1), (10**6, 10**6)), Tensor(*range(60_000))):
        with pytest.raises(OutputTooLarge, match="MAX_OUTPUT_BYTES"):
            returned([huge])


def test_an_integer_with_too_many_digits_is_an_error_with_its_path() -> None:
    assert refusal({"a": [10**5000]}).startswith("output.a[0]: ")


def outcome(target: Callable[..., Any], **value: Any) -> Any:
    chunks: list[Any] = []
    output = predict(target.__model__, None, value, chunks.append, 100_000)  # type: ignore[attr-defined]
    return json.loads(output), [json.loads(each) for each in chunks]


def test_each_chunk_is_as_an_output_is() -> None:
    @model
    def chunks():  # type: ignore[no-untyped-def]
        yield numpy.float32(1)
        yield {"a": {datetime.date(2020, 1, 2)}}

    assert outcome(chunks) == ([1.0, {"a": ["2020-01-02"]}], [1.0, {"a": ["2020-01-02"]}])

    @model
    def wrong():  # type: ignore[no-untyped-def]
        yield 1
        yield {"a": [object()]}

    with pytest.raises(Refused) as caught:
        outcome(wrong)
    assert caught.value.args[1].startswith("output[1].a[0]: ")


def test_numbers_of_numpy_fit_annotated_types_at_any_depth() -> None:
    @model
    def typed() -> dict[str, list[float]]:
        return {"a": numpy.arange(2, dtype="float32"), "b": [numpy.float16(2)]}  # type: ignore[dict-item, list-item]

    assert outcome(typed)[0] == {"a": [0.0, 1.0], "b": [2.0]}


def test_an_annotated_output_that_does_not_fit_is_named_with_its_path() -> None:
    @model
    def typed() -> dict[str, list[int]]:
        return {"scores": [1, 2, "x"]}  # type: ignore[list-item]

    with pytest.raises(Refused) as caught:
        outcome(typed)
    assert caught.value.args[1].startswith("output.scores[2]: Input should be a valid integer")


def test_a_plain_function_that_returns_a_generator_is_told_to_use_yield() -> None:
    async def later() -> Any:
        yield 1

    for made in (lambda: (n for n in [1]), lambda: map(str, [1]), lambda: zip([1], [2], strict=True), later):

        @model
        def plain():  # type: ignore[no-untyped-def]
            return made()  # noqa: B023 -- called at once

        with pytest.raises(Refused, match="use yield"):
            outcome(plain)


def test_a_function_that_returns_a_coroutine_is_told_to_be_async() -> None:
    async def later() -> int:
        return 1

    @model
    def plain():  # type: ignore[no-untyped-def]
        return later()

    @model(max_batch_size=2)
    def batched(x: list[int]):  # type: ignore[no-untyped-def]
        return later()

    for target, value in ((plain, {}), (batched, {"x": 1})):
        with pytest.raises(Refused, match="async def"):
            outcome(target, **value)


def timed(function: Callable[..., Any]) -> Callable[..., Any]:
    """A decorator as they are written for plain functions."""

    @functools.wraps(function)
    def wrapper(*arguments: Any, **named: Any) -> Any:
        return function(*arguments, **named)

    return wrapper


def test_a_decorator_hides_neither_async_nor_yield() -> None:
    @model(concurrency=4)
    @timed
    async def waits(x: int) -> int:
        await asyncio.sleep(0)
        return x

    @model
    @timed
    def streams(x: int) -> Iterator[str]:
        yield "a" * x
        yield "b"

    assert waits.__model__.kind == "async"  # type: ignore[attr-defined]
    assert outcome(waits, x=2) == (2, [])
    assert streams.__model__.kind == "generator"  # type: ignore[attr-defined]
    assert outcome(streams, x=2) == ("aab", ["aa", "b"])


def test_a_decorator_may_gather_what_is_yielded() -> None:
    def gathered(function: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(function)
        def wrapper(*arguments: Any, **named: Any) -> Any:
            return list(function(*arguments, **named))

        return wrapper

    @model
    @gathered
    def streams():  # type: ignore[no-untyped-def]
        yield 1
        yield 2

    assert outcome(streams) == ([1, 2], [])


class Strict(BaseModel):
    model_config = ConfigDict(strict=True)

    day: datetime.date
    color: enum.Enum("Shade", {"DARK": "dark"}) | None = None  # type: ignore[valid-type]
    pair: tuple[int, int] = (0, 0)
    names: set[str] = set()
    count: int = 0
    share: float = 0.0


STRICT = {
    "day": "2020-01-02",
    "color": "dark",
    "pair": [1, 2],
    "names": ["a"],
    "count": 2.0,
    "share": 1,
}


def test_a_strict_type_takes_what_its_schema_says() -> None:
    @model
    def nested(value: Strict) -> str:
        assert value.day == datetime.date(2020, 1, 2)
        assert (value.pair, value.names, value.count) == ((1, 2), {"a"}, 2)
        return str(value.day)

    @model
    def flat(day: Annotated[datetime.date, Field(strict=True)]) -> datetime.date:
        return day

    @model(max_batch_size=2)
    def rows(values: list[Strict]) -> list[str]:
        return [each.day.isoformat() for each in values]

    assert outcome(nested, value=STRICT)[0] == "2020-01-02"
    assert outcome(flat, day="2020-01-02")[0] == "2020-01-02"
    assert outcome(rows, **STRICT)[0] == "2020-01-02"
    with pytest.raises(Refused) as caught:
        outcome(nested, value={**STRICT, "pair": [1, "2"]})
    assert caught.value.args[1] == "input.value.pair[1]: Input should be a valid integer"


class TooLong(Fatal):
    type = "too_long"


def test_a_fatal_error_in_a_group_is_fatal_and_the_message_names_all() -> None:
    group = ExceptionGroup("of a group", [ValueError("first"), ExceptionGroup("inner", [KeyError("k"), TooLong("9")])])
    told = failure(group)

    assert told["error"]["type"] == "too_long"
    assert told["again"] is False
    assert told["error"]["message"] == "of a group (2 sub-exceptions): ValueError: first; KeyError: 'k'; TooLong: 9"


def test_retry_in_a_group_asks_for_another_try() -> None:
    told = failure(BaseExceptionGroup("g", [ExceptionGroup("h", [Retry("busy", after=7)]), SystemExit(1)]))

    assert (told["again"], told["after"], told["error"]["type"]) == (True, 7, "model_error")
    assert "Retry: busy" in told["error"]["message"]


def test_types_that_are_fatal_are_looked_for_in_groups() -> None:
    told = failure(ExceptionGroup("g", [ValueError("x"), ExceptionGroup("h", [FileNotFoundError("y")])]))

    assert {"ValueError", "FileNotFoundError", "OSError", "ExceptionGroup"} <= set(told["exceptions"])


def test_a_group_without_end_is_told_in_short() -> None:
    deep: Exception = ExceptionGroup("wide", [ValueError(str(number)) for number in range(5000)])
    for _ in range(200):
        deep = ExceptionGroup("deep", [deep])

    told = failure(deep)

    assert "4990 more" in told["error"]["message"]
    assert len(json.dumps(told)) < 200_000
