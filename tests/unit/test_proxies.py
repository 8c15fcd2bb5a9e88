"""What is believed of a proxy, and of whom."""

from __future__ import annotations

from typing import Any

import pytest

from service.settings import InvalidSettings, Settings
from service.web.proxies import TrustedProxies

FORWARDED = {
    "HTTP_X_FORWARDED_FOR": "203.0.113.7",
    "HTTP_X_FORWARDED_PROTO": "https",
    "HTTP_X_FORWARDED_HOST": "api.example.com",
    "HTTP_X_FORWARDED_PREFIX": "/ai",
}
ASIS = {"REMOTE_ADDR": "10.0.0.1", "HTTP_HOST": "web:8000", "wsgi.url_scheme": "http", "SCRIPT_NAME": ""}


def seen(trusted: list[str], **environ: str) -> dict[str, Any]:
    """What the application sees of a request from 10.0.0.1."""
    found: dict[str, Any] = {}

    def application(environ: dict[str, Any], _: Any) -> list[bytes]:
        found.update({name: environ[name] for name in ASIS})
        return []

    TrustedProxies(application, trusted)({**ASIS, **environ}, None)
    return found


@pytest.mark.parametrize("trusted", [[], ["10.0.0.2"], ["192.168.0.0/16", "::1"]])
def test_nobody_else_is_believed(trusted: list[str]) -> None:
    assert seen(trusted, **FORWARDED) == ASIS


@pytest.mark.parametrize("trusted", [["10.0.0.1"], ["10.0.0.0/8"], ["::1", "10.0.0.1/32"]])
def test_a_trusted_proxy_is_believed(trusted: list[str]) -> None:
    assert seen(trusted, **FORWARDED) == {
        "REMOTE_ADDR": "203.0.113.7",
        "HTTP_HOST": "api.example.com",
        "wsgi.url_scheme": "https",
        "SCRIPT_NAME": "/ai",
    }


def test_an_address_of_ipv4_in_ipv6_is_the_same_address() -> None:
    assert seen(["10.0.0.1"], **FORWARDED, REMOTE_ADDR="::ffff:10.0.0.1")["SCRIPT_NAME"] == "/ai"


@pytest.mark.parametrize(
    ("hops", "caller"),
    [
        ("203.0.113.7", "203.0.113.7"),
        ("203.0.113.7, 10.0.0.9", "203.0.113.7"),
        ("1.2.3.4, 203.0.113.7, 10.0.0.9", "203.0.113.7"),  # the caller wrote the first itself
        ("10.0.0.7, 10.0.0.9", "10.0.0.7"),
        ("2001:db8::1", "2001:db8::1"),
        ("203.0.113.7, junk", "10.0.0.1"),
        ("junk, 10.0.0.9", "10.0.0.9"),
        ("", "10.0.0.1"),
        ("unknown", "10.0.0.1"),
        ("203.0.113.7:1234", "10.0.0.1"),
    ],
)
def test_the_caller_is_the_last_address_that_is_no_proxy_of_ours(hops: str, caller: str) -> None:
    assert seen(["10.0.0.0/8"], HTTP_X_FORWARDED_FOR=hops)["REMOTE_ADDR"] == caller


@pytest.mark.parametrize("prefix", ["/ai", "/ai/", "/a/b-c/d_e.f/~g"])
def test_a_prefix_is_a_path(prefix: str) -> None:
    assert seen(["10.0.0.1"], HTTP_X_FORWARDED_PREFIX=prefix)["SCRIPT_NAME"] == prefix.rstrip("/")


@pytest.mark.parametrize(
    "prefix",
    [
        "",
        "/",
        "ai",
        "//evil.example",
        "/a//b",
        "/..",
        "/a/../b",
        "/a?b",
        "/a#b",
        "/a b",
        "/a\r\nX: y",
        "/é",
        "/<script>",
    ]
    + ["/a,/b", "https://evil.example/", "/" + "a" * 300, "/a\x00"],
)
def test_what_is_no_prefix_is_passed_over(prefix: str) -> None:
    assert seen(["10.0.0.1"], HTTP_X_FORWARDED_PREFIX=prefix)["SCRIPT_NAME"] == ""


@pytest.mark.parametrize("host", ["", "a b", "evil.example/x", "a@b", "a,", "[::1", "a:b", "a:123456", "\r\nX: y"])
def test_what_is_no_host_is_passed_over(host: str) -> None:
    assert seen(["10.0.0.1"], HTTP_X_FORWARDED_HOST=host)["HTTP_HOST"] == "web:8000"


@pytest.mark.parametrize("protocol", ["", "ftp", "javascript", "https, "])
def test_what_is_no_protocol_is_passed_over(protocol: str) -> None:
    assert seen(["10.0.0.1"], HTTP_X_FORWARDED_PROTO=protocol)["wsgi.url_scheme"] == "http"


@pytest.mark.parametrize("item", ["everybody", "10.0.0.0/33", "*", "10.0.0", "localhost"])
def test_a_proxy_that_is_no_address_is_named_at_start(item: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRUSTED_PROXIES", f"127.0.0.1 {item}")

    with pytest.raises(InvalidSettings, match="TRUSTED_PROXIES"):
        Settings()
