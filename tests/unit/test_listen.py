"""HOST and PORT: every form of an address is understood, and what is none is named."""

from __future__ import annotations

import errno
import socket
from contextlib import closing

import pytest

from service import listen
from service.failure import CannotListen
from service.settings import Settings
from tests.deployment import free_port


@pytest.mark.parametrize(
    ("host", "bind", "base"),
    [
        ("127.0.0.1", "127.0.0.1:8000", "http://127.0.0.1:8000"),
        ("0.0.0.0", "0.0.0.0:8000", "http://127.0.0.1:8000"),
        ("::1", "[::1]:8000", "http://[::1]:8000"),
        ("[::1]", "[::1]:8000", "http://[::1]:8000"),
        ("::", "[::]:8000", "http://[::1]:8000"),
        ("[::]", "[::]:8000", "http://[::1]:8000"),
        ("localhost", "127.0.0.1:8000", "http://localhost:8000"),
        (" 127.0.0.1 ", "127.0.0.1:8000", "http://127.0.0.1:8000"),
    ],
)
def test_a_host_in_any_form_is_listened_on(host: str, bind: str, base: str) -> None:
    settings = Settings(host=host, port=8000)

    assert (listen.bind(settings), listen.base_url(settings)) == (bind, base)


@pytest.mark.parametrize(
    "host",
    ["x86_64-conda-linux-gnu", "127.0.0.1:8000", "http://127.0.0.1", "no such host", "300.1.1.1", "[::1", "\udcff"],
)
def test_a_host_that_is_no_address_is_named(host: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def unknown(*_: object, **__: object) -> None:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    if host.endswith("gnu"):
        monkeypatch.setattr(socket, "getaddrinfo", unknown)  # no name server is asked

    with pytest.raises(CannotListen, match="HOST is '.*conda.*unset it"):
        listen.check(Settings(host=host, port=8000))


def test_an_address_of_another_machine_is_told_from_a_port_that_is_taken() -> None:
    with pytest.raises(CannotListen, match=r"HOST is '192\.0\.2\.1', which is no address of this machine"):
        listen.check(Settings(host="192.0.2.1", port=8000))
    with closing(socket.socket()) as other:
        other.bind(("127.0.0.1", free_port()))
        other.listen()
        port = other.getsockname()[1]

        with pytest.raises(CannotListen, match=rf"127\.0\.0\.1:{port} \(Address already in use\).*set PORT"):
            listen.check(Settings(port=port), within=0.2)


def test_the_port_that_is_proposed_can_be_used() -> None:
    remedies = {port: listen._remedy(OSError(errno.EADDRINUSE, ""), Settings(port=port)) for port in (80, 8000, 65535)}

    assert [text.rpartition("PORT=")[2] for text in remedies.values()] == ["8000", "8001", "8000"]
