"""Where webhooks may go: what a URL may be, and which addresses are public."""

from __future__ import annotations

import asyncio
import socket
from ipaddress import ip_address
from typing import Any

import pytest

from service.settings import InvalidSettings, Settings
from service.webhooks.address import AddressRefused, Allowed, check_url, is_public, parse_allowed, resolve
from service.webhooks.destination import InvalidUrl, parse_url

NOTHING = Allowed()
PUBLIC = "93.184.215.14"


def addresses_of(host: str, allowed: Allowed = NOTHING, port: int = 443) -> list[str]:
    return [address[0] for address in asyncio.run(resolve(host, port, allowed))]


@pytest.fixture
def names(monkeypatch: pytest.MonkeyPatch) -> dict[str, list[tuple[Any, ...]]]:
    """A name server of the test's own: the socket addresses of each name, and under "asked" the names asked for."""
    known: dict[str, list[tuple[Any, ...]]] = {"asked": []}

    def getaddrinfo(host: str, port: int, *_: Any, **__: Any) -> list[Any]:
        known["asked"].append((host,))
        families = {2: socket.AF_INET, 4: socket.AF_INET6}
        return [(families[len(each)], socket.SOCK_STREAM, 6, "", each) for each in known[host]]

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    return known


@pytest.mark.parametrize(
    "url",
    [
        "https://example.com",
        "http://example.com:8080/hook?job=1&a=b#part",
        "HTTPS://Example.COM./",
        "https://bücher.example/größe",
        "https://my_host.example-1.com:65535/a%20b",
        f"https://{PUBLIC}/",
        "https://[2606:4700::1111]:8443/",
        "https://[::ffff:8.8.8.8]/",
        "https://example.com/" + "a" * 1980,
    ],
)
def test_a_url_of_a_public_host_is_taken(url: str) -> None:
    check_url(url, NOTHING)


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("", "http:// or https://"),
        ("example.com/hook", "http:// or https://"),
        ("ftp://example.com", "http:// or https://"),
        ("file:///etc/passwd", "http:// or https://"),
        ("gopher://example.com/_x", "http:// or https://"),
        ("https:///hook", "name a host"),
        ("https://:443/hook", "name a host"),
        ("https:example.com", "name a host"),
        ("https://user@example.com", "no user name or password"),
        ("https://user:word@example.com", "no user name or password"),
        ("https://example.com\\@127.0.0.1/", "no user name or password"),
        ("https://127.0.0.1\\.example.com/", "no host name"),
        ("https://example.com:0/", "from 1 to 65535"),
        ("https://example.com:65536/", "0-65535"),
        ("https://example.com:-1/", "cannot be read"),
        ("https://example.com:http/", "cannot be read"),
        ("https://example.com/" + "a" * 1981, "at most 2,000"),
        ("https://example.com/a b", "space or a control character"),
        ("https://exa\tmple.com/", "space or a control character"),
        ("https://example.com/\r\nX: y", "space or a control character"),
        ("https://example.com/\x00", "space or a control character"),
        ("https://example.com/\u2028", "space or a control character"),
        ("https://example.com/\ud800", "space or a control character"),
        (" https://example.com/", "space or a control character"),
        ("https://exa%6dple.com/", "no host name"),
        ("https://a..b/", "no host name"),
        ("https://" + "a" * 64 + ".com/", "no host name"),
        ("https://" + "ü" * 300 + ".com/", "no host name"),
        ("https://" + "a." * 127 + "com/", "no host name"),
        ("https://[::1/", "cannot be read"),
        ("https://[example.com]/", "cannot be read|no IPv6"),
        ("https://[v1.a]/", "no IPv6 address"),
        ("https://[fe80::1%25eth0]/", "zone"),
    ],
)
def test_a_url_that_is_none_for_a_webhook_is_refused_with_what_is_allowed(url: str, reason: str) -> None:
    with pytest.raises(InvalidUrl, match=reason):
        check_url(url, NOTHING)


@pytest.mark.parametrize(
    "host",
    [
        "127.0.0.1",
        "127.1",
        "0x7f.1",
        "0X7F000001",
        "2130706433",
        "0177.0.0.1",
        "127.0.0.1.",
        "①②⑦.0.0.1",
        "127。0。0。1",
        "0",
        "10.1.2.3",
        "169.254.169.254",
        "[::1]",
        "[::]",
        "[::ffff:127.0.0.1]",
        "[::ffff:a9fe:a9fe]",
        "[fe80::1]",
        "[fd00:ec2::254]",
        "localhost",
        "LOCALHOST.",
        "app.localhost",
    ],
)
def test_a_url_of_an_address_that_is_not_public_is_refused_at_submit(host: str) -> None:
    with pytest.raises(AddressRefused, match="WEBHOOK_ALLOW"):
        check_url(f"https://{host}/hook", NOTHING)


@pytest.mark.parametrize(
    "address",
    [
        "0.0.0.0",
        "10.0.0.1",
        "100.64.0.1",
        "100.100.100.200",
        "127.255.255.254",
        "168.63.129.16",
        "169.254.169.254",
        "172.31.255.255",
        "192.0.0.192",
        "192.0.2.1",
        "192.88.99.1",
        "192.168.1.1",
        "198.18.0.1",
        "203.0.113.7",
        "224.0.0.1",
        "239.255.255.250",
        "240.0.0.1",
        "255.255.255.255",
        "::",
        "::1",
        "::7f00:1",
        "::808:808",
        "::ffff:10.0.0.1",
        "64:ff9b::7f00:1",
        "64:ff9b::a9fe:a9fe",
        "64:ff9b:1::808:808",
        "100::1",
        "2001::1",
        "2001:0:808:808:0:0:80ff:fffe",
        "2001:db8::1",
        "2002:7f00:1::",
        "2002:a9fe:a9fe::1",
        "2002:a00:1::1",
        "3fff::1",
        "5f00::1",
        "fc00::1",
        "fd12::1",
        "fe80::1",
        "fec0::1",
        "ff02::1",
        "ff0e::1",
    ],
)
def test_an_address_that_is_not_the_internets_is_not_public(address: str) -> None:
    assert not is_public(ip_address(address))


@pytest.mark.parametrize(
    "address",
    ["1.1.1.1", PUBLIC, "2606:4700::1111", "2a00:1450::1", "::ffff:8.8.8.8", "64:ff9b::808:808", "2002:808:808::1"],
)
def test_an_address_of_the_internet_is_public(address: str) -> None:
    assert is_public(ip_address(address))


@pytest.mark.parametrize("host", ["127.1", "0x7f.1", "0x7f000001", "2130706433", "0177.0.0.1", "017700000001"])
def test_an_address_in_an_odd_notation_is_checked_as_what_the_resolver_makes_of_it(host: str) -> None:
    with pytest.raises(AddressRefused, match=f"{host} leads to 127.0.0.1"):
        addresses_of(host)

    assert addresses_of(host, parse_allowed(["127.0.0.1"])) == ["127.0.0.1"]


def test_a_host_is_refused_if_only_one_of_its_addresses_is_not_public(names: dict[str, Any]) -> None:
    names["rebound.example"] = [(PUBLIC, 443), ("10.0.0.7", 443)]

    with pytest.raises(AddressRefused, match=r"rebound.example leads to 10.0.0.7: .* WEBHOOK_ALLOW"):
        addresses_of("rebound.example")


def test_a_host_gives_each_of_its_addresses_once_and_is_looked_up_once(names: dict[str, Any]) -> None:
    names["example.com"] = [(PUBLIC, 443), ("2606:4700::1111", 443, 0, 0), (PUBLIC, 443)]

    assert addresses_of("example.com") == [PUBLIC, "2606:4700::1111"]
    assert names["asked"] == [("example.com",)]


def test_an_address_with_a_zone_is_refused_unless_its_host_is_opened(names: dict[str, Any]) -> None:
    names["printer.example"] = [("fe80::1%eth0", 443, 0, 3)]

    for allowed in (NOTHING, parse_allowed(["fe80::/10"])):
        with pytest.raises(AddressRefused):
            addresses_of("printer.example", allowed)
    opened = asyncio.run(resolve("printer.example", 443, parse_allowed(["printer.example"])))
    assert opened == [("fe80::1", 443, 0, 3)]


def test_a_host_that_is_opened_may_have_any_address_and_no_other_host_may(names: dict[str, Any]) -> None:
    names["hooks.internal"] = names["www.hooks.internal"] = names["internal"] = [("10.0.0.7", 443)]
    allowed = parse_allowed(["Hooks.Internal."])

    assert addresses_of("hooks.internal", allowed) == ["10.0.0.7"]
    for other in ("www.hooks.internal", "internal"):
        with pytest.raises(AddressRefused):
            addresses_of(other, allowed)


@pytest.mark.parametrize(
    ("url", "item"),
    [
        ("http://127.0.0.1:8000/", "127.0.0.1"),
        ("http://127.0.0.1:8000/", "127.0.0.0/8"),
        ("http://2130706433/", "127.0.0.0/8"),
        ("http://[::ffff:127.0.0.1]/", "127.0.0.0/8"),
        ("http://[::1]/", "::1"),
        ("http://[::1]/", "[::1]"),
        ("http://localhost/", "localhost"),
        ("http://localhost/", "127.0.0.0/8"),
        ("http://LOCALHOST./", "localhost"),
        ("http://10.9.9.9/", "0.0.0.0/0"),
    ],
)
def test_what_the_setting_opens_is_taken(url: str, item: str) -> None:
    with pytest.raises(AddressRefused):
        check_url(url, parse_allowed(["10.0.0.7", "other.example"]))

    check_url(url, parse_allowed(["10.0.0.7", item]))


@pytest.mark.parametrize(
    "item",
    ["10.0.0.1/8", "10.0.0.0/33", "https://a.example", "a.example:80", "*.example", "127.1", "a/b", "[a]", "ä..b"],
)
def test_a_setting_that_opens_nothing_is_told_at_start(monkeypatch: pytest.MonkeyPatch, item: str) -> None:
    with pytest.raises(ValueError, match="is no network"):
        parse_allowed([item])

    monkeypatch.setenv("WEBHOOK_ALLOW", f"10.0.0.0/8 {item}")
    with pytest.raises(InvalidSettings, match="WEBHOOK_ALLOW is .* is no network"):
        Settings()


def test_what_is_opened_is_separated_by_spaces(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WEBHOOK_ALLOW", "10.0.0.0/8  hooks.internal")

    assert Settings().webhook_allow == ("10.0.0.0/8", "hooks.internal")


@pytest.mark.parametrize(
    ("url", "host", "port", "target", "authority"),
    [
        ("http://example.com", "example.com", 80, "/", "example.com"),
        ("http://example.com:80?a=b", "example.com", 80, "/?a=b", "example.com"),
        ("https://example.com:80/a#b", "example.com", 80, "/a", "example.com:80"),
        ("https://EXAMPLE.com./%C3%A4/ä?ö", "example.com", 443, "/%C3%A4/%C3%A4?%C3%B6", "example.com"),
        ("https://bücher.example/", "xn--bcher-kva.example", 443, "/", "xn--bcher-kva.example"),
        ("https://[2606:4700:0::1]/", "2606:4700::1", 443, "/", "[2606:4700::1]"),
        ("https://[2606:4700::1]:8443/", "2606:4700::1", 8443, "/", "[2606:4700::1]:8443"),
        ('https://example.com/"<>\\^{|}', "example.com", 443, "/%22%3C%3E%5C%5E%7B%7C%7D", "example.com"),
    ],
)
def test_a_url_says_whom_to_connect_to_and_what_to_ask_for(
    url: str, host: str, port: int, target: str, authority: str
) -> None:
    destination = parse_url(url)

    assert (destination.host, destination.port, destination.target) == (host, port, target)
    assert destination.authority == authority
