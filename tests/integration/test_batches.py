"""Batches: predict gets the inputs of several jobs, and each job stays a job of its own."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

import pytest
import redis

from tests.deployment import Api, Deployment, children, eventually, until
from tests.noting import NOTED, state

BATCHING = (
    NOTED
    + """
    from pydantic import BaseModel
    from service import progress

    @model(max_batch_size=4, batch_timeout=0.05, retries=1)
    def double(x: list[int], seconds: list[float]) -> list[int]:
        note(len(x))
        time.sleep(max(seconds))
        return [2 * each for each in x]

    @model(max_batch_size=4, retries=1)
    def picky(x: list[int]) -> list[int]:
        note(f"{len(x)}:{min(x)}")
        if 13 in x:
            raise ValueError("13 brings bad luck")
        return x

    class Text(BaseModel):
        text: str
        times: int = 2

    @model(max_batch_size=4)
    def shout(inputs: list[Text]) -> list[str]:
        return [" ".join([each.text.upper()] * each.times) for each in inputs]

    @model(max_batch_size=4)
    def short(x: list[int]) -> list[int]:
        return x[1:]

    @model(max_batch_size=4)
    def nones(x: list[int]) -> list[int]:
        return [each if each else None for each in x]

    @model(max_batch_size=4)
    def told(x: list[int]) -> list[int]:
        for _ in progress(range(3)):
            print("batch of", len(x))
        return x

    @model(max_batch_size=4, timeout=2)
    def hangs(x: list[int]) -> list[int]:
        note(f"begin {len(x)}")
        if 0 in x:
            time.sleep(60)
        return x

    @model(max_batch_size=4, timeout=3)
    def slow_alone(x: list[int]) -> list[int]:
        if len(x) > 1:
            raise ValueError("one by one")
        time.sleep(1.5)
        return x

    @model(max_batch_size=4, retries=0)
    def deadly(x: list[int]) -> list[int]:
        note(f"deadly {len(x)}")
        if 0 in x:
            os._exit(3)
        return x
"""
)


@pytest.fixture
def api(deployed: Deployment, notes: Path) -> Api:
    deployed.write(BATCHING)
    deployed.worker()
    return deployed.web()


class _Held:
    """Within it no worker takes jobs, so that they queue up."""

    def __init__(self, deployed: Deployment) -> None:
        self._redis = redis.Redis.from_url(deployed.redis_url)

    def __enter__(self) -> None:
        self._redis.set("rq:suspended", 1)

    def __exit__(self, *_: object) -> None:
        self._redis.delete("rq:suspended")
        self._redis.close()


def queued(deployed: Deployment, api: Api, model: str, inputs: list[dict[str, Any]], **body: Any) -> list[str]:
    """Submit jobs while no worker takes any; they are let go together."""
    with _Held(deployed):
        return [api.submit(model, input=each, **body)["id"] for each in inputs]


def doubles(count: int, seconds: float = 0) -> list[dict[str, Any]]:
    return [{"x": x, "seconds": seconds} for x in range(count)]


def test_queued_jobs_are_predicted_together_and_each_gets_its_own_output(
    deployed: Deployment, api: Api, notes: Path
) -> None:
    jobs = queued(deployed, api, "double", doubles(10))

    assert [api.done(job)["output"] for job in jobs] == [2 * x for x in range(10)]
    sizes = [int(line) for line in notes.read_text().split()]
    assert sum(sizes) == 10
    assert sizes[:2] == [4, 4]


def test_each_job_of_a_batch_has_its_own_events_and_attempts(deployed: Deployment, api: Api) -> None:
    jobs = queued(deployed, api, "told", [{"x": 1}, {"x": 2}])

    for job in jobs:
        assert len(api.done(job)["attempts"]) == 1
        kinds = [event["type"] for event in api.log(job)]
        assert kinds[:2] == ["queued", "started"]
        assert kinds[-1] == "finished"
        assert "progress" in kinds
        messages = [event["data"]["message"] for event in api.log(job) if event["type"] == "log"]
        assert messages == ["batch of 2"] * 3


def test_a_lone_job_does_not_wait_for_company(deployed: Deployment, notes: Path) -> None:
    deployed.write(BATCHING.replace("batch_timeout=0.05", "batch_timeout=60"))
    deployed.worker()
    api = deployed.web()

    job = api.submit("double", wait=20, input={"x": 1, "seconds": 0})

    assert job["output"] == 2


def test_a_batch_that_is_not_full_goes_when_its_time_is_up(deployed: Deployment, api: Api, notes: Path) -> None:
    jobs = queued(deployed, api, "double", doubles(3))

    assert all(api.done(job)["status"] == "finished" for job in jobs)
    assert sum(int(line) for line in notes.read_text().split()) == 3


def test_company_that_comes_within_batch_timeout_rides_along(deployed: Deployment, notes: Path) -> None:
    deployed.write(BATCHING.replace("batch_timeout=0.05", "batch_timeout=30"))
    deployed.worker()
    api = deployed.web()
    jobs = queued(deployed, api, "double", doubles(2))
    for job in jobs:
        api.started(job)

    jobs += [api.submit("double", input=each)["id"] for each in doubles(2)]

    assert all(api.done(job)["status"] == "finished" for job in jobs)
    assert notes.read_text().split() == ["4"]


def test_of_a_batch_that_raises_only_the_guilty_job_fails(deployed: Deployment, api: Api, notes: Path) -> None:
    jobs = queued(deployed, api, "picky", [{"x": x} for x in (11, 12, 13, 14)])

    done = [api.done(job) for job in jobs]

    assert [job["status"] for job in done] == ["finished", "finished", "failed", "finished"]
    assert [len(job["attempts"]) for job in done] == [1, 1, 2, 1]  # its retry, too, was its own
    assert "bad luck" in done[2]["error"]["message"]
    assert notes.read_text().split() == ["4:11", "1:11", "1:12", "1:13", "1:14", "1:13"]


def test_a_list_of_pydantic_models_gives_jobs_fields_with_defaults(deployed: Deployment, api: Api) -> None:
    schema = state(api, "shout")["input_schema"]
    assert set(schema["properties"]) == {"text", "times"}
    assert schema["additionalProperties"] is False

    jobs = queued(deployed, api, "shout", [{"text": "a"}, {"text": "b", "times": 1}])

    assert [api.done(job)["output"] for job in jobs] == ["A A", "B"]


def test_an_input_that_only_the_types_refuse_fails_alone(deployed: Deployment, api: Api) -> None:
    deployed.write(
        """
        from typing import Annotated
        from pydantic import AfterValidator
        from service import model

        def check(value):
            if value < 0:
                raise ValueError("it is negative")
            return value

        @model(max_batch_size=4)
        def positive(x: list[Annotated[int, AfterValidator(check)]]) -> list[int]:
            return x
        """,
        "positive.py",
    )
    deployed.worker("--models", "positive")
    until(lambda: "positive" in api.http.get("/v1/models").text)

    jobs = queued(deployed, api, "positive", [{"x": 1}, {"x": -1}, {"x": 2}])

    done = [api.done(job) for job in jobs]
    assert [job["output"] for job in done] == [1, None, 2]
    assert done[1]["error"]["type"] == "invalid_input"


@pytest.mark.parametrize(("model", "message"), [("short", "as many outputs"), ("nones", "output")])
def test_wrong_outputs_of_a_batch_fail_the_jobs_they_belong_to(
    deployed: Deployment, api: Api, model: str, message: str
) -> None:
    jobs = queued(deployed, api, model, [{"x": 0}, {"x": 1}])

    done = [api.done(job) for job in jobs]

    assert done[0]["error"]["type"] == "invalid_output"
    assert message in done[0]["error"]["message"]
    assert done[1]["status"] == ("failed" if model == "short" else "finished")


def test_a_job_of_a_batch_that_is_stopped_leaves_the_others_to_finish(
    deployed: Deployment, api: Api, notes: Path
) -> None:
    jobs = queued(deployed, api, "hangs", [{"x": x} for x in range(3)], timeout=60)
    until(lambda: "begin 3" in notes.read_text())

    api.cancel(jobs[0])

    done = [api.done(job) for job in jobs]
    assert [job["status"] for job in done] == ["stopped", "finished", "finished"]
    assert [len(job["attempts"]) for job in done] == [1, 1, 1]


def test_a_batch_that_hangs_times_out_and_later_its_jobs_too(deployed: Deployment, api: Api) -> None:
    jobs = queued(deployed, api, "hangs", [{"x": x} for x in range(2)])

    assert {api.done(job)["error"]["type"] for job in jobs} == {"timeout"}


def test_jobs_that_are_run_one_by_one_each_have_their_whole_time(deployed: Deployment, api: Api) -> None:
    jobs = queued(deployed, api, "slow_alone", [{"x": x} for x in range(3)])

    assert [api.done(job)["output"] for job in jobs] == [0, 1, 2]


def test_a_batch_that_kills_its_horse_is_run_again_one_by_one(deployed: Deployment, api: Api, notes: Path) -> None:
    jobs = queued(deployed, api, "deadly", [{"x": x} for x in range(4)])

    done = [api.done(job) for job in jobs]

    assert [job["status"] for job in done] == ["failed", "finished", "finished", "finished"]
    assert done[0]["error"]["type"] == "crashed"
    assert [len(job["attempts"]) for job in done] == [1, 1, 1, 1]


def test_a_killed_worker_gives_back_all_jobs_of_its_batch(deployed: Deployment, api: Api, notes: Path) -> None:
    jobs = queued(deployed, api, "double", doubles(4, seconds=3))
    until(lambda: notes.read_text().split() == ["4"])
    (worker,) = [each for each in deployed.processes if "worker" in each.args]  # type: ignore[operator]
    (horse,) = children(worker.pid)
    worker.kill()
    worker.wait()
    until(lambda: not Path(f"/proc/{horse}").exists())

    deployed.worker()

    done = [api.done(job, within=30) for job in jobs]
    assert [job["output"] for job in done] == [0, 2, 4, 6]
    assert {job["attempts"][0]["error"]["type"] for job in done} == {"lost"}


def test_a_batch_in_hand_goes_back_to_the_front_when_its_worker_ends(deployed: Deployment, notes: Path) -> None:
    deployed.write(BATCHING)
    worker = deployed.worker(GRACE_PERIOD="0")
    api = deployed.web()
    jobs = queued(deployed, api, "double", doubles(4, seconds=30))
    until(lambda: notes.read_text().split() == ["4"])

    worker.send_signal(signal.SIGTERM)

    assert worker.wait(10) == 0
    with redis.Redis.from_url(deployed.redis_url) as connection:
        assert [each.decode() for each in connection.lrange("rq:queue:double", 0, -1)] == jobs  # type: ignore[union-attr]
    assert {api.job(job)["status"] for job in jobs} == {"queued"}
    assert all(not api.job(job)["attempts"] for job in jobs)


def test_a_model_says_how_it_batches(api: Api) -> None:
    model = state(api, "double")

    assert (model["max_batch_size"], model["batch_timeout"], model["concurrency"]) == (4, 0.05, 1)
    assert model["input_schema"]["properties"]["x"] == {"title": "X", "type": "integer"}
    assert model["output_schema"] == {"type": "integer"}


def test_a_batching_horse_killed_from_outside_costs_its_jobs_no_attempt(
    deployed: Deployment, api: Api, notes: Path
) -> None:
    jobs = queued(deployed, api, "double", doubles(4, seconds=1))
    until(lambda: notes.read_text().split() == ["4"])
    (worker,) = [each for each in deployed.processes if "worker" in each.args]  # type: ignore[operator]
    (horse,) = children(worker.pid)

    os.kill(horse, signal.SIGKILL)

    def finished() -> None:
        assert [api.job(job)["status"] for job in jobs] == ["finished"] * 4

    eventually(finished)
    assert all(len(api.job(job)["attempts"]) == 1 for job in jobs)
