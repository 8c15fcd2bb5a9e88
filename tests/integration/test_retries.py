"""Failed jobs are tried again: when, how often, and after what not."""

from __future__ import annotations

import signal
from typing import Any

import pytest

from tests.deployment import Api, Deployment, eventually, until

MODELS = """
    import os
    import signal
    from service import Retry, model

    class TooLong(ValueError):
        pass

    @model(retries=3, backoff=[0, 1])
    def fails(error: str = "RuntimeError") -> None:
        raise {"RuntimeError": RuntimeError, "TooLong": TooLong, "KeyError": KeyError}[error]("no luck")

    @model(retries=9, backoff=0, fatal=(ValueError, OSError))
    def picky(error: str) -> None:
        raise {"TooLong": TooLong, "KeyError": KeyError}[error]("no luck")

    @model(retries=1)
    def by_default() -> None:
        raise RuntimeError("no luck")

    @model(retries=1, backoff=0)
    def asks() -> None:
        raise Retry("busy")

    @model(retries=9, max_crashes=1)
    def kills(itself: bool = True) -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    @model(retries=9)
    def kills_by_default() -> None:
        os.kill(os.getpid(), signal.SIGABRT)
"""


def run(service: Api, model: str, **body: Any) -> Any:
    return service.done(service.submit(model, **body)["id"], within=60)


def kinds(service: Api, job: Any) -> list[str]:
    return [event["type"] for event in service.log(job["id"])]


def told(service: Api, job: Any, kind: str) -> list[Any]:
    return [event["data"] for event in service.log(job["id"]) if event["type"] == kind]


def test_a_list_says_how_long_each_further_try_waits(service: Api) -> None:
    job = run(service, "fails")

    assert (job["status"], len(job["attempts"])) == ("failed", 4)
    assert [data["after"] for data in told(service, job, "retrying")] == [0, 1, 1]
    assert [data["retries_left"] for data in told(service, job, "retrying")] == [2, 1, 0]
    assert all(data["error"]["message"] == "RuntimeError: no luck" for data in told(service, job, "retrying"))
    assert [attempt["error"]["message"] for attempt in job["attempts"]] == 4 * ["RuntimeError: no luck"]


def test_without_a_word_a_try_waits_about_a_second(service: Api) -> None:
    job = run(service, "by_default")

    assert kinds(service, job) == ["queued", "started", "retrying", "scheduled", "queued", "started", "log", "failed"]
    assert 0.5 <= told(service, job, "retrying")[0]["after"] <= 1


def test_a_caller_chooses_retries_backoff_and_what_is_fatal(service: Api) -> None:
    patient = run(service, "fails", retries=1, backoff=0)
    none = run(service, "fails", retries=0)
    fatal = run(service, "fails", fatal=["KeyError", "RuntimeError"])
    other = run(service, "picky", input={"error": "TooLong"}, fatal=[], retries=1)

    assert kinds(service, patient) == ["queued", "started", "retrying", "queued", "started", "log", "failed"]
    assert len(none["attempts"]) == 1
    assert len(fatal["attempts"]) == 1
    assert len(other["attempts"]) == 2


def test_an_exception_that_is_fatal_for_the_model_is_not_tried_again(service: Api) -> None:
    assert len(run(service, "picky", input={"error": "TooLong"})["attempts"]) == 1
    assert len(run(service, "picky", input={"error": "KeyError"})["attempts"]) == 10


def test_a_model_that_asks_for_another_try_leaves_the_time_to_the_backoff(service: Api) -> None:
    job = run(service, "asks")

    assert kinds(service, job) == ["queued", "started", "retrying", "queued", "started", "log", "failed"]


def test_a_job_that_kills_its_process_is_tried_again_so_often_only(service: Api) -> None:
    job = run(service, "kills")
    by_default = run(service, "kills_by_default")

    assert job["error"]["type"] == by_default["error"]["type"] == "crashed"
    assert (len(job["attempts"]), len(by_default["attempts"])) == (2, 3)
    assert "signal 9 (SIGKILL)" in job["error"]["message"]
    assert job["error"]["message"].endswith("; it is not tried again: max_crashes is 1")
    assert "signal 6 (SIGABRT)" in by_default["error"]["message"]
    assert run(service, "asks")["status"] == "failed"  # the worker lives


def test_a_job_that_kills_its_worker_is_tried_again_so_often_only(deployed: Deployment) -> None:
    deployed.write("""
        import os
        import signal
        from service import model

        @model(retries=9, max_crashes=1)
        def kills_the_worker() -> None:
            os.kill(os.getppid(), signal.SIGKILL)
    """)
    deployed.worker("--count", "2")
    api = deployed.web()
    job = run(api, "kills_the_worker")

    assert job["error"]["type"] == "lost"
    assert job["error"]["message"].endswith("died while it ran the job; it is not tried again: max_crashes is 1")
    assert len(job["attempts"]) == 2


@pytest.mark.parametrize(
    ("body", "pointer"),
    [
        ({"retries": -1}, "#/retries"),
        ({"retries": 101}, "#/retries"),
        ({"retries": "2"}, "#/retries"),
        ({"backoff": -1}, "#/backoff"),
        ({"backoff": []}, "#/backoff"),
        ({"backoff": [1, -1]}, "#/backoff"),
        ({"backoff": "1s"}, "#/backoff"),
        ({"backoff": True}, "#/backoff"),
        ({"fatal": "ValueError"}, "#/fatal"),
        ({"fatal": ["not a name"]}, "#/fatal/0"),
    ],
)
def test_what_cannot_be_is_refused_and_pointed_at(service: Api, body: dict[str, Any], pointer: str) -> None:
    response = service.post("fails", **body)

    assert response.status_code == 422
    assert pointer in [error["pointer"] for error in response.json()["errors"]]


def test_a_model_says_how_its_jobs_are_tried_again(service: Api) -> None:
    model = service.http.get("/v1/models/picky").json()

    assert model["retries"] == 9
    assert model["backoff"] == 0
    assert model["fatal"] == ["ValueError", "OSError"]
    assert model["max_crashes"] == 2


def test_a_job_lost_with_its_worker_runs_again_within_15_seconds_with_the_default_lease(
    deployed: Deployment,
) -> None:
    deployed.write("""
        import time
        from service import model

        @model(retries=1)
        def long() -> None:
            time.sleep(60)
    """)
    api = deployed.web(LEASE="")
    first = deployed.worker(LEASE="")
    job = api.submit("long")
    api.started(job["id"])
    deployed.worker(LEASE="")

    first.send_signal(signal.SIGKILL)

    def runs_again() -> None:
        assert len(api.job(job["id"])["attempts"]) == 2

    eventually(runs_again, within=15)


def test_a_worker_whose_job_waits_for_its_next_try_is_idle(service: Api) -> None:
    job = service.submit("fails", backoff=60)
    until(lambda: service.job(job["id"])["status"] == "scheduled")

    def idle() -> bool:
        (worker,) = service.http.get("/v1/workers").json()["workers"]
        return bool(worker["state"] == "idle")

    until(idle)
