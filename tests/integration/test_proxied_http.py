"""Behind a reverse proxy with a path of its own: every address that is answered leads back through it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from tests.deployment import Api, deployment

MODELS = """
    from typing import Any
    from service import model

    @model
    def echo(value: Any = None) -> Any:
        return value
"""

PREFIX = "/ai/jobs-here"
FORWARDED = {
    "X-Forwarded-Prefix": PREFIX,
    "X-Forwarded-For": "203.0.113.7",
    "X-Forwarded-Proto": "https",
    "X-Forwarded-Host": "api.example.com",
}


@pytest.fixture(scope="module")
def trusting(service: Api, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Api]:
    """Another web process of the same service, which trusts its peers; it is called as by a proxy."""
    folder = tmp_path_factory.mktemp("trusting")
    with deployment(folder, service.redis_url) as each:  # type: ignore[attr-defined]
        api = each.web(TRUSTED_PROXIES="127.0.0.1 ::1")
        api.http.headers.update(FORWARDED)
        yield api


def addresses(value: Any) -> Iterator[str]:
    """All addresses in an answer: what is in a `urls`."""
    if isinstance(value, dict):
        for name, each in value.items():
            if name == "urls":
                yield from each.values()
            else:
                yield from addresses(each)
    elif isinstance(value, list):
        for each in value:
            yield from addresses(each)


def assert_prefixed(response: httpx.Response) -> None:
    found = list(addresses(response.json()))
    assert found
    assert all(each.startswith(f"{PREFIX}/") for each in found)


def test_each_answer_leads_back_through_the_proxy(trusting: Api) -> None:
    submitted = trusting.post("echo")
    waited = trusting.post("echo", wait=10)
    job_id = waited.json()["id"]

    assert submitted.status_code, waited.status_code == (202, 200)
    for response in (submitted, waited):
        assert response.headers["Location"] == f"{PREFIX}/v1/jobs/{response.json()['id']}"
    put = trusting.http.put("/v1/jobs/mine", json={"model": "echo", "input": {}})
    paths = ("/", "/v1/models", "/v1/models/echo", "/v1/jobs", f"/v1/jobs/{job_id}", f"/v1/jobs/{job_id}?wait=1")
    for response in (submitted, waited, put, *map(trusting.http.get, paths), trusting.cancel(job_id)):
        assert_prefixed(response)


def test_an_answer_that_was_held_leads_back_through_the_proxy(trusting: Api) -> None:
    job = trusting.submit("echo")

    assert_prefixed(trusting.http.get(f"/v1/jobs/{job['id']}?wait=10"))


def test_a_problem_leads_back_through_the_proxy(trusting: Api) -> None:
    problem = trusting.http.get("/v1/jobs/unknown").json()

    assert problem["type"] == f"{PREFIX}/problems/job-not-found"
    page = trusting.http.get(problem["type"].removeprefix(PREFIX)).json()
    assert page == {"type": problem["type"], "title": problem["title"]}


def test_the_dashboard_leads_back_through_the_proxy(trusting: Api) -> None:
    page = trusting.http.get("/dashboard/").text

    assert f'"{PREFIX}/dashboard/' in page
    assert '"/dashboard/' not in page


def test_a_page_of_the_proxys_own_site_is_no_other_site(trusting: Api) -> None:
    job = trusting.submit("echo", wait=10)

    def cancel(origin: str) -> int:
        return trusting.http.post(f"/v1/jobs/{job['id']}/cancel", headers={"Origin": origin}).status_code

    assert cancel("https://api.example.com") == 200
    assert cancel(f"http://127.0.0.1:{trusting.port}") == 403


def test_without_the_setting_nothing_is_believed(service: Api) -> None:
    job = service.submit("echo", headers=FORWARDED)

    assert job["urls"]["self"] == f"/v1/jobs/{job['id']}"
    assert service.http.get("/", headers=FORWARDED).json()["urls"]["models"] == "/v1/models"


@pytest.mark.parametrize("name", ["SCRIPT_NAME", "Script-Name", "PATH_INFO"])
def test_a_header_is_no_variable_of_the_server(service: Api, trusting: Api, name: str) -> None:
    for api in (service, trusting):
        response = api.http.get("/v1/models/unknown", headers={name: "/evil"})

        assert response.status_code in (400, 404)
        assert "evil" not in response.text


@pytest.mark.parametrize("prefix", ["//evil.example", "/a/../..", "/a b", "/" + "a" * 5000])
def test_a_prefix_that_is_none_is_passed_over(trusting: Api, prefix: str) -> None:
    response = trusting.http.get("/", headers={"X-Forwarded-Prefix": prefix})

    assert response.json()["urls"]["models"] == "/v1/models"
