"""service.testing.run: a model, or several inputs of it, without Redis."""

from __future__ import annotations

import asyncio
import logging
import os
import sys
import threading
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import pytest
from pydantic import AfterValidator, BaseModel

from service import Fatal, Retry, job, jobs, model, progress
from service.testing import InvalidInput, InvalidOutput, Run, run


class Point(BaseModel):
    x: float


def _even(value: int) -> int:
    if value % 2:
        raise ValueError("it is odd")
    return value


@model
def add(x: int, y: int = 2, point: Point | None = None) -> dict[str, Any]:
    assert point is None or isinstance(point, Point)
    return {"sum": x + y, "point": point}


@model
def even(x: Annotated[int, AfterValidator(_even)]) -> int:
    return x


@model
def counts(to: int) -> Iterator[int]:
    for number in range(to):
        progress.update((number + 1) / to, loss=number)
        yield number


@model
def spells(word: str) -> Iterator[str]:
    yield from word


@model
async def waits(x: int) -> int:
    await asyncio.sleep(0)
    return x + 1


@model
async def streams(to: int) -> AsyncIterator[int]:
    for number in range(to):
        yield number


@model(max_batch_size=4)
def together(x: list[int]) -> list[Any]:
    print("a batch of", len(x))
    return [None if each == 13 else [each, of.id != ""] for each, of in zip(x, jobs, strict=True)]


@model(max_batch_size=4)
def whole(x: list[int]) -> list[int]:
    return [each if each != 13 else "no number" for each in x]  # type: ignore[misc]


@model
class Warm:
    def setup(self) -> None:
        self.setups = getattr(self, "setups", 0) + 1

    def predict(self) -> int:
        return self.setups


@model(timeout=70, version="v1")
def knows() -> list[Any]:
    return [
        job.id,
        job.attempt,
        job.retries_left,
        job.metadata,
        job.model,
        job.version,
        round(job.deadline),
        job.stopping,
    ]


@model
def in_threads() -> list[str]:
    found: list[str] = []
    thread = threading.Thread(target=lambda: found.append(job.id))
    thread.start()
    thread.join()
    with ThreadPoolExecutor(1) as pool:
        return [job.id, *found, pool.submit(lambda: job.id).result()]


@model
def talks(thread: bool = False) -> None:
    print("printed")
    print("to stderr", file=sys.stderr)
    logging.getLogger("mine").info("logged")


@model
def fails(how: str) -> int:
    if how == "output":
        return "no number"  # type: ignore[return-value]
    if how == "exit":
        sys.exit(3)
    raise {"value": ValueError, "fatal": Fatal, "retry": Retry}[how]("the reason")


@model
def large() -> str:
    return "x" * 20_000_000


@pytest.mark.parametrize(
    ("target", "value", "expected"),
    [
        (add, {"x": 1}, {"sum": 3, "point": None}),
        (add, {"x": 1, "y": 5, "point": {"x": 2}}, {"sum": 6, "point": {"x": 2.0}}),
        (counts, {"to": 3}, [0, 1, 2]),
        (spells, {"word": "aé"}, "aé"),
        (waits, {"x": 1}, 2),
        (streams, {"to": 2}, [0, 1]),
        (together, {"x": 4}, [4, True]),
        (together, [{"x": 4}, {"x": 5}], [[4, True], [5, True]]),
        (Warm, {}, 1),
        (Warm, None, 1),
    ],
)
def test_every_kind_of_model_gives_its_output(target: Any, value: Any, expected: Any) -> None:
    assert run(target, value).output == expected


def test_an_instance_whose_setup_has_run_is_used_as_it_is() -> None:
    warm = Warm()
    warm.setup()
    warm.setup()

    assert run(warm).output == 2


def test_events_are_those_of_the_jobs_log() -> None:
    output, events = run(counts, {"to": 2})

    assert output == [0, 1]
    assert [event["type"] for event in events] == ["progress", "output", "progress", "output"]
    assert events[1]["data"] == {"output": 0}
    assert events[2]["data"]["fraction"] == 1.0
    assert events[2]["data"]["metrics"] == {"loss": 1}


def test_what_is_printed_and_logged_is_told_and_still_seen(capsys: pytest.CaptureFixture[str]) -> None:
    streams, handlers = (sys.stdout, sys.stderr), list(logging.getLogger().handlers)

    events = run(talks).events

    assert [tuple(event["data"].values()) for event in events] == [
        ("info", "stdout", "printed"),
        ("info", "stderr", "to stderr"),
        ("info", "mine", "logged"),
    ]
    assert capsys.readouterr() == ("printed\n", "to stderr\n")
    assert (sys.stdout, sys.stderr) == streams
    assert logging.getLogger().handlers == handlers


def test_a_batch_tells_once() -> None:
    (event,) = run(together, [{"x": 1}, {"x": 2}]).events

    assert event["data"]["message"] == "a batch of 2"


def test_a_model_knows_the_job_that_the_test_makes_up() -> None:
    assert run(knows, id="a", attempt=3, retries_left=1, metadata={"user": 1}).output == [
        *("a", 3, 1, {"user": 1}, "knows", "v1", 70, False)
    ]
    assert job.id == "local"


def test_its_threads_know_the_job_too() -> None:
    assert run(in_threads, id="a").output == ["a", "a", "a"]


@pytest.mark.parametrize(
    ("target", "value", "message"),
    [
        (add, {}, "input.x: Field required"),
        (add, {"x": "a"}, 'input.x: "a" is not of type "integer"'),
        (add, {"x": 1, "z": 1}, "input.z: Unknown field; allowed: x, y, point"),
        (add, {"x": 1, "point": {}}, "input.point.x: Field required"),
        (add, {"x": float("nan")}, "input: it is no JSON"),
        (add, {"x": object()}, "input: it is no JSON: Object of type object is not JSON serializable"),
        (add, 5, "input: Input should be a valid dictionary"),
        (add, [{"x": 1}], "input: add takes one at a time: it has no max_batch_size"),
        (together, [{"x": 1}, {"x": "a"}], 'input.x: "a" is not of type "integer"'),
        (even, {"x": 3}, "input.x: Value error, it is odd"),
    ],
)
def test_an_input_that_would_be_refused_is(target: Any, value: Any, message: str) -> None:
    with pytest.raises(InvalidInput) as refused:
        run(target, value)

    assert str(refused.value).startswith(message)


@pytest.mark.parametrize(
    ("target", "value"), [(fails, {"how": "output"}), (large, {}), (whole, {"x": 13}), (whole, [{"x": 1}, {"x": 13}])]
)
def test_an_output_that_the_service_would_refuse_is(target: Any, value: Any) -> None:
    with pytest.raises(InvalidOutput):
        run(target, value)


@pytest.mark.parametrize(
    ("how", "kind"), [("value", ValueError), ("fatal", Fatal), ("retry", Retry), ("exit", SystemExit)]
)
def test_what_the_model_raises_is_raised(how: str, kind: type[BaseException]) -> None:
    with pytest.raises(kind) as raised:
        run(fails, {"how": how})

    assert str(raised.value) == ("3" if how == "exit" else "the reason")


def test_a_callers_input_is_not_changed_by_the_model() -> None:
    @model
    def spoils(items: list[int]) -> int:
        items.append(1)
        return len(items)

    value: dict[str, Any] = {"items": []}
    assert run(spoils, value).output == 1
    assert value == {"items": []}


def test_async_models_run_within_an_async_test() -> None:
    async def test() -> Run:
        return run(waits, {"x": 1})

    assert asyncio.run(test()).output == 2


def test_it_runs_in_any_thread() -> None:
    found: list[Any] = []
    thread = threading.Thread(target=lambda: found.append(run(streams, {"to": 2}).output))
    thread.start()
    thread.join()

    assert found == [[0, 1]]


@pytest.mark.parametrize("what", [5, "add", lambda x: x, object()])
def test_what_is_no_model_is_refused(what: Any) -> None:
    with pytest.raises(TypeError, match="is no model: expected what @model decorates"):
        run(what, {})


@dataclass(frozen=True)
class Frozen(Exception):
    code: int


def test_an_exception_whose_attributes_cannot_be_set_is_raised_as_it_is() -> None:
    @model
    def fails() -> int:
        raise Frozen(7)

    with pytest.raises(Frozen):
        run(fails)


def test_a_forked_child_that_returns_does_not_run_the_rest_of_the_test(tmp_path: Path) -> None:
    @model
    def forks() -> int:
        os.fork()
        return 1

    assert run(forks).output == 1
    with (tmp_path / "passed").open("a") as passed:
        print(os.getpid(), file=passed)
    os.wait()

    assert (tmp_path / "passed").read_text() == f"{os.getpid()}\n"


def test_runs_in_several_threads_leave_the_streams_as_they_were() -> None:
    streams = sys.stdout, sys.stderr
    begun, more, ended = (threading.Event() for _ in range(3))

    @model
    def first() -> None:
        begun.set()
        more.wait(30)

    @model
    def second() -> None:
        more.set()
        ended.wait(30)

    def run_first() -> None:
        run(first)
        ended.set()

    thread = threading.Thread(target=run_first)
    thread.start()
    begun.wait(30)
    run(second)
    thread.join()

    assert (sys.stdout, sys.stderr) == streams


def test_an_id_that_no_job_could_have_is_refused() -> None:
    with pytest.raises(ValueError, match="id is 'a b': expected"):
        run(add, {"x": 1}, id="a b")


@pytest.mark.parametrize("each", [job, jobs])
def test_nothing_can_be_left_for_the_next_job_in_what_a_model_knows_of_its_own(each: Any) -> None:
    with pytest.raises(AttributeError):
        each.mine = 1
