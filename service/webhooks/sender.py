"""One try of a webhook: a POST to a checked address, over within its time whatever the receiver does.

HTTP/1.1 on a connection of its own. A redirect is not followed: it may lead anywhere. Proxies that the
environment names are not used: one would look the name up again.
"""

from __future__ import annotations

import asyncio
import functools
import socket
import ssl
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager, suppress

import h11

from service.webhooks.address import Allowed, SocketAddress, resolve
from service.webhooks.answer import Answer, answer_of, printable
from service.webhooks.destination import Destination, parse_url

LONGEST_TRY = 15.0  # seconds, from looking up the name
LONGEST_BODY = 2.0  # seconds of them that the answer's body may take once its status is known
MOST_READ = 16 * 1024  # bytes of an answer with its head, whatever it is made of
MOST_ADDRESSES = 4
USER_AGENT = "job-service-webhooks"

_SAID: tuple[tuple[type[OSError], str], ...] = (
    (ConnectionRefusedError, "connection refused"),
    (ConnectionResetError, "the receiver reset the connection"),
    (BrokenPipeError, "the receiver closed the connection"),
    (TimeoutError, "the connection timed out"),
)


class NoAnswer(Exception):
    """A try ended without an answer; the message says what happened."""


async def post(
    url: str, headers: Mapping[str, str], body: bytes, allowed: Allowed, seconds: float = LONGEST_TRY
) -> Answer:
    """Send JSON to a URL, once. Raises NoAnswer; InvalidUrl and AddressRefused if it may not go there."""
    destination = parse_url(url)
    loop = asyncio.get_running_loop()
    began = loop.time()
    try:
        async with asyncio.timeout_at(began + seconds) as limit:
            addresses = await resolve(destination.host, destination.port, allowed)
            async with _connected(destination, addresses, began + seconds) as (reader, writer):
                exchange = _Exchange(reader)
                writer.write(exchange.request(destination, headers, body))
                head = await exchange.head()
                taken = loop.time() - began
                limit.reschedule(None)  # the status stands, whatever becomes of the body
                excerpt = await exchange.excerpt(min(began + seconds, loop.time() + LONGEST_BODY))
                return answer_of(head.status_code, head.headers, excerpt, taken)
    except h11.RemoteProtocolError as error:
        raise NoAnswer(f"the answer cannot be read as HTTP/1.1: {printable(str(error), 200)}") from None
    except OSError as error:
        if limit.expired():
            raise NoAnswer(f"no answer within {seconds:g} s") from None
        raise NoAnswer(_said(error, destination.host)) from None


@functools.cache
def tls() -> ssl.SSLContext:
    """What certificates are checked with: the system's authorities, or those of SSL_CERT_FILE.

    Made once: that takes some 50 ms, in which nothing else runs on the event loop.
    """
    context = ssl.create_default_context()
    context.set_alpn_protocols(["http/1.1"])
    return context


class _Exchange:
    """One request and its answer, of which no more than MOST_READ bytes are read."""

    def __init__(self, reader: asyncio.StreamReader) -> None:
        self._http = h11.Connection(h11.CLIENT)
        self._reader = reader
        self._left = MOST_READ

    def request(self, destination: Destination, headers: Mapping[str, str], body: bytes) -> bytes:
        """The request as it goes over the wire."""
        all_headers = {
            "Host": destination.authority,
            "User-Agent": USER_AGENT,
            "Content-Type": "application/json",
            "Content-Length": str(len(body)),
            "Accept-Encoding": "identity",
            "Connection": "close",
            **headers,
        }
        request = h11.Request(method="POST", target=destination.target, headers=list(all_headers.items()))
        events = (request, h11.Data(data=body), h11.EndOfMessage())
        return b"".join(self._http.send(event) or b"" for event in events)

    async def head(self) -> h11.Response:
        """The answer's status and headers. Raises NoAnswer, h11.RemoteProtocolError, OSError."""
        while True:
            event = self._http.next_event()
            if isinstance(event, h11.Response):
                return event
            if isinstance(event, h11.InformationalResponse):  # 100 Continue and the like, any number of them
                continue
            if not await self._read():
                if self._left > 0:
                    raise NoAnswer("the receiver closed the connection without an answer")
                raise NoAnswer(f"the answer's head does not end within {MOST_READ} bytes")

    async def excerpt(self, deadline: float) -> bytes:
        """The start of the answer's body, as far as it can be read until `deadline`."""
        kept = bytearray()
        with suppress(OSError, h11.RemoteProtocolError):
            async with asyncio.timeout_at(deadline):
                while True:
                    event = self._http.next_event()
                    if isinstance(event, h11.Data):
                        kept += event.data
                    elif event is not h11.NEED_DATA or not await self._read():
                        break
        return bytes(kept)

    async def _read(self) -> bool:
        """Take what has come; False if nothing more will, or enough has."""
        data = await self._reader.read(min(4096, self._left)) if self._left > 0 else b""
        self._left -= len(data)
        if data:
            self._http.receive_data(data)
        return bool(data)


@asynccontextmanager
async def _connected(
    destination: Destination, addresses: Sequence[SocketAddress], deadline: float
) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    # Whatever it raises, open_connection closes the connection that it was given.
    reader, writer = await asyncio.open_connection(
        sock=await _first_that_answers(addresses[:MOST_ADDRESSES], deadline),
        ssl=tls() if destination.secure else None,
        server_hostname=destination.host if destination.secure else None,
    )
    try:
        yield reader, writer
    finally:
        writer.transport.abort()  # close() would wait for a receiver to take its leave


async def _first_that_answers(addresses: Sequence[SocketAddress], deadline: float) -> socket.socket:
    loop = asyncio.get_running_loop()
    failed: OSError = OSError("the host has no address")
    for number, address in enumerate(addresses):
        # Each gets its share of the time: a first one that swallows everything must not use it up.
        share = (deadline - loop.time()) / (len(addresses) - number)
        try:
            async with asyncio.timeout(share):
                return await _connect(address)
        except OSError as error:
            failed = error
    raise failed


async def _connect(address: SocketAddress) -> socket.socket:
    connection = socket.socket(socket.AF_INET if len(address) == 2 else socket.AF_INET6, socket.SOCK_STREAM)
    try:
        connection.setblocking(False)
        await asyncio.get_running_loop().sock_connect(connection, address)
    except BaseException:
        connection.close()
        raise
    return connection


def _said(error: OSError, host: str) -> str:
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"the certificate of {host} is not accepted: {error.verify_message}"
    if isinstance(error, ssl.SSLError):
        return f"no TLS with {host}: {error.reason or error}"
    if isinstance(error, socket.gaierror):
        return f"{host} cannot be looked up: {error.strerror}"
    for kind, text in _SAID:
        if isinstance(error, kind):
            return text
    return error.strerror or str(error)
