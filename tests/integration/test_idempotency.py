"""The same submission twice is one job: by an Idempotency-Key, or by an id that the caller chooses."""

from __future__ import annotations

import json
import uuid
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest
import redis

from tests.deployment import Api, deployment, until
from tests.suspension import suspended

MODELS = """
    from service import model

    @model
    def add(x: int, y: int) -> int:
        return x + y

    @model
    def double(x: int, y: int = 0) -> int:
        return 2 * x
"""

INPUT = {"x": 1, "y": 2}


def keyed(key: str) -> dict[str, str]:
    return {"Idempotency-Key": key}


def fresh() -> str:
    return uuid.uuid4().hex


def put(api: Api, job_id: str, wait: float | None = None, **body: Any) -> httpx.Response:
    headers = {} if wait is None else {"Prefer": f"wait={wait}"}
    return api.http.put(f"/v1/jobs/{job_id}", json={"model": "add", "input": INPUT, **body}, headers=headers)


def count(api: Api) -> int:
    """How many jobs there are."""
    with redis.Redis.from_url(api.redis_url) as connection:  # type: ignore[attr-defined]
        return int(connection.zcard("service:jobs"))


# --- Idempotency-Key ------------------------------------------------------------------------------


def test_the_same_key_and_body_give_the_same_job(service: Api) -> None:
    key = keyed(fresh())

    first = service.post("add", headers=key, input=INPUT)
    again = service.post("add", wait=10, headers=key, input=INPUT)

    assert first.json()["id"] == again.json()["id"]
    assert first.headers["Location"] == again.headers["Location"]
    assert "Idempotent-Replayed" not in first.headers
    assert again.headers["Idempotent-Replayed"] == "true"
    assert (again.status_code, again.json()["output"]) == (200, 3)


def test_a_key_in_quotes_is_the_key_without_them(service: Api) -> None:
    key = fresh()

    jobs = [service.submit("add", headers=keyed(text), input=INPUT) for text in (key, f'"{key}"')]

    assert jobs[0]["id"] == jobs[1]["id"]


def test_the_order_and_the_spacing_of_fields_make_no_other_body(service: Api) -> None:
    headers = {**keyed(fresh()), "Content-Type": "application/json"}
    bodies = ['{"input": {"x": 1, "y": 2}, "priority": "high"}', '{"priority":"high","input":{"y":2,"x":1}}']

    answers = [service.http.post("/v1/models/add/jobs", content=body, headers=headers) for body in bodies]

    assert answers[0].json()["id"] == answers[1].json()["id"]


@pytest.mark.parametrize(
    ("model", "body"),
    [("add", {"input": {"x": 1, "y": 3}}), ("add", {"input": INPUT, "priority": "low"}), ("double", {"input": INPUT})],
)
def test_the_same_key_with_something_else_is_refused_and_nothing_is_queued(
    service: Api, model: str, body: dict[str, Any]
) -> None:
    key = keyed(fresh())
    service.submit("add", wait=10, headers=key, input=INPUT)
    before = count(service)

    answer = service.post(model, headers=key, **body)

    assert (answer.status_code, answer.json()["type"]) == (422, "/problems/idempotency-key-reused")
    assert count(service) == before


def test_a_request_that_was_refused_leaves_its_key_free(service: Api) -> None:
    key = keyed(fresh())

    assert service.post("add", headers=key, input={"x": "one"}).status_code == 422
    assert service.post("add", headers=key, input=INPUT).status_code == 202


def test_a_hundred_submits_at_once_with_one_key_are_one_job(service: Api) -> None:
    key, before = keyed(fresh()), count(service)

    with suspended(service), ThreadPoolExecutor(20) as pool:
        answers = list(pool.map(lambda _: service.post("add", headers=key, input=INPUT), range(100)))

    assert {answer.status_code for answer in answers} == {202}
    assert len({answer.json()["id"] for answer in answers}) == 1
    assert ["Idempotent-Replayed" in answer.headers for answer in answers].count(False) == 1
    assert count(service) == before + 1


def test_a_key_is_known_to_every_web_process(service: Api, tmp_path: Path) -> None:
    key = keyed(fresh())
    with deployment(tmp_path, service.redis_url) as each:  # type: ignore[attr-defined]
        other = each.web()

        jobs = [api.submit("add", headers=key, input=INPUT) for api in (service, other)]

    assert jobs[0]["id"] == jobs[1]["id"]


def test_a_key_is_forgotten_after_its_time(service: Api, tmp_path: Path) -> None:
    key = keyed(fresh())
    with deployment(tmp_path, service.redis_url, IDEMPOTENCY_TTL="1") as each:  # type: ignore[attr-defined]
        other = each.web()
        first = other.submit("add", wait=10, headers=key, input=INPUT)

        until(lambda: other.submit("add", headers=key, input=INPUT)["id"] != first["id"], within=5)


def test_the_key_of_a_job_that_was_erased_says_that_it_is_gone(service: Api) -> None:
    key = keyed(fresh())
    job = service.submit("add", wait=10, headers=key, input=INPUT)
    service.http.delete(job["urls"]["self"])

    answer = service.post("add", headers=key, input=INPUT)

    assert (answer.status_code, answer.json()["type"]) == (410, "/problems/job-gone")


@pytest.mark.parametrize("key", ["", '""', "with space", "x" * 256, "\u00e9"])
def test_a_key_that_is_none_is_refused_by_name(service: Api, key: str) -> None:
    body = json.dumps({"input": INPUT}).encode()
    headers = [(b"Content-Type", b"application/json"), (b"Idempotency-Key", key.encode())]

    answer = service.http.post("/v1/models/add/jobs", content=body, headers=headers)

    assert (answer.status_code, answer.json()["type"]) == (400, "/problems/invalid-request")
    assert answer.json()["errors"][0]["header"] == "Idempotency-Key"


# --- an id of the caller's choice -----------------------------------------------------------------


def test_a_job_has_the_id_that_it_was_put_under(service: Api) -> None:
    job_id = f"order-{fresh()}"

    answer = put(service, job_id, wait=10)

    assert (answer.status_code, answer.json()["id"], answer.json()["output"]) == (200, job_id, 3)
    assert answer.headers["Location"] == f"/v1/jobs/{job_id}"
    assert service.job(job_id) == answer.json()
    assert [event["type"] for event in service.log(job_id)] == ["queued", "started", "finished"]


def test_the_same_put_again_gives_the_job_as_it_is(service: Api) -> None:
    job_id = fresh()
    put(service, job_id, wait=10)

    again = put(service, job_id)

    assert (again.status_code, again.json()["output"]) == (200, 3)
    assert again.headers["Idempotent-Replayed"] == "true"


@pytest.mark.parametrize("other", [{"input": {"x": 5, "y": 5}}, {"model": "double"}, {"metadata": 1}])
def test_something_else_under_a_taken_id_is_refused(service: Api, other: dict[str, Any]) -> None:
    job_id = fresh()
    put(service, job_id, wait=10)

    answer = put(service, job_id, **other)

    assert (answer.status_code, answer.json()["type"]) == (409, "/problems/job-exists")
    assert service.job(job_id)["output"] == 3


def test_the_id_of_an_erased_job_is_not_given_again(service: Api) -> None:
    job_id = fresh()
    put(service, job_id, wait=10)
    service.http.delete(f"/v1/jobs/{job_id}")

    assert put(service, job_id).status_code == 410


@pytest.mark.parametrize("job_id", ["a.b", "a%3Ab", "x" * 65, "%C3%A9"])
def test_an_id_that_cannot_be_one_is_refused_by_name(service: Api, job_id: str) -> None:
    answer = put(service, job_id)

    assert (answer.status_code, answer.json()["errors"][0]["parameter"]) == (400, "id")


@pytest.mark.parametrize(
    ("body", "status", "pointer"),
    [({"model": None}, 422, "#/model"), ({"model": "nonesuch"}, 404, None), ({"input": {"x": 1}}, 422, "#/input/y")],
)
def test_a_put_that_is_wrong_says_where(service: Api, body: dict[str, Any], status: int, pointer: str | None) -> None:
    answer = put(service, fresh(), **body)

    assert answer.status_code == status
    assert pointer is None or answer.json()["errors"][0]["pointer"] == pointer
