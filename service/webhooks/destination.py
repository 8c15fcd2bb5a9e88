"""A webhook's URL, taken apart: whom to connect to, and what to ask for there."""

from __future__ import annotations

import re
from dataclasses import dataclass
from ipaddress import IPv6Address
from urllib.parse import SplitResult, quote, urlsplit

LONGEST_URL = 2_000
PORTS = {"http": 80, "https": 443}
LONGEST_HOST = 253
HOST = re.compile(r"[a-z0-9_-]{1,63}(?:\.[a-z0-9_-]{1,63})*")
_KEPT = "!#$%&'()*+,/:;=?@[]~"  # of a path or query; RFC 3986, reserved characters and what is escaped already


class InvalidUrl(ValueError):
    """No webhook can be sent to this URL; the message says what is allowed."""


@dataclass(frozen=True)
class Destination:
    """Where a webhook goes. `host` is a name in ASCII and lower case, or an address without brackets."""

    scheme: str
    host: str
    port: int
    target: str

    @property
    def secure(self) -> bool:
        return self.scheme == "https"

    @property
    def authority(self) -> str:
        """What the Host header says."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == PORTS[self.scheme] else f"{host}:{self.port}"


def parse_url(url: str) -> Destination:
    """Take a URL apart; its fragment is left out. Raises InvalidUrl."""
    if len(url) > LONGEST_URL:
        raise InvalidUrl(f"the URL is too long: at most {LONGEST_URL:,} characters are allowed")
    # Before urlsplit, which drops tabs and line ends without a word.
    if not url.isprintable() or " " in url:
        raise InvalidUrl("the URL holds a space or a control character: write it as %20, %0A")
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError as error:
        raise InvalidUrl(f"the URL cannot be read: {error}") from None
    if parts.scheme not in PORTS:
        raise InvalidUrl("the URL should start with http:// or https://")
    if "@" in parts.netloc:
        raise InvalidUrl("the URL should hold no user name or password")
    if port == 0:
        raise InvalidUrl("the port should be from 1 to 65535")
    return Destination(parts.scheme, _host(parts), port or PORTS[parts.scheme], _target(parts))


def ascii_name(host: str) -> str:
    """A host name in lower case and ASCII (RFC 3490), without a dot at its end. Raises InvalidUrl."""
    try:
        # Before anything looks at it: the codec makes 127.0.0.1 of its digits in circles.
        name = host.encode("idna").decode("ascii").lower().removesuffix(".")
    except UnicodeError:
        raise InvalidUrl(f"{host[:LONGEST_HOST]!r} is no host name") from None
    if len(name) > LONGEST_HOST or not HOST.fullmatch(name):
        raise InvalidUrl(f"{host[:LONGEST_HOST]!r} is no host name")
    return name


def _host(parts: SplitResult) -> str:
    host = parts.hostname
    if not host:
        raise InvalidUrl("the URL should name a host, as https://example.com/hook")
    if "[" not in parts.netloc:
        return ascii_name(host)
    try:
        address = IPv6Address(host)
    except ValueError:
        raise InvalidUrl(f"[{host}] is no IPv6 address") from None
    if address.scope_id is not None:
        raise InvalidUrl(f"[{host}] has a zone, which means nothing to others: leave out what follows %")
    return str(address)


def _target(parts: SplitResult) -> str:
    path = quote(parts.path, safe=_KEPT) or "/"
    return f"{path}?{quote(parts.query, safe=_KEPT)}" if parts.query else path
