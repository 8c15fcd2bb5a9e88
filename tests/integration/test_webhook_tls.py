"""Webhooks over TLS: the certificate must be of the host in the URL, and of an authority that is trusted."""

from __future__ import annotations

import asyncio
import socket
import ssl
from pathlib import Path
from typing import Any

import pytest
import trustme

from service.webhooks import sender
from service.webhooks.address import Allowed, parse_allowed
from service.webhooks.answer import Answer
from service.webhooks.sender import NoAnswer, post, tls
from tests.receivers import answers, hangs, receiver

ENOUGH = 60.0  # seconds, for what must not need them
OK = answers(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")


@pytest.fixture
def authority(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> trustme.CA:
    """An authority that the sender trusts. Every name leads to this machine."""
    authority = trustme.CA()
    authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "ca.pem"))
    tls.cache_clear()
    look_up = socket.getaddrinfo

    def getaddrinfo(host: str, port: int, *arguments: Any, **options: Any) -> Any:
        return look_up("127.0.0.1", port, *arguments, **options)

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    yield authority
    tls.cache_clear()


def served(authority: trustme.CA, name: str, asked: list[str | None] | None = None) -> ssl.SSLContext:
    """What a server with a certificate for a name speaks TLS with; `asked` gets the names it was asked for."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert(name).configure_cert(context)
    if asked is not None:
        context.sni_callback = lambda connection, host, context: asked.append(host)
    return context


def sent(host: str, context: ssl.SSLContext | None, scheme: str = "https", seconds: float = ENOUGH) -> Answer:
    async def run() -> Answer:
        async with receiver(OK, context) as each:
            return await post(f"{scheme}://{host}:{each.port}/", {}, b"{}", parse_allowed(["127.0.0.1"]), seconds)

    return asyncio.run(run())


def test_a_host_with_a_certificate_of_its_own_is_asked_for_by_name(authority: trustme.CA) -> None:
    asked: list[str | None] = []

    answer = sent("hooks.example", served(authority, "hooks.example", asked))

    assert (answer.status, answer.excerpt) == (200, "ok")
    assert asked == ["hooks.example"]


def test_a_host_in_another_script_has_its_certificate_in_ascii(authority: trustme.CA) -> None:
    assert sent("bücher.example", served(authority, "xn--bcher-kva.example")).status == 200


def test_an_address_may_have_a_certificate(authority: trustme.CA) -> None:
    assert sent("127.0.0.1", served(authority, "127.0.0.1")).status == 200


def test_a_certificate_of_another_host_is_not_accepted(authority: trustme.CA) -> None:
    with pytest.raises(NoAnswer, match="^the certificate of hooks.example is not accepted: .*[Hh]ostname mismatch"):
        sent("hooks.example", served(authority, "other.example"))


def test_a_certificate_that_nobody_vouches_for_is_not_accepted(authority: trustme.CA) -> None:
    with pytest.raises(NoAnswer, match="^the certificate of hooks.example is not accepted: .*self.signed|local issuer"):
        sent("hooks.example", served(trustme.CA(), "hooks.example"))


def test_a_receiver_without_tls_is_told(authority: trustme.CA) -> None:
    with pytest.raises(NoAnswer, match="^no TLS with hooks.example"):
        asyncio.run(_sent_to_plain_server())


def test_a_handshake_that_does_not_end_is_left_when_the_time_is_over(authority: trustme.CA) -> None:
    async def run() -> None:
        ended = asyncio.Event()

        async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.read()
            ended.set()
            writer.close()

        server = await asyncio.start_server(silent, "127.0.0.1", 0)
        async with server:
            port = server.sockets[0].getsockname()[1]
            with pytest.raises(NoAnswer, match="^no answer within 0.5 s$"):
                await post(f"https://hooks.example:{port}/", {}, b"{}", parse_allowed(["127.0.0.1"]), 0.5)
            await asyncio.wait_for(ended.wait(), ENOUGH)

    asyncio.run(run())


def test_a_try_over_tls_that_is_cancelled_at_any_moment_ends_its_connection(
    authority: trustme.CA, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def resolved(host: str, port: int, allowed: Allowed) -> Any:  # in no time: each moment is the same each time
        return [("127.0.0.1", port)]

    monkeypatch.setattr(sender, "resolve", resolved)

    async def run() -> None:
        async with receiver(hangs, served(authority, "hooks.example")) as each:
            url = f"https://hooks.example:{each.port}/"
            for moment in range(60):
                task = asyncio.create_task(post(url, {}, b"{}", parse_allowed(["127.0.0.1"]), ENOUGH))
                for _ in range(moment):
                    await asyncio.sleep(0)
                task.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await task
                await each.left()
            task = asyncio.create_task(post(url, {}, b"{}", parse_allowed(["127.0.0.1"]), ENOUGH))
            await each.asked(1)
            task.cancel()
            await each.left()

    asyncio.run(run())


async def _sent_to_plain_server() -> None:
    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(1)
        writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        writer.close()

    server = await asyncio.start_server(talk, "127.0.0.1", 0)
    async with server:
        port = server.sockets[0].getsockname()[1]
        await post(f"https://hooks.example:{port}/", {}, b"{}", parse_allowed(["127.0.0.1"]), ENOUGH)
