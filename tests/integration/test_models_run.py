"""What a work-horse makes of each kind of model: inputs, outputs, progress and log lines, as callers see them."""

from __future__ import annotations

from typing import Any

import pytest
import redis
from rq.job import Job
from rq.serializers import JSONSerializer

from tests.deployment import Api, eventually

MODELS = """
    import asyncio, logging, os, sys, threading, time
    from collections.abc import AsyncIterator, Iterator
    from pathlib import Path
    from typing import Annotated, Any
    from pydantic import AfterValidator, BaseModel
    from service import model, progress

    @model
    def function(x: int) -> dict[str, int]:
        return {"pid": os.getpid(), "x": x}

    @model
    class Warm:
        def setup(self) -> None:
            self.setups = getattr(self, "setups", 0) + 1
            self.predictions = 0

        def predict(self) -> list[int]:
            self.predictions += 1
            return [self.setups, self.predictions, os.getpid()]

    @model
    def counts(to: int) -> Iterator[int]:
        yield from range(to)

    @model
    def spells(text: str) -> Iterator[str]:
        yield from text

    @model
    async def waits(text: str) -> str:
        await asyncio.sleep(0.01)
        progress.update(0.5)
        return text.upper()

    @model
    async def streams(to: int) -> AsyncIterator[int]:
        for number in range(to):
            await asyncio.sleep(0)
            yield number

    class Point(BaseModel):
        x: float

    @model
    def typed(point: Point) -> Point:
        return Point(x=point.x * 2)

    @model
    def steps(length: int) -> int:
        return sum(1 for _ in progress(range(length), message="counting"))

    @model
    def updates(times: int, block: float = 0) -> None:
        for index in range(times):
            progress.update((index + 1) / times, f"step {index + 1}", loss=index, accuracy=0.5)
        time.sleep(block)

    @model
    def diverges() -> None:
        progress.update(1, loss=float("nan"), rate=float("inf"))

    @model
    def odd_message() -> str:
        progress.update(0.1, "first")
        progress.update(0.2, Path("second"))
        return "done"

    @model
    def threaded() -> None:
        thread = threading.Thread(target=progress.update, args=(0.5, "from a thread"))
        thread.start()
        thread.join()

    @model
    def talks(lines: int = 0) -> None:
        logging.getLogger("mine").warning("a warning with %s", "arguments")
        print("printed", "words")
        print("to stderr", file=sys.stderr)
        print("no end of line", end="")
        for index in range(lines):
            print("line", index)

    @model
    def talks_later() -> None:
        out = sys.stdout
        def later():
            time.sleep(0.3)
            out.write("too late\\n")
        threading.Thread(target=later, daemon=True).start()

    def _even(value: int) -> int:
        if value % 2:
            raise ValueError("it is odd")
        return value

    @model
    def even(x: Annotated[int, AfterValidator(_even)]) -> int:
        return x

    @model
    def gives(what: str) -> Any:
        return {
            "nan": float("nan"),
            "nested": {"a": [float("inf")]},
            "object": object(),
            "bytes": b"\\xff",
            "none": None,
        }[what]

    @model
    def number(what: str) -> float:
        return float("nan") if what == "nan" else what

    @model
    def point_of_nan() -> Point:
        return Point(x=float("nan"))

    @model
    def yields_wrong() -> Iterator[int]:
        yield 1
        yield "two"

    @model
    def large(size: int) -> str:
        return "x" * size

    @model
    def streams_large(size: int) -> Iterator[str]:
        for _ in range(100):
            yield "x" * (size // 100)
"""

LARGEST = 10 * 2**20


def run(service: Api, model: str, **value: Any) -> Any:
    """Submit a job and return it when it is done."""
    return service.done(service.submit(model, input=value)["id"])


def output(service: Api, model: str, **value: Any) -> Any:
    """What a model returns."""
    job = run(service, model, **value)
    assert job["status"] == "finished", job["error"]
    return job["output"]


def told(service: Api, job: Any, kind: str) -> list[Any]:
    """The data of all events of a type."""
    events: list[Any] = []
    while True:
        after = events[-1]["id"] if events else "0"
        page = service.http.get(f"/v1/jobs/{job['id']}/events", params={"after": after}).json()
        events += page["events"]
        if page["done"] or not page["events"]:
            return [event["data"] for event in events if event["type"] == kind]


def test_setup_runs_once_for_many_jobs_of_one_horse(service: Api) -> None:
    first = output(service, "warm")
    second = output(service, "warm")

    assert second == [1, first[1] + 1, first[2]]


def test_all_models_of_a_worker_run_in_one_horse(service: Api) -> None:
    assert output(service, "function", x=1)["pid"] == output(service, "warm")[2]


def test_a_generator_streams_its_items_and_returns_their_list(service: Api) -> None:
    job = run(service, "counts", to=3)

    assert job["output"] == [0, 1, 2]
    assert told(service, job, "output") == [{"output": 0}, {"output": 1}, {"output": 2}]


def test_a_generator_of_strings_returns_them_joined(service: Api) -> None:
    job = run(service, "spells", text="aé\n")

    assert job["output"] == "aé\n"
    assert [data["output"] for data in told(service, job, "output")] == ["a", "é", "\n"]


def test_a_generator_of_nothing_returns_an_empty_list(service: Api) -> None:
    assert output(service, "counts", to=0) == []


def test_many_items_arrive_all_and_in_order(service: Api) -> None:
    job = run(service, "counts", to=3000)

    assert [data["output"] for data in told(service, job, "output")] == list(range(3000))


def test_a_coroutine_runs_and_reports_progress(service: Api) -> None:
    job = run(service, "waits", text="abc")

    assert job["output"] == "ABC"
    assert job["progress"]["fraction"] == 0.5


def test_an_async_generator_streams_its_items(service: Api) -> None:
    job = run(service, "streams", to=3)

    assert job["output"] == [0, 1, 2]
    assert [data["output"] for data in told(service, job, "output")] == [0, 1, 2]


def test_a_model_with_pydantic_types_gets_and_gives_them(service: Api) -> None:
    assert output(service, "typed", point={"x": 1.5}) == {"x": 3.0}


def test_progress_over_an_iterable_arrives_with_its_last_state(service: Api) -> None:
    job = run(service, "steps", length=7)

    states = told(service, job, "progress")
    assert states[0]["index"] == 0
    assert states[-1] == {"index": 7, "length": 7, "fraction": 1.0, "unit": "it", "message": "counting"}
    assert job["progress"] == states[-1]


def test_ten_thousand_quick_updates_give_few_events_and_the_last_one(service: Api) -> None:
    job = run(service, "updates", times=10_000)

    states = told(service, job, "progress")
    assert states[-1]["message"] == "step 10000"
    assert len(states) <= 40
    assert job["metrics"] == {"loss": 9999, "accuracy": 0.5}


def test_the_last_update_is_seen_while_the_model_then_blocks(service: Api) -> None:
    job = service.submit("updates", input={"times": 100, "block": 3})
    service.started(job["id"])

    def last_update() -> Any:
        now = service.job(job["id"])
        assert now["progress"]
        assert now["progress"]["message"] == "step 100"
        return now

    assert eventually(last_update, within=1.5)["status"] == "started"
    service.cancel(job["id"])
    service.done(job["id"])


def test_the_latest_progress_is_in_the_meta_that_rq_reads(service: Api) -> None:
    job = run(service, "updates", times=3)

    with redis.Redis.from_url(service.redis_url) as connection:  # type: ignore[attr-defined]
        meta = Job.fetch(job["id"], connection=connection, serializer=JSONSerializer).meta
    assert meta["progress"]["message"] == "step 3"
    assert meta["metrics"] == {"loss": 2, "accuracy": 0.5}


def test_metrics_that_are_no_numbers_any_more_arrive_as_null(service: Api) -> None:
    job = run(service, "diverges")

    assert job["status"] == "finished", job["error"]
    assert job["metrics"] == {"loss": None, "rate": None}


def test_a_progress_message_that_is_no_string_does_not_kill_the_horse(service: Api) -> None:
    horse = output(service, "warm")[2]

    job = run(service, "odd_message")

    assert job["status"] == "finished" or job["error"]["type"] == "model_error", job["error"]
    assert output(service, "warm")[2] == horse


def test_progress_from_a_thread_of_the_model_arrives(service: Api) -> None:
    job = run(service, "threaded")

    assert job["status"] == "finished"
    assert job["progress"] is not None


def test_log_lines_from_logging_and_print_become_events(service: Api) -> None:
    job = run(service, "talks")

    lines = [(data["level"], data["logger"], data["message"]) for data in told(service, job, "log")]
    assert lines == [
        ("warning", "mine", "a warning with arguments"),
        ("info", "stdout", "printed words"),
        ("info", "stderr", "to stderr"),
        ("info", "stdout", "no end of line"),
    ]


def test_log_lines_are_bounded_and_the_last_one_says_so(service: Api) -> None:
    job = run(service, "talks", lines=2000)

    lines = told(service, job, "log")
    assert len(lines) == 1001
    assert "dropped" in lines[-1]["message"]


def test_a_line_written_after_its_job_ended_is_not_told_of_the_next_job(service: Api) -> None:
    run(service, "talks_later")

    job = run(service, "updates", times=1, block=0.8)

    assert job["status"] == "finished", job["error"]
    assert told(service, job, "log") == []


def test_input_that_only_pydantic_can_check_is_checked_by_the_horse(service: Api) -> None:
    job = run(service, "even", x=3)

    assert job["error"]["type"] == "invalid_input"
    assert "it is odd" in job["error"]["message"]
    assert output(service, "even", x=4) == 4


@pytest.mark.parametrize("what", ["nan", "nested", "object", "bytes"])
def test_output_that_json_cannot_carry_is_refused(service: Api, what: str) -> None:
    job = run(service, "gives", what=what)

    assert job["status"] == "failed", job["output"]
    assert job["error"]["type"] == "invalid_output"


@pytest.mark.parametrize("what", ["nan", "words"])
def test_output_of_another_type_than_annotated_is_refused(service: Api, what: str) -> None:
    assert run(service, "number", what=what)["error"]["type"] == "invalid_output"


def test_nan_within_a_pydantic_model_is_refused_too(service: Api) -> None:
    job = run(service, "point_of_nan")

    assert job["status"] == "failed", job["output"]
    assert job["error"]["type"] == "invalid_output"


def test_an_item_of_the_wrong_type_fails_the_job_and_the_earlier_ones_stay(service: Api) -> None:
    job = run(service, "yields_wrong")

    assert job["error"]["type"] == "invalid_output"
    assert told(service, job, "output") == [{"output": 1}]


def test_none_is_an_output_like_any_other(service: Api) -> None:
    job = run(service, "gives", what="none")

    assert (job["status"], job["output"]) == ("finished", None)


@pytest.mark.parametrize("model", ["large", "streams_large"])
def test_output_larger_than_allowed_fails_the_job(service: Api, model: str) -> None:
    job = run(service, model, size=LARGEST + 200)

    assert job["error"]["type"] == "output_too_large"
    assert "MAX_OUTPUT_BYTES" in job["error"]["message"]


def test_output_of_almost_the_largest_size_arrives(service: Api) -> None:
    assert len(output(service, "large", size=LARGEST - 2)) == LARGEST - 2
