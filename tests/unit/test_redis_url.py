"""REDIS_URL: what is one, and that no password of it is ever shown."""

from __future__ import annotations

import random
import re
from pathlib import Path

import pytest

from service.cli.main import main
from service.redis_url import check, without_password
from service.settings import InvalidSettings, Settings

SECRET = "Sw0rdf1sh"  # noqa: S105 -- made up
SEPARATORS = [
    "",
    "/",
    "@",
    ":",
    "?",
    "#",
    "%",
    "&",
    "=",
    "%40",
    "%2F",
    "://",
    "[",
    "]",
    " ",
    "\n",
    "\\",
    "é",
    "redis://",
]
PLACES = [
    "redis://:{}@host:6379/0",
    "redis://user:{}@host",
    "redis://{}@host:6379",
    "rediss://user:{}@host:6379/0?ssl_cert_reqs=none",
    "redis://host:6379/0?password={}",
    "redis://host?username=user&password={}&db=1",
    "redis://host/{}",
    "redis://host:6379#{}",
    "redis://host:{}",
    "redis://:{}",
    "redis://:{}:6379",
    "unix:///run/redis.sock?password={}",
    "unix://user:{}@/run/redis.sock",
    "unix://:{}@/run/redis.sock?db=1",
    "redis:/:{}@host:6379",
    "redis:{}@host",
    "user:{}@host:6379",
    "http://user:{}@host:6379",
    "redis+ssl://user:{}@host",
    "redis-{}://host",
    "redis://user:{}@[::1",
    "redis://user:{}@host:port/0",
    "redis://user:{}@host:6379/0?health_check_interval=often",
    "redis://user:{}@host:6379/0?unknown_option=1",
]


def awkward(place: str, rng: random.Random) -> str:
    """A URL with a password of three parts, none of which may be seen."""
    # Without a host behind it, what follows an @ in a password is a host, by every rule there is.
    between = [
        each for each in SEPARATORS if "@" not in each or re.search(r"{}.*@|[/?#].*{}", place.partition("//")[2])
    ]
    return place.format(f"{SECRET}1{rng.choice(between)}{SECRET}2{rng.choice(between)}{SECRET}3")


@pytest.mark.parametrize("place", PLACES)
def test_no_part_of_a_password_is_shown_wherever_it_stands(place: str) -> None:
    rng = random.Random(place)

    urls = [awkward(place, rng) for _ in range(300)]

    assert [url for url in urls if SECRET in without_password(url)] == []


def test_no_error_and_no_command_shows_a_password(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    rng = random.Random(11)
    for _ in range(400):
        url = awkward(rng.choice(PLACES), rng)
        monkeypatch.setenv("REDIS_URL", url)

        with pytest.raises(SystemExit) as ended:
            main(["config"])

        printed = capsys.readouterr()
        assert SECRET not in printed.out + printed.err, url
        assert ended.value.code == 0 or printed.err.count("\n") == 1, url


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("redis://127.0.0.1:6379/0", "redis://127.0.0.1:6379/0"),
        ("redis://user:secret@redis.example:6380/2", "redis://redis.example:6380/2"),
        ("rediss://:p%40ss@[::1]:6379", "rediss://[::1]:6379"),
        ("redis://host/0?password=secret", "redis://host/0"),
        ("unix:///home/me/my%20data/redis.sock?db=3", "unix:///home/me/my%20data/redis.sock"),
        ("localhost:6379", "localhost:6379"),
    ],
)
def test_the_rest_of_a_url_is_shown(url: str, shown: str) -> None:
    assert without_password(url) == shown


@pytest.mark.parametrize(
    "url",
    [
        "redis://localhost",
        "redis://localhost:6379/0",
        "redis://user:pa%2Fss%40%3A@localhost:6379/1",
        "redis://localhost?db=3&password=a@b",
        "rediss://:secret@[::1]:6379/0?ssl_cert_reqs=none",
        "unix:///run/redis.sock?db=1",
        "unix://user:secret@/run/a@b/redis.sock",
    ],
)
def test_a_url_that_redis_py_takes_is_taken(url: str) -> None:
    assert check(url) == url


@pytest.mark.parametrize(
    "url",
    [
        "redis://user:pa/ss@localhost:6379",
        "redis://user:12?3@localhost:6379",
        "redis://user:12#3@localhost:6379",
        "redis://%3Asecret%40localhost",
        "redis://localhost:http",
        "redis://localhost:99999",
        "redis://localhost/zero",
        "redis://[::1",
        "redis://localhost?socket_timeout=soon",
        "redis://localhost?no_such_option=1",
        "unix://",
    ],
)
def test_a_url_that_cannot_be_used_is_told_with_what_one_looks_like(monkeypatch: pytest.MonkeyPatch, url: str) -> None:
    monkeypatch.setenv("REDIS_URL", url)

    with pytest.raises(InvalidSettings, match=r"REDIS_URL is '[^']*': should be redis://\[user:password@\]host"):
        Settings()


def test_a_webhook_secret_is_in_no_error(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for value in (SECRET, f"whsec_{SECRET}", f"whsec_{'A' * 44} {SECRET}"):
        monkeypatch.setenv("WEBHOOK_SECRET", value)

        with pytest.raises(InvalidSettings) as error:
            Settings()

        assert SECRET not in str(error.value)
