"""A deploy that changes a model: workers with different code of it serve its jobs at the same time."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import redis

from tests.deployment import Api, Deployment, eventually, until
from tests.noting import state

OLD = """
    from service import model

    @model
    def price(amount: int) -> str:
        return f"old {amount}"
"""
NEW = """
    from service import model

    @model
    def price(amount: int, currency: str) -> str:
        return f"new {amount} {currency}"
"""
NEWEST = NEW.replace("currency", "unit").replace("new ", "newest ")
BATCH = """
    from service import model

    @model(max_batch_size=4)
    def price(amount: list[int]) -> list[str]:
        return [f"old {each}" for each in amount]
"""
ASYNC = """
    from service import model

    @model(concurrency=4)
    async def price(amount: int, currency: str) -> str:
        return f"new {amount} {currency}"
"""


class Fleet:
    """Workers with code of their own."""

    def __init__(self, deployed: Deployment) -> None:
        self.deployed = deployed
        self.count = 0

    def worker(self, text: str, **environment: str) -> Any:
        self.count += 1
        jobs_dir = self.deployed.folder / f"jobs-{self.count}"
        jobs_dir.mkdir()
        kept, self.deployed.jobs_dir = self.deployed.jobs_dir, jobs_dir
        self.deployed.write(text)
        self.deployed.jobs_dir = kept
        return self.deployed.worker(JOBS_DIR=str(jobs_dir), **environment)


def ends(process: Any) -> None:
    process.terminate()
    assert process.wait(20) == 0


def waits_for_its_version(api: Api, job_id: str) -> Callable[[], Any]:
    def check() -> Any:
        job = api.job(job_id)
        assert job["status"] == "scheduled", job
        assert job["waits_for"]["version"] == job["version"]
        return job

    return check


def test_a_job_that_one_version_refuses_is_run_by_a_worker_with_its_own(deployed: Deployment) -> None:
    fleet = Fleet(deployed)
    fleet.worker(OLD)
    api = deployed.web()
    version = state(api, "price")["version"]
    fleet.worker(NEW)
    fleet.worker(NEWEST)

    # As from a web process that has read the older description, and queued before the deploy.
    jobs = [submit(deployed, version, {"amount": number}) for number in range(12)]

    for number, job_id in enumerate(jobs):
        job = api.done(job_id)
        assert (job["status"], job["output"]) == ("finished", f"old {number}"), job
        assert [(attempt["number"], attempt["version"]) for attempt in job["attempts"]] == [(1, version)]
        begun = [event for event in api.log(job_id) if event["type"] == "started"]
        assert len(begun) <= 2


def test_batches_and_async_models_give_back_what_they_refuse(deployed: Deployment) -> None:
    fleet = Fleet(deployed)
    fleet.worker(BATCH)
    api = deployed.web()
    version = state(api, "price")["version"]
    fleet.worker(ASYNC)

    jobs = [submit(deployed, version, {"amount": number}) for number in range(8)]
    new = state(api, "price")["version"]
    others = [submit(deployed, new, {"amount": number, "currency": "EUR"}) for number in range(8)]

    assert [api.done(job)["output"] for job in jobs] == [f"old {number}" for number in range(8)]
    assert [api.done(job)["output"] for job in others] == [f"new {number} EUR" for number in range(8)]


def test_an_input_that_the_own_version_refuses_fails_at_once(deployed: Deployment) -> None:
    fleet = Fleet(deployed)
    fleet.worker(OLD)
    api = deployed.web()

    job = api.done(submit(deployed, state(api, "price")["version"], {"amount": "none"}))

    assert (job["status"], job["error"]["type"]) == ("failed", "invalid_input")


def test_a_job_whose_version_nobody_serves_says_so_and_is_run_when_it_is_back(deployed: Deployment) -> None:
    fleet = Fleet(deployed)
    old = fleet.worker(OLD)
    api = deployed.web()
    job_id = None
    version = state(api, "price")["version"]
    ends(old)
    new = fleet.worker(NEW)
    job_id = submit(deployed, version, {"amount": 1})

    job = eventually(waits_for_its_version(api, job_id))
    assert version in job["waits_for"]["reason"]
    assert job["attempts"] == []
    last = api.log(job_id)[-1]
    assert (last["type"], last["data"]["waits_for"]) == ("scheduled", {"version": version})
    assert f"version={version}" in new.log.read_text()
    assert api.http.get("/v1/jobs").json()["jobs"][0]["waits_for"]["version"] == version

    fleet.worker(OLD)

    assert api.done(job_id)["output"] == "old 1"


def test_a_job_whose_version_never_comes_back_fails_as_invalid_input_in_the_end(deployed: Deployment) -> None:
    fleet = Fleet(deployed)
    fleet.worker(NEW, VERSION_WAIT="1")
    fleet.worker(NEWEST, VERSION_WAIT="1")
    api = deployed.web()
    job_id = submit(deployed, "gone", {"amount": 1})

    job = api.done(job_id)

    assert (job["status"], job["error"]["type"]) == ("failed", "invalid_input")
    assert len(job["attempts"]) == 1
    assert sum(event["type"] == "started" for event in api.log(job_id)) == 2


def test_a_job_that_waits_for_its_version_keeps_its_start_timeout_and_can_be_canceled(deployed: Deployment) -> None:
    fleet = Fleet(deployed)
    fleet.worker(NEW)
    api = deployed.web()
    late = submit(deployed, "gone", {"amount": 1}, start_timeout=3)
    canceled = submit(deployed, "gone", {"amount": 2})
    for job_id in (late, canceled):
        eventually(waits_for_its_version(api, job_id))

    assert api.cancel(canceled).json()["status"] == "canceled"

    job = api.done(late)
    assert (job["status"], job["error"]["type"]) == ("failed", "expired")


def test_after_a_rollback_what_is_published_is_what_is_served(deployed: Deployment) -> None:
    fleet = Fleet(deployed)
    fleet.worker(OLD)
    api = deployed.web()
    version = state(api, "price")["version"]
    new = fleet.worker(NEW)
    until(lambda: state(api, "price")["version"] != version)

    ends(new)

    until(lambda: state(api, "price")["version"] == version)
    assert api.submit("price", wait=10, input={"amount": 1})["output"] == "old 1"


def submit(deployed: Deployment, version: str, value: dict[str, Any], start_timeout: int | None = None) -> str:
    """Accept a job by a version of the model, whatever is published now."""
    from service.settings import Settings
    from service.store.jobs import Jobs, Submission

    with redis.Redis.from_url(deployed.redis_url) as client:
        submission = Submission("price", version, value, timeout=30, start_timeout=start_timeout)
        return Jobs(client, Settings()).submit(submission).id


def test_a_version_that_is_a_number_is_one(deployed: Deployment) -> None:
    fleet = Fleet(deployed)
    fleet.worker(OLD.replace("@model", "@model(version=1)"))
    api = deployed.web()
    fleet.worker(NEW.replace("@model", "@model(version=2)"))
    until(lambda: state(api, "price")["version"] == "2")

    old = [submit(deployed, "1", {"amount": number}) for number in range(6)]
    wrong = submit(deployed, "2", {"amount": 1, "currency": 5})

    assert [api.done(job_id)["output"] for job_id in old] == [f"old {number}" for number in range(6)]
    assert api.done(wrong)["status"] == "failed"


WARM = """
    import os
    from service import model

    @model
    class Price:
        def setup(self) -> None: ...

        def predict(self, amount: int) -> str:
            return f"old {amount}"
"""


@pytest.mark.parametrize("trouble", ['raise RuntimeError("no weights")', "os._exit(7)"])
def test_a_worker_that_cannot_set_a_model_up_leaves_its_jobs_to_one_that_can(
    deployed: Deployment, trouble: str
) -> None:
    fleet = Fleet(deployed)
    fleet.worker(WARM)
    api = deployed.web()
    until(lambda: state(api, "price")["state"] == "ready", 30)
    fleet.worker(WARM.replace("None: ...", f"None: {trouble}"))
    unable = fleet.deployed.processes[-1]
    until(lambda: "setup failed" in unable.log.read_text(), 30)  # type: ignore[attr-defined]

    jobs = [api.submit("price", input={"amount": number})["id"] for number in range(20)]
    assert [api.done(job)["output"] for job in jobs] == [f"old {number}" for number in range(20)]
