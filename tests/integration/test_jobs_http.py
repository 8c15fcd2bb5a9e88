"""Jobs over HTTP, on a running service."""

from __future__ import annotations

import json
import os
import shutil
import signal
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from pathlib import Path
from typing import Any
from unittest.mock import ANY

import pytest
import redis
from rq import Queue
from rq.job import Job
from rq.serializers import JSONSerializer

from service.embedded import EmbeddedRedis, binary
from tests.deployment import Api, deployment, eventually
from tests.suspension import suspended

MODELS = """
    import time
    from typing import Any
    from service import model, progress, Fatal, Retry

    @model(timeout=30)
    def add(x: int, y: int, seconds: float = 0) -> int:
        "Add two integers."
        for _ in progress(range(10)):
            time.sleep(seconds / 10)
        return x + y

    @model
    def echo(value: Any = None) -> Any:
        return value

    @model
    def takes(value: Any) -> None:
        pass

    @model
    def listed(value: int = 0) -> int:
        return value

    @model
    def measured() -> None:
        progress.update(0.5, message="half", loss=0.25, step=1)

    @model(retries=1)
    def fails() -> None:
        raise ValueError("no luck")

    @model(retries=1)
    def comes_back_later() -> None:
        raise Retry("busy", after=60)

    @model
    def stubborn() -> None:
        while True:
            try:
                time.sleep(60)
            except BaseException:
                pass
"""

FIELDS = {
    *("id", "model", "version", "status", "done", "input", "output", "error", "progress", "metrics", "priority"),
    *("position", "attempts", "cancellation", "timeout", "metadata", "webhook", "created_at"),
    *("scheduled_at", "started_at", "ended_at", "urls"),
}


@pytest.fixture(scope="module")
def abandoned(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Api]:
    """A service whose only worker has ended: its models are published, and nobody serves them."""
    folder = tmp_path_factory.mktemp("abandoned")
    executable = shutil.which(os.environ.get("TEST_REDIS_SERVER", "")) or binary()
    with EmbeddedRedis(folder / "redis", executable) as server, deployment(folder, server.url) as each:
        each.write(MODELS)
        worker = each.worker()
        worker.send_signal(signal.SIGTERM)
        worker.wait(timeout=20)
        yield each.web()


def moment(text: str) -> datetime:
    assert text.endswith("Z"), text
    return datetime.fromisoformat(text)


def listing(api: Api, **parameters: Any) -> Any:
    response = api.http.get("/v1/jobs", params=parameters)
    assert response.status_code == 200, response.text
    return response.json()


def pages(api: Api, **parameters: Any) -> Iterator[list[str]]:
    """The ids on each page, to the last."""
    while True:
        page = listing(api, **parameters)
        yield [job["id"] for job in page["jobs"]]
        if page["next"] is None:
            return
        parameters["cursor"] = page["next"]


# --- submit and read ------------------------------------------------------------------------------


def test_a_submitted_job_finishes_with_its_output(service: Api) -> None:
    job = service.submit("add", input={"x": 1, "y": 2})

    done = service.done(job["id"])

    assert done["status"] == "finished"
    assert done["output"] == 3


def test_a_submit_answers_202_with_the_way_to_the_job(service: Api) -> None:
    with suspended(service):
        response = service.post("add", input={"x": 1, "y": 2})

        job = response.json()
        assert response.status_code == 202
        assert response.headers["Content-Type"] == "application/json"
        assert response.headers["Location"] == job["urls"]["self"] == f"/v1/jobs/{job['id']}"
        assert int(response.headers["Retry-After"]) >= 1
        assert service.http.get(response.headers["Location"]).json() == job
        service.cancel(job["id"])


def test_a_submit_that_does_not_wait_answers_202_however_quick_the_job_is(service: Api) -> None:
    assert {service.post("echo").status_code for _ in range(50)} == {202}


def test_a_queued_job_shows_all_that_was_asked_for(service: Api) -> None:
    with suspended(service):
        job = service.submit("add", input={"x": 1, "y": 2}, priority="high", timeout=7, metadata={"user": 7})

        assert set(job) == FIELDS
        assert (job["model"], job["status"], job["done"]) == ("add", "queued", False)
        assert job["input"] == {"x": 1, "y": 2}
        assert (job["priority"], job["timeout"], job["metadata"]) == ("high", 7, {"user": 7})
        assert job["output"] is job["error"] is job["progress"] is job["cancellation"] is None
        assert job["started_at"] is job["ended_at"] is None
        assert job["attempts"] == []
        service.cancel(job["id"])


def test_a_running_job_shows_who_runs_it_and_how_far_it_is(service: Api) -> None:
    job = service.submit("add", input={"x": 1, "y": 2, "seconds": 20})

    def progressed() -> Any:
        now = service.job(job["id"])
        assert now["progress"] is not None
        return now

    running = eventually(progressed)
    assert (running["status"], running["done"], running["position"]) == ("started", False, None)
    assert set(running["progress"]) == {"index", "length", "fraction", "unit", "message"}
    assert running["progress"]["length"] == 10
    (attempt,) = running["attempts"]
    assert attempt["number"] == 1
    assert attempt["worker"]
    assert attempt["ended_at"] is attempt["error"] is None
    service.cancel(job["id"])
    service.done(job["id"])


def test_a_finished_job_shows_when_each_thing_happened(service: Api) -> None:
    job = service.submit("add", wait=10, input={"x": 1, "y": 2})

    assert moment(job["created_at"]) <= moment(job["started_at"]) <= moment(job["ended_at"])
    (attempt,) = job["attempts"]
    assert set(attempt) == {"number", "worker", "version", "started_at", "ended_at", "error"}
    assert moment(attempt["started_at"]) <= moment(attempt["ended_at"])
    assert job["progress"] == {"index": 10, "length": 10, "fraction": 1.0, "unit": "it", "message": None}


def test_a_job_looks_the_same_in_every_answer(service: Api) -> None:
    submitted = service.submit("add", wait=10, input={"x": 1, "y": 2}, metadata=[1, "é"])

    listing_of_all = listing(service, model="add", include="input,output")
    (listed,) = [job for job in listing_of_all["jobs"] if job["id"] == submitted["id"]]
    events, _, _ = service.watch(submitted["urls"]["events"])
    assert service.job(submitted["id"]) == submitted
    assert service.cancel(submitted["id"]).json() == submitted
    assert listed == {**submitted, "left_out": []}
    assert events[0]["data"] == {**submitted, "outputs": []}


def test_metrics_and_messages_of_a_job_stay_when_it_is_over(service: Api) -> None:
    job = service.submit("measured", wait=10)

    assert job["progress"]["fraction"] == 0.5
    assert job["progress"]["message"] == "half"
    assert job["metrics"] == {"loss": 0.25, "step": 1}


def test_a_failed_job_shows_its_error_and_each_attempt(service: Api) -> None:
    job = service.submit("fails")

    failed = service.done(job["id"])

    assert (failed["status"], failed["output"]) == ("failed", None)
    assert failed["error"]["type"] == "model_error"
    assert "no luck" in failed["error"]["message"]
    assert [attempt["number"] for attempt in failed["attempts"]] == [1, 2]
    assert all("no luck" in attempt["error"]["message"] for attempt in failed["attempts"])


@pytest.mark.parametrize(
    "value",
    [
        "grüß 東京 🚀",
        "\ud800",
        "nothing\x00more",
        int("9" * 4000),
        -1.5e308,
        ["\u2028", "</script>", None, True],
    ],
    ids=["non-ASCII", "surrogate", "null byte", "huge integer", "huge float", "mixed"],
)
def test_input_output_and_metadata_come_back_as_they_were_given(service: Api, value: Any) -> None:
    body = json.dumps({"input": {"value": value}, "metadata": value})  # httpx cannot encode a lone surrogate
    headers = {"Content-Type": "application/json", "Prefer": "wait=10"}

    response = service.http.post("/v1/models/echo/jobs", content=body, headers=headers)

    job = response.json()
    assert response.status_code == 200, response.text
    assert job["input"] == {"value": value}
    assert job["output"] == job["metadata"] == value


def test_keys_that_are_no_unicode_text_come_back_as_they_were_given(service: Api) -> None:
    value = {"\ud800": "\udfff"}
    body = json.dumps({"input": {"value": value}, "metadata": value})

    response = service.http.post("/v1/models/takes/jobs", content=body, headers={"Content-Type": "application/json"})

    job = service.done(response.json()["id"])
    assert job["status"] == "finished", job["error"]
    assert job["input"] == {"value": value}
    assert job["metadata"] == value


def test_a_job_that_runs_for_longer_than_its_timeout_fails(service: Api) -> None:
    job = service.submit("add", input={"x": 1, "y": 2, "seconds": 60}, timeout=1)

    failed = service.done(job["id"])

    assert (failed["status"], failed["error"]["type"], failed["timeout"]) == ("failed", "timeout", 1)


def test_higher_priorities_start_first(service: Api) -> None:
    with suspended(service):
        jobs = [service.submit("echo", priority=priority) for priority in ("low", "default", "high")]

    started = {}
    for job in jobs:
        service.done(job["id"])
        (event,) = [event for event in service.log(job["id"]) if event["type"] == "started"]
        milliseconds, sequence = map(int, event["id"].split("-"))
        started[job["priority"]] = (milliseconds, sequence, event["time"])
    assert started["high"] <= started["default"] <= started["low"]


def test_position_counts_the_jobs_ahead(service: Api) -> None:
    with suspended(service):
        jobs = [service.submit("echo") for _ in range(3)]

        assert [service.job(job["id"])["position"] for job in jobs] == [0, 1, 2]
        service.cancel(jobs[0]["id"])
        assert [service.job(job["id"])["position"] for job in jobs] == [None, 0, 1]
    assert service.done(jobs[2]["id"])["position"] is None


@pytest.mark.parametrize("job_id", ["unknown", "a%3Ab", "%00", "%ED%A0%80", "caf%C3%A9", "*", "a" * 3000])
def test_an_id_that_was_never_given_is_404(service: Api, job_id: str) -> None:
    for method, path in [("GET", ""), ("GET", "/result"), ("GET", "/events"), ("POST", "/cancel"), ("DELETE", "")]:
        response = service.http.request(method, f"/v1/jobs/{job_id}{path}")

        assert response.status_code == 404, (method, path, response.text)
        assert response.json()["type"] == "/problems/job-not-found"


@pytest.mark.parametrize("path", ["/v1/jobs/..%2f", "/v1/jobs/..%2fmodels", "/v1/jobs/a/b", "/v1/jobs/a/"])
def test_a_path_that_names_no_job_is_404(service: Api, path: str) -> None:
    assert service.http.get(path).status_code == 404


def test_an_id_that_names_another_key_of_redis_is_404(service: Api) -> None:
    with suspended(service):
        job = service.submit("echo")
        with redis.Redis.from_url(service.redis_url) as connection:  # type: ignore[attr-defined]
            first = Job.fetch(job["id"], connection=connection, serializer=JSONSerializer)
            queue = Queue("elsewhere", connection=connection, serializer=JSONSerializer)
            queue.enqueue("operator.add", 1, 2, depends_on=first)  # RQ keeps this in rq:job:<id>:dependents

        response = service.http.get(f"/v1/jobs/{job['id']}:dependents")

        service.cancel(job["id"])
    assert response.status_code == 404, response.text


def test_head_answers_as_get_without_a_body(service: Api) -> None:
    job = service.submit("echo", wait=10)

    for path in (job["urls"]["self"], job["urls"]["result"], "/v1/jobs", "/v1/jobs/unknown"):
        get, head = service.http.get(path), service.http.head(path)

        assert (head.status_code, head.content) == (get.status_code, b"")
        assert head.headers["Content-Type"] == get.headers["Content-Type"]


# --- waiting --------------------------------------------------------------------------------------


def test_a_submit_that_waits_answers_200_with_the_output(service: Api) -> None:
    response = service.post("add", wait=10, input={"x": 1, "y": 2})

    assert response.status_code == 200
    assert response.headers["Preference-Applied"] == "wait=10"
    assert "Location" in response.headers
    assert "Retry-After" not in response.headers
    assert (response.json()["status"], response.json()["output"]) == ("finished", 3)


def test_a_submit_that_waits_in_vain_answers_202(service: Api) -> None:
    with suspended(service):
        response = service.post("echo", wait=0.2)

        assert response.status_code == 202
        assert (response.json()["status"], response.json()["done"]) == ("queued", False)
        assert "Retry-After" in response.headers
        service.cancel(response.json()["id"])


def test_a_submit_never_answers_200_without_an_output(service: Api) -> None:
    response = service.post("fails", wait=10)

    job = response.json()
    assert response.status_code == 202
    assert (job["status"], job["done"]) == ("failed", True)


def test_a_wait_is_capped_at_max_wait(service: Api, tmp_path: Path) -> None:
    with deployment(tmp_path, service.redis_url) as each, suspended(service):  # type: ignore[attr-defined]
        impatient = each.web(MAX_WAIT="0.5")
        began = time.monotonic()

        response = impatient.post("echo", wait=30)

        assert time.monotonic() - began < 15
        assert response.status_code == 202
        assert response.headers["Preference-Applied"] == "wait=0.5"
        service.cancel(response.json()["id"])


@pytest.mark.parametrize("way", ["parameter", "header"])
def test_a_long_poll_answers_as_soon_as_the_job_is_done(service: Api, way: str) -> None:
    job = service.submit("add", input={"x": 1, "y": 2, "seconds": 0.5})
    began = time.monotonic()

    if way == "header":
        response = service.http.get(job["urls"]["self"], headers={"Prefer": "wait=25"})
    else:
        response = service.http.get(job["urls"]["self"], params={"wait": 25})

    assert time.monotonic() - began < 15
    assert (response.status_code, response.json()["output"]) == (200, 3)
    assert response.headers.get("Preference-Applied") == ("wait=25" if way == "header" else None)


def test_many_long_polls_of_one_job_are_answered_together(service: Api) -> None:
    job = service.submit("add", input={"x": 1, "y": 2, "seconds": 0.5})

    with ThreadPoolExecutor(30) as pool:
        answers = list(pool.map(lambda _: service.done(job["id"]), range(30)))

    assert answers == [answers[0]] * 30
    assert answers[0]["output"] == 3


def test_a_long_poll_of_a_pending_job_ends_with_the_job_as_it_is(service: Api) -> None:
    with suspended(service):
        job = service.submit("echo")

        response = service.http.get(job["urls"]["self"], params={"wait": "0.2"})

        assert response.status_code == 200
        assert response.json()["status"] == "queued"
        assert "Retry-After" in response.headers
        service.cancel(job["id"])


def test_the_first_of_two_wait_preferences_counts(service: Api) -> None:
    job = service.submit("echo", wait=10)
    headers = [("Prefer", "respond-async"), ("Prefer", "wait=3"), ("Prefer", "wait=9")]

    response = service.http.get(job["urls"]["self"], headers=headers)

    assert response.headers["Preference-Applied"] == "wait=3"


def test_a_preference_that_cannot_be_understood_is_ignored(service: Api) -> None:
    # RFC 7240, section 2: a server "MUST ignore those tokens and continue processing instead of signaling an error".
    response = service.post("echo", headers={"Prefer": "wait=soon"})

    assert response.is_success, response.text
    assert "Preference-Applied" not in response.headers


def test_a_job_that_has_not_changed_is_304(service: Api) -> None:
    job = service.submit("echo", wait=10)
    etag = service.http.get(job["urls"]["self"]).headers["ETag"]

    response = service.http.get(job["urls"]["self"], headers={"If-None-Match": etag})

    assert (response.status_code, response.content) == (304, b"")
    assert response.headers["ETag"] == etag


def test_a_job_that_has_changed_has_another_etag(service: Api) -> None:
    with suspended(service):
        job = service.submit("echo")
        etag = service.http.get(job["urls"]["self"]).headers["ETag"]
    service.done(job["id"])

    response = service.http.get(job["urls"]["self"], headers={"If-None-Match": etag})

    assert response.status_code == 200
    assert response.headers["ETag"] != etag


def test_only_a_pending_job_says_when_to_ask_again(service: Api) -> None:
    with suspended(service):
        job = service.submit("echo")
        assert int(service.http.get(job["urls"]["self"]).headers["Retry-After"]) >= 1
    service.done(job["id"])

    assert "Retry-After" not in service.http.get(job["urls"]["self"]).headers


# --- result ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("output", [{"a": [1, "é"]}, 0, "", None, False])
def test_the_result_of_a_finished_job_is_its_output_alone(service: Api, output: Any) -> None:
    job = service.submit("echo", wait=10, input={"value": output})

    response = service.http.get(job["urls"]["result"])

    assert response.status_code == 200
    assert response.headers["Content-Type"] == "application/json"
    assert response.json() == output


def test_the_result_of_a_pending_job_is_202_with_the_job(service: Api) -> None:
    with suspended(service):
        job = service.submit("echo")

        response = service.http.get(job["urls"]["result"])

        assert response.status_code == 202
        assert response.json()["id"] == job["id"]
        assert "Retry-After" in response.headers
        service.cancel(job["id"])


def test_the_result_can_be_waited_for(service: Api) -> None:
    job = service.submit("add", input={"x": 1, "y": 2, "seconds": 0.3})

    response = service.http.get(job["urls"]["result"], params={"wait": 20})

    assert (response.status_code, response.json()) == (200, 3)


def test_a_failed_job_has_no_result(service: Api) -> None:
    job = service.submit("fails", wait=10)

    response = service.http.get(job["urls"]["result"])

    assert response.status_code == 409
    assert response.headers["Content-Type"] == "application/problem+json"
    assert "no luck" in response.json()["detail"]


def test_a_canceled_job_has_no_result(service: Api) -> None:
    with suspended(service):
        job = service.submit("echo")
        service.cancel(job["id"])

    response = service.http.get(job["urls"]["result"])

    assert response.status_code == 409
    assert "canceled" in response.json()["detail"]


def test_an_output_larger_than_an_event_may_be_is_in_the_job_and_its_result(service: Api) -> None:
    text = "é" * 100_000
    job = service.submit("echo", wait=10, input={"value": text})

    assert job["output"] == text
    assert service.http.get(job["urls"]["result"]).json() == text


# --- cancel ---------------------------------------------------------------------------------------


def test_a_queued_job_is_canceled_at_once(service: Api) -> None:
    with suspended(service):
        job = service.submit("echo")

        response = service.cancel(job["id"])

    canceled = response.json()
    assert response.status_code == 200
    assert (canceled["status"], canceled["done"], canceled["position"]) == ("canceled", True, None)
    assert canceled["cancellation"]["mode"] == "dequeued"
    assert moment(canceled["cancellation"]["requested_at"]) <= moment(canceled["cancellation"]["acknowledged_at"])
    assert moment(canceled["ended_at"])
    assert canceled["attempts"] == []


def test_a_scheduled_job_is_canceled_at_once(service: Api) -> None:
    job = service.submit("comes_back_later")

    def scheduled() -> None:
        assert service.job(job["id"])["status"] == "scheduled"

    eventually(scheduled)
    response = service.cancel(job["id"])
    assert response.status_code == 200
    assert response.json()["status"] == "canceled"
    assert response.json()["cancellation"]["mode"] == "dequeued"
    assert len(response.json()["attempts"]) == 1


def test_a_running_job_is_asked_to_stop_and_ends_stopped(service: Api) -> None:
    job = service.submit("add", input={"x": 1, "y": 2, "seconds": 25})
    service.started(job["id"])

    response = service.cancel(job["id"])
    stopped = service.done(job["id"])

    assert response.status_code == 202
    assert response.json()["cancellation"]["requested_at"]
    assert (stopped["status"], stopped["output"]) == ("stopped", None)
    assert stopped["cancellation"]["mode"] == "cooperative"
    assert moment(stopped["cancellation"]["requested_at"]) <= moment(stopped["cancellation"]["acknowledged_at"])
    assert service.http.get(job["urls"]["result"]).status_code == 409


def test_a_job_that_will_not_stop_is_killed(service: Api) -> None:
    job = service.submit("stubborn")
    service.started(job["id"])

    service.cancel(job["id"])
    stopped = service.done(job["id"])

    assert (stopped["status"], stopped["cancellation"]["mode"]) == ("stopped", "killed")


def test_the_time_of_the_first_request_to_cancel_is_kept(service: Api) -> None:
    job = service.submit("stubborn")
    service.started(job["id"])

    first = service.cancel(job["id"]).json()["cancellation"]["requested_at"]
    service.cancel(job["id"])

    assert service.done(job["id"])["cancellation"]["requested_at"] == first


def test_a_cancel_of_a_job_that_is_over_changes_nothing(service: Api) -> None:
    job = service.submit("echo", wait=10)

    responses = [service.cancel(job["id"]) for _ in range(2)]

    assert [response.status_code for response in responses] == [200, 200]
    assert [response.json() for response in responses] == [job, job]
    assert job["cancellation"] is None


def test_a_canceled_job_stays_canceled_when_workers_go_on(service: Api) -> None:
    with suspended(service):
        job = service.submit("echo")
        service.cancel(job["id"])
        later = service.submit("echo")

    service.done(later["id"])
    assert service.job(job["id"])["status"] == "canceled"
    assert service.cancel(job["id"]).status_code == 200


# --- erase and expire -----------------------------------------------------------------------------


def test_an_erased_job_is_gone_everywhere(service: Api) -> None:
    job = service.submit("listed", wait=10)

    response = service.http.delete(job["urls"]["self"])

    assert (response.status_code, response.content) == (204, b"")
    for method, path in [("GET", ""), ("GET", "/result"), ("GET", "/events"), ("POST", "/cancel"), ("DELETE", "")]:
        gone = service.http.request(method, job["urls"]["self"] + path)
        assert (gone.status_code, gone.json()["type"]) == (410, "/problems/job-gone")
    assert job["id"] not in [each["id"] for each in listing(service, model="listed")["jobs"]]


def test_a_job_that_is_not_over_cannot_be_erased(service: Api) -> None:
    with suspended(service):
        job = service.submit("echo")

        response = service.http.delete(job["urls"]["self"])

    assert response.status_code == 409
    assert response.json()["type"] == "/problems/job-not-done"
    assert service.done(job["id"])["status"] == "finished"


def test_a_job_is_gone_when_its_result_ttl_has_passed(service: Api) -> None:
    job = service.submit("listed", wait=10, result_ttl=1)
    assert job["status"] == "finished"

    def gone() -> None:
        assert service.http.get(job["urls"]["self"]).status_code == 410

    eventually(gone)
    assert service.http.get(job["urls"]["events"]).status_code == 410
    assert job["id"] not in [each["id"] for each in listing(service, model="listed")["jobs"]]


def test_a_job_that_waits_for_longer_than_its_start_timeout_expires(service: Api) -> None:
    with suspended(service):
        job = service.submit("echo", start_timeout=1)

        expired = service.done(job["id"])

    assert (expired["status"], expired["error"]["type"]) == ("failed", "expired")
    assert expired["attempts"] == []
    assert expired["started_at"] is None


def test_a_job_that_starts_in_time_does_not_expire(service: Api) -> None:
    job = service.submit("add", input={"x": 1, "y": 2, "seconds": 1.5}, start_timeout=1)

    assert service.done(job["id"])["status"] == "finished"


def test_a_job_expires_for_its_reader_while_no_worker_runs(abandoned: Api) -> None:
    job = abandoned.submit("echo", start_timeout=1)

    def expired() -> None:
        now = abandoned.job(job["id"])
        assert (now["status"], now["error"]) == ("failed", {"type": "expired", "message": ANY})

    eventually(expired)
    assert abandoned.log(job["id"])[-1]["type"] == "failed"


def test_a_job_expires_for_its_watcher_while_no_worker_runs(abandoned: Api) -> None:
    job = abandoned.submit("echo", start_timeout=1)

    events, code, _ = abandoned.watch(job["urls"]["events"])

    assert [event["type"] for event in events] == ["snapshot", "failed"]
    assert events[-1]["data"]["error"]["type"] == "expired"
    assert code == 1000


def test_a_list_shows_a_job_as_expired_while_no_worker_runs(abandoned: Api) -> None:
    job = abandoned.submit("listed", start_timeout=1)

    def expired() -> None:
        (found,) = listing(abandoned, model="listed")["jobs"]
        assert (found["id"], found["status"]) == (job["id"], "failed")

    eventually(expired, within=3)


# --- list -----------------------------------------------------------------------------------------


def test_jobs_are_listed_newest_first_in_pages_without_gap_or_repeat(service: Api) -> None:
    ids = [service.submit("listed", input={"value": number})["id"] for number in range(7)]

    found = [page for page in pages(service, model="listed", limit=3)]

    assert [job_id for page in found for job_id in page][:7] == ids[::-1]
    assert all(len(page) == 3 for page in found[:-1])
    listed = [job_id for page in found for job_id in page]
    assert len(listed) == len(set(listed))


def test_the_last_page_that_is_full_has_no_next(service: Api) -> None:
    everything = [job_id for page in pages(service, model="listed", limit=100) for job_id in page]
    service.submit("listed")

    exactly = listing(service, model="listed", limit=len(everything) + 1)

    assert len(exactly["jobs"]) == len(everything) + 1
    assert exactly["next"] is None


def test_a_job_submitted_between_two_pages_repeats_nothing(service: Api) -> None:
    older = [service.submit("listed")["id"] for _ in range(4)]
    first = listing(service, model="listed", limit=2)
    service.submit("listed")

    second = listing(service, model="listed", limit=2, cursor=first["next"])

    assert [job["id"] for job in first["jobs"] + second["jobs"]] == older[::-1]


def test_a_job_erased_between_two_pages_hides_no_other(service: Api) -> None:
    older = [service.submit("listed", wait=10)["id"] for _ in range(4)]
    first = listing(service, model="listed", limit=2)
    service.http.delete(f"/v1/jobs/{older[2]}")  # the last of the first page, which the cursor names

    second = listing(service, model="listed", limit=2, cursor=first["next"])

    assert [job["id"] for job in second["jobs"]] == [older[1], older[0]]


def test_a_list_is_limited_to_statuses_and_a_model(service: Api) -> None:
    finished = service.submit("listed", wait=10)["id"]
    with suspended(service):
        waiting = service.submit("listed")["id"]
        other = service.submit("echo")["id"]

        queued = [job["id"] for job in listing(service, status="queued", limit=100)["jobs"]]
        of_model = [job["id"] for job in listing(service, status="queued", model="listed", limit=100)["jobs"]]
        both = [job["id"] for job in listing(service, status="queued,finished", model="listed", limit=2)["jobs"]]

        assert queued == [other, waiting]
        assert of_model == [waiting]
        assert both == [waiting, finished]
        assert listing(service, status="stopped", model="listed") == {"jobs": [], "next": None}


# --- what RQ's tools do to a job ------------------------------------------------------------------


def test_a_failed_job_that_is_requeued_ends_again(service: Api) -> None:
    job = service.done(service.submit("fails")["id"])
    with redis.Redis.from_url(service.redis_url) as connection:  # type: ignore[attr-defined]
        Job.fetch(job["id"], connection=connection, serializer=JSONSerializer).requeue()

    def ended_again() -> Any:
        again = service.done(job["id"])
        assert len(again["attempts"]) == 3
        return again

    again = eventually(ended_again)
    assert (again["status"], again["error"]["type"]) == ("failed", "model_error")
    assert moment(again["ended_at"]) > moment(job["ended_at"])
