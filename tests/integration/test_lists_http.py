"""What lists hold: summaries, within a bound on the bytes of an answer and on the memory of the web process."""

from __future__ import annotations

import json
import os
from base64 import b64encode
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import redis

from service.store import keys
from tests.deployment import Api, Deployment, children, until

MODELS = """
    from typing import Any
    from service import model

    @model
    def echo(value: Any = None) -> Any:
        return value

    @model
    def streams(chunks: int = 1, size: int = 1):
        for _ in range(chunks):
            yield "x" * size

    @model
    def fails() -> None:
        raise ValueError("no luck")
"""

ENVIRONMENT = {"MAX_OUTPUT_BYTES": str(32 * 2**20)}
MOST = 4 * 2**20  # bytes of a page, as docs/http.md has it


def listing(api: Api, **parameters: Any) -> Any:
    response = api.http.get("/v1/jobs", params=parameters)
    assert response.status_code == 200, response.text
    assert len(response.content) < MOST + 2**20
    return response.json()


def pages(api: Api, **parameters: Any) -> Iterator[list[dict[str, Any]]]:
    """The jobs on each page, to the last."""
    while True:
        page = listing(api, **parameters)
        yield page["jobs"]
        if page["next"] is None:
            return
        parameters["cursor"] = page["next"]


def noise(size: int) -> str:
    """Text that does not get smaller when it is compressed."""
    return b64encode(os.urandom(size * 3 // 4)).decode()


def memory(api: Api) -> int:
    """The most memory that the web process ever had, in bytes: that of gunicorn's, which answers."""
    (pid,) = children(api.process.pid)  # type: ignore[attr-defined]
    (line,) = [line for line in Path(f"/proc/{pid}/status").read_text().splitlines() if line.startswith("VmHWM")]
    return int(line.split()[1]) * 1024


def test_a_list_holds_summaries(service: Api) -> None:
    job = service.submit("echo", wait=10, input={"value": [1, 2]}, metadata={"mine": True})

    (listed,) = listing(service, limit=1)["jobs"]

    assert listed == {name: value for name, value in job.items() if name not in ("input", "output")}


@pytest.mark.parametrize("text", ["é", "\ud800", "\x00", "</script>"])
def test_inputs_and_outputs_come_on_demand(service: Api, text: str) -> None:
    body = json.dumps({"input": {"value": text}})
    headers = {"Content-Type": "application/json", "Prefer": "wait=10"}
    assert service.http.post("/v1/models/echo/jobs", content=body, headers=headers).status_code == 200

    (both,) = listing(service, limit=1, include="input,output")["jobs"]
    (given,) = listing(service, limit=1, include="input")["jobs"]
    (gave,) = listing(service, limit=1, include="output")["jobs"]

    assert (both["input"], both["output"], both["left_out"]) == ({"value": text}, text, [])
    assert (given["input"], given["left_out"]) == ({"value": text}, [])
    assert (gave["output"], gave["left_out"]) == (text, [])
    assert "output" not in given and "input" not in gave


def test_a_list_shows_no_output_of_a_job_that_has_none(service: Api) -> None:
    job = service.submit("fails")
    service.done(job["id"])

    (listed,) = listing(service, limit=1, include="output")["jobs"]

    assert (listed["output"], listed["error"]["type"], listed["left_out"]) == (None, "model_error", [])
    assert [attempt["error"]["type"] for attempt in listed["attempts"]] == ["model_error"]


@pytest.mark.parametrize("include", ["nope", "", "input,", "INPUT"])
def test_what_cannot_be_included_is_refused(service: Api, include: str) -> None:
    response = service.http.get("/v1/jobs", params={"include": include})

    assert response.status_code == 400
    assert response.json()["errors"][0]["parameter"] == "include"


def test_a_page_ends_before_it_is_too_large_and_the_next_goes_on(service: Api) -> None:
    texts = [noise(900_000) for _ in range(6)]
    ids = [service.submit("echo", wait=10, input={"value": text})["id"] for text in texts]

    found = [job for page in pages(service, limit=100, include="input", model="echo") for job in page]

    mine = [job for job in found if job["id"] in ids]
    assert [job["id"] for job in mine] == ids[::-1]
    assert [job["input"]["value"] for job in mine] == texts[::-1]


def test_what_is_compressed_well_is_bounded_too(service: Api) -> None:
    for _ in range(8):
        service.submit("echo", wait=10, input={"value": "x" * 1_000_000})

    first = listing(service, limit=8, include="input,output")

    assert 1 <= len(first["jobs"]) < 4
    assert first["next"] is not None


def test_what_is_larger_than_a_page_is_left_out_by_name(service: Api) -> None:
    job = service.submit("streams", input={"chunks": 6, "size": 1_000_000})
    assert service.done(job["id"])["status"] == "finished"

    (listed,) = listing(service, limit=1, include="input,output")["jobs"]

    assert (listed["input"], listed["output"]) == ({"chunks": 6, "size": 1_000_000}, None)
    assert listed["left_out"] == ["output"]
    assert len(service.http.get(listed["urls"]["result"]).json()) == 6


def test_a_record_that_cannot_be_read_does_not_break_a_list(service: Api) -> None:
    job, garbled = service.submit("echo", wait=10), service.submit("echo", wait=10)
    with redis.Redis.from_url(service.redis_url) as connection:  # type: ignore[attr-defined]
        connection.hset(keys.job(garbled["id"]), "data", b"\xff\x00junk")
        connection.delete(keys.results(garbled["id"]))
        connection.set(keys.results(garbled["id"]), "no stream")
        connection.zadd(keys.JOBS, {b"\xff\xfe": 10**10})

        shown = listing(service, limit=5, include="input,output")["jobs"]

        connection.delete(keys.results(garbled["id"]))
    assert job["id"] in [each["id"] for each in shown]


def test_a_page_of_events_is_bounded_in_bytes_and_says_where_to_go_on(service: Api) -> None:
    job = service.submit("streams", input={"chunks": 100, "size": 60_000})
    service.done(job["id"])

    events, after = [], "0"
    while True:
        response = service.http.get(job["urls"]["events"], params={"after": after, "limit": 500})
        assert len(response.content) < 2 * 2**20
        page = response.json()
        events += page["events"]
        after = page["cursor"]
        if page["done"]:
            break

    assert [each["type"] for each in events].count("output") == 100
    assert events[-1]["type"] == "finished"
    assert len({each["id"] for each in events}) == len(events)


def test_lists_of_large_jobs_take_little_memory(deployed: Deployment) -> None:
    deployed.write(MODELS)
    worker, api = deployed.worker(), deployed.web(LOG_LEVEL="warning")
    api.submit("echo", wait=10)  # the model is published
    worker.kill()
    for _ in range(60):
        api.submit("echo", input={"value": noise(1_000_000)})
    until(lambda: len(listing(api, limit=100)["jobs"]) == 61)
    before = memory(api)

    def call(path: str) -> int:
        return len(api.http.get(path).content)

    with ThreadPoolExecutor(8) as pool:
        small = list(pool.map(call, ["/v1/jobs?limit=100"] * 16))
        large = list(pool.map(call, ["/v1/jobs?limit=100&include=input,output"] * 16))

    assert max(small) < 200_000
    assert max(large) < MOST + 2**20
    assert memory(api) - before < 200 * 2**20


def test_a_page_of_the_dashboard_shows_large_jobs_one_after_the_other(deployed: Deployment) -> None:
    deployed.write(MODELS)
    worker, api = deployed.worker(), deployed.web(LOG_LEVEL="warning")
    api.submit("echo", wait=10)
    worker.kill()
    for _ in range(60):
        api.submit("echo", input={"value": noise(1_000_000)})
    before = memory(api)

    page = api.http.get("/dashboard/0/data/jobs/echo/queued/200/asc/1.json")

    assert len(page.json()["jobs"]) == 60
    assert memory(api) - before < 30 * 2**20
    assert api.http.get("/dashboard/0/data/jobs/echo/queued/201/asc/1.json").status_code == 404
