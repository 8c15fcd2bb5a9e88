"""One try of a webhook, with receivers that answer, fail, hang, lie and flood."""

from __future__ import annotations

import asyncio
import socket
import struct
from typing import Any

import pytest

from service.webhooks import sender
from service.webhooks.address import Allowed, parse_allowed
from service.webhooks.answer import Answer
from service.webhooks.sender import NoAnswer, post
from tests.deployment import free_port
from tests.receivers import Receiver, Talk, answers, hangs, receiver, repeats

OPEN = parse_allowed(["127.0.0.0/8"])
BODY = b'{"type":"job.finished"}'
ENOUGH = 60.0  # seconds, for what must not need them


async def sent(url: str, allowed: Allowed = OPEN, seconds: float = ENOUGH) -> Answer:
    return await post(url, {"webhook-id": "msg_1"}, BODY, allowed, seconds)


def tried(talk: Talk, seconds: float = ENOUGH) -> tuple[Answer, Receiver]:
    """Send to a receiver that talks so, and wait until it has seen the connection end."""

    async def run() -> tuple[Answer, Receiver]:
        async with receiver(talk) as each:
            answer = await sent(each.url, seconds=seconds)
            await asyncio.wait_for(each.ended.wait(), ENOUGH)
            return answer, each

    return asyncio.run(run())


def failed(talk: Talk, seconds: float = ENOUGH) -> str:
    """How the try ends in words, after the receiver has seen the connection end."""

    async def run() -> str:
        async with receiver(talk) as each:
            with pytest.raises(NoAnswer) as error:
                await sent(each.url, seconds=seconds)
            await asyncio.wait_for(each.ended.wait(), ENOUGH)
            return str(error.value)

    return asyncio.run(run())


def test_a_receiver_gets_one_post_with_the_body_and_the_headers() -> None:
    answer, each = tried(answers(b"HTTP/1.1 204 No Content\r\n\r\n"))

    head, _, body = each.requests[0].partition(b"\r\n\r\n")
    line, *headers = head.decode().split("\r\n")
    assert (answer.status, answer.excerpt, answer.retry_after) == (204, "", None)
    assert line == "POST /hook HTTP/1.1"
    assert set(headers) == {
        f"Host: 127.0.0.1:{each.port}",
        "User-Agent: job-service-webhooks",
        "Content-Type: application/json",
        f"Content-Length: {len(BODY)}",
        "Accept-Encoding: identity",
        "Connection: close",
        "webhook-id: msg_1",
    }
    assert body == BODY
    assert each.connections == 1


def test_of_a_failure_the_start_of_its_body_is_kept_in_one_printable_line() -> None:
    body = "größe\r\n\x1b[31mred\u202e \x00 ".encode() + b"\xff" + b"x" * 1000
    answer, _ = tried(answers(b"HTTP/1.1 500 Oh\r\nContent-Length: %d\r\n\r\n" % len(body) + body))

    assert answer.status == 500
    assert answer.excerpt.startswith("größe [31mred \ufffdxxx")
    assert len(answer.excerpt) == 500


def test_a_body_that_is_packed_is_not_unpacked() -> None:
    answer, _ = tried(answers(b"HTTP/1.1 500 Oh\r\nContent-Encoding: gzip\r\n\r\n\x1f\x8b\x08bomb"))

    assert (answer.status, answer.excerpt) == (500, "")


def test_a_body_in_chunks_is_put_together() -> None:
    answer, _ = tried(answers(b"HTTP/1.1 400 No\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n"))

    assert (answer.status, answer.excerpt) == (400, "abcde")


@pytest.mark.parametrize("code", [301, 302, 303, 307, 308])
def test_a_redirect_is_not_followed_but_told(code: int) -> None:
    async def run() -> tuple[Answer, int]:
        async with receiver(answers(b"HTTP/1.1 200 OK\r\n\r\n")) as inside:
            redirect = f"HTTP/1.1 {code} There\r\nLocation: {inside.url}\r\nContent-Length: 0\r\n\r\n".encode()
            async with receiver(answers(redirect)) as outside:
                answer = await sent(outside.url)
                assert answer.location == inside.url
                return answer, inside.connections

    answer, connections = asyncio.run(run())
    assert (answer.status, connections) == (code, 0)


def test_a_receiver_that_listens_nowhere_refuses_the_connection() -> None:
    with pytest.raises(NoAnswer, match="^connection refused$"):
        asyncio.run(sent(f"http://127.0.0.1:{free_port()}/"))


@pytest.mark.parametrize(
    "talk",
    [
        hangs,
        repeats(b"", b"H", pause=0.01),
        repeats(b"HTTP/1.1 200 OK\r\nX: ", b"x", pause=0.01),
        repeats(b"", b"HTTP/1.1 102 Wait\r\n\r\n", pause=0.02),
    ],
    ids=["silent", "a status that drips", "a header that drips", "asks for patience"],
)
def test_a_receiver_that_does_not_come_to_an_answer_is_left_when_the_time_is_over(talk: Talk) -> None:
    assert failed(talk, seconds=0.5) == "no answer within 0.5 s"


@pytest.mark.parametrize(
    ("talk", "said"),
    [
        (answers(b""), "closed the connection without an answer"),
        (answers(b"HTTP/1.1 200 O"), "closed the connection without an answer"),
        (answers(b"SSH-2.0-OpenSSH_9.2\r\n\r\n"), "cannot be read as HTTP/1.1"),
        (answers(b"\x15\x03\x01\x00\x02\x02\x28\r\n\r\n"), "cannot be read as HTTP/1.1"),
        (answers(b"HTTP/1.1 abc OK\r\n\r\n"), "cannot be read as HTTP/1.1"),
        (answers(b"HTTP/1.1 101 Switching\r\nUpgrade: x\r\n\r\n"), "cannot be read as HTTP/1.1"),
        (answers(b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n"), "cannot be read as HTTP/1.1"),
        (repeats(b"HTTP/1.1 200 OK\r\n", b"X: y\r\n" * 1000), "head does not end within 16384 bytes"),
        (repeats(b"", b"\x00" * 4096), "cannot be read as HTTP/1.1"),
        (repeats(b"", b"HTTP/1.1 100 Continue\r\n\r\n" * 100), "head does not end within 16384 bytes"),
    ],
)
def test_an_answer_that_is_none_is_told_at_once(talk: Talk, said: str) -> None:
    message = failed(talk)

    assert said in message
    assert len(message) < 300
    assert message.isprintable()


def test_a_receiver_that_resets_the_connection_is_told() -> None:
    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connection = writer.get_extra_info("socket")
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        writer.transport.abort()

    assert failed(talk) == "the receiver reset the connection"


def test_a_body_without_end_is_not_read_to_its_end() -> None:
    written = 0

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal written
        writer.write(b"HTTP/1.1 500 Oh\r\nContent-Length: 10000000000\r\n\r\n")
        while written < 10**10:
            writer.write(b"x" * 2**16)
            written += 2**16
            await writer.drain()

    answer, _ = tried(talk)

    assert (answer.status, answer.excerpt) == (500, "x" * 500)
    assert written < 100 * 2**20  # what the buffers of two sockets may hold, and more


@pytest.mark.parametrize(
    "talk",
    [
        repeats(b"HTTP/1.1 200 OK\r\n\r\n", b"x", pause=0.01),
        repeats(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", b"1\r\nx\r\n", pause=0.01),
    ],
)
def test_a_body_that_drips_does_not_put_its_status_in_doubt(talk: Talk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sender, "LONGEST_BODY", 0.3)

    answer, _ = tried(talk)

    assert answer.status == 200
    assert answer.excerpt.startswith("xx")


def test_a_body_that_drips_until_the_time_is_over_does_not_put_its_status_in_doubt() -> None:
    answer, _ = tried(repeats(b"HTTP/1.1 200 OK\r\n\r\n", b"x", pause=0.01), seconds=1.0)

    assert answer.status == 200


@pytest.mark.parametrize(
    "data",
    [
        b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nabc",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\nno chunk\r\n",
    ],
)
def test_a_body_that_breaks_off_does_not_put_its_status_in_doubt(data: bytes) -> None:
    answer, _ = tried(answers(data))

    assert (answer.status, answer.excerpt) == (200, "abc")


def test_receivers_that_hang_hold_up_nobody_else() -> None:
    async def run() -> Answer:
        async with receiver(hangs) as slow, receiver(answers(b"HTTP/1.1 200 OK\r\n\r\n")) as quick:
            hanging = [asyncio.create_task(sent(slow.url)) for _ in range(49)]
            await slow.asked(49)
            answer = await sent(quick.url)
            assert not any(each.done() for each in hanging)
            for each in hanging:
                each.cancel()
            await asyncio.gather(*hanging, return_exceptions=True)
            return answer

    assert asyncio.run(run()).status == 200


def test_a_try_that_is_cancelled_at_any_moment_ends_its_connection(monkeypatch: pytest.MonkeyPatch) -> None:
    async def resolved(host: str, port: int, allowed: Allowed) -> Any:  # in no time: each moment is the same each time
        return [("127.0.0.1", port)]

    monkeypatch.setattr(sender, "resolve", resolved)

    async def run() -> int:
        async with receiver(hangs) as each:
            for moment in range(30):
                task = asyncio.create_task(sent(each.url))
                for _ in range(moment):
                    await asyncio.sleep(0)
                task.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await task
                await each.left()
            task = asyncio.create_task(sent(each.url))
            await each.asked(len(each.requests) + 1)
            task.cancel()
            await each.left()
            return each.connections

    assert asyncio.run(run()) > 1
