"""Which requests count as ours: what browsers say about a page, and what everybody else leaves out."""

from __future__ import annotations

import pytest
from flask import Request
from werkzeug.test import EnvironBuilder

from service.web.origin import same_origin


def request(host: str = "jobs.example:8000", **headers: str) -> Request:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return Request(EnvironBuilder(base_url=f"http://{host}", headers=named).get_environ())


def test_a_request_without_browser_headers_is_accepted() -> None:
    assert same_origin(request())


@pytest.mark.parametrize("site", ["same-origin", "none"])
def test_a_page_of_ours_and_a_typed_address_are_accepted(site: str) -> None:
    assert same_origin(request(Sec_Fetch_Site=site))


@pytest.mark.parametrize("site", ["cross-site", "same-site", "", "anything"])
def test_a_page_that_the_browser_calls_foreign_is_refused(site: str) -> None:
    assert not same_origin(request(Sec_Fetch_Site=site))


def test_what_the_browser_compared_itself_outweighs_a_host_that_a_proxy_rewrote() -> None:
    behind_proxy = request("127.0.0.1:5000", Sec_Fetch_Site="same-origin", Origin="https://jobs.example")

    assert same_origin(behind_proxy)


@pytest.mark.parametrize(
    ("host", "origin"),
    [
        ("jobs.example:8000", "http://jobs.example:8000"),
        ("jobs.example:8000", "HTTP://JOBS.example:8000"),
        ("jobs.example", "http://jobs.example"),
        ("jobs.example", "https://jobs.example"),
        ("jobs.example:443", "https://jobs.example"),
        ("jobs.example", "https://jobs.example:443"),
        ("[::1]:8000", "http://[::1]:8000"),
    ],
)
def test_an_origin_that_names_our_host_is_accepted_whatever_its_scheme(host: str, origin: str) -> None:
    assert same_origin(request(host=host, Origin=origin))


@pytest.mark.parametrize(
    "origin",
    [
        "http://evil.example",
        "http://evil.example:8000",
        "http://jobs.example",
        "http://jobs.example:8001",
        "http://jobs.example:80800",
        "http://jobs.example:8000.evil.example",
        "http://jobs.example:8000@evil.example",
        "http://sub.jobs.example:8000",
        "http://jobs.example:8000/",
        "jobs.example:8000",
        "null",
        "",
        "http://",
        "http://[bad",
    ],
)
def test_any_other_origin_is_refused(origin: str) -> None:
    assert not same_origin(request(Origin=origin))


def test_a_host_that_cannot_be_read_matches_no_origin() -> None:
    environ = EnvironBuilder(headers={"Origin": "http://"}).get_environ() | {"HTTP_HOST": "no host"}

    assert not same_origin(Request(environ))


ALLOWED = ("https://app.example", "http://localhost:3000/")


@pytest.mark.parametrize("origin", ["https://app.example", "https://APP.example", "http://localhost:3000"])
def test_an_allowed_origin_is_accepted_although_it_is_another_site(origin: str) -> None:
    assert same_origin(request(Origin=origin, Sec_Fetch_Site="cross-site"), ALLOWED)


@pytest.mark.parametrize("origin", ["http://app.example", "https://app.example:444", "http://localhost:3001"])
def test_an_allowed_origin_is_compared_with_scheme_and_port(origin: str) -> None:
    assert not same_origin(request(Origin=origin), ALLOWED)
