"""How the sender goes from a host's name to a connection: looked up once, checked, each address tried."""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from service.webhooks import sender
from service.webhooks.address import AddressRefused, Allowed, parse_allowed
from service.webhooks.answer import Answer
from service.webhooks.sender import NoAnswer, post
from tests.receivers import answers, receiver

OPEN = parse_allowed(["127.0.0.0/8"])
ENOUGH = 60.0  # seconds, for what must not need them


async def sent(url: str, allowed: Allowed = OPEN, seconds: float = ENOUGH) -> Answer:
    return await post(url, {}, b"{}", allowed, seconds)


@pytest.fixture
def names(monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, list[list[str]]]]:
    """A name server of the test's own: for each name, the addresses of the first look-up, the second, ..."""
    known: dict[str, list[list[str]]] = {}

    def getaddrinfo(host: str, port: int, *_: Any, **__: Any) -> list[Any]:
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (each, port)) for each in known[host].pop(0)]

    with monkeypatch.context() as patch:
        patch.setattr(socket, "getaddrinfo", getaddrinfo)
        yield known


def test_a_name_that_leads_nowhere_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    def getaddrinfo(*_: Any, **__: Any) -> Any:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)

    with pytest.raises(NoAnswer, match="^nowhere.example cannot be looked up: Name or service not known$"):
        asyncio.run(sent("http://nowhere.example/"))


def test_a_host_with_one_address_that_is_not_public_sees_no_connection(names: dict[str, list[list[str]]]) -> None:
    async def run() -> int:
        async with receiver(answers(b"HTTP/1.1 200 OK\r\n\r\n")) as inside:
            names["rebound.example"] = [["93.184.215.14", "127.0.0.1"]]
            with pytest.raises(AddressRefused, match="rebound.example leads to 127.0.0.1"):
                await sent(f"http://rebound.example:{inside.port}/", Allowed())
            return inside.connections

    assert asyncio.run(run()) == 0


def test_a_name_that_leads_elsewhere_when_it_is_looked_up_again_is_looked_up_once(
    names: dict[str, list[list[str]]],
) -> None:
    names["rebound.example"] = [["127.0.0.1"], ["10.0.0.7"]]

    async def run() -> Answer:
        async with receiver(answers(b"HTTP/1.1 200 OK\r\n\r\n")) as first:
            return await sent(f"http://rebound.example:{first.port}/")

    assert asyncio.run(run()).status == 200
    assert names["rebound.example"] == [["10.0.0.7"]]


def test_an_address_that_nobody_listens_on_is_followed_by_the_next(names: dict[str, list[list[str]]]) -> None:
    names["two.example"] = [["127.0.0.2", "127.0.0.1"]]

    async def run() -> Answer:
        async with receiver(answers(b"HTTP/1.1 200 OK\r\n\r\n")) as second:
            return await sent(f"http://two.example:{second.port}/")

    assert asyncio.run(run()).status == 200


def test_an_address_that_swallows_everything_leaves_time_for_the_next(
    names: dict[str, list[list[str]]], monkeypatch: pytest.MonkeyPatch
) -> None:
    names["two.example"] = [["127.0.0.2", "127.0.0.1"]]
    connect = sender._connect

    async def swallowed(address: Any) -> socket.socket:
        if address[0] == "127.0.0.2":
            await asyncio.Event().wait()
        return await connect(address)

    monkeypatch.setattr(sender, "_connect", swallowed)

    async def run() -> Answer:
        async with receiver(answers(b"HTTP/1.1 200 OK\r\n\r\n")) as second:
            return await sent(f"http://two.example:{second.port}/", seconds=4.0)

    assert asyncio.run(run()).status == 200


def test_a_name_server_that_does_not_answer_holds_up_nobody_else(monkeypatch: pytest.MonkeyPatch) -> None:
    released = threading.Event()
    look_up = socket.getaddrinfo

    def getaddrinfo(host: str, *arguments: Any, **options: Any) -> Any:
        if host == "slow.example":
            released.wait(ENOUGH)
        return look_up(host, *arguments, **options)

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)

    async def run() -> Answer:
        async with receiver(answers(b"HTTP/1.1 200 OK\r\n\r\n")) as quick:
            slow = [asyncio.create_task(sent("http://slow.example/", seconds=0.5)) for _ in range(49)]
            await asyncio.sleep(0)  # they begin first
            answer = await sent(quick.url)
            ends = await asyncio.gather(*slow, return_exceptions=True)
            assert {str(each) for each in ends} == {"no answer within 0.5 s"}
            return answer

    try:
        assert asyncio.run(run()).status == 200
    finally:
        released.set()
