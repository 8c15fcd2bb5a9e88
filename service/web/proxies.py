"""Requests that came through a reverse proxy: what it says of the caller and of its own path, if it is trusted."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from typing import Any

Address = IPv4Address | IPv6Address
Network = IPv4Network | IPv6Network

_HOST = re.compile(r"[A-Za-z0-9._-]{1,255}(:[0-9]{1,5})?|\[[0-9A-Fa-f:.]{2,45}\](:[0-9]{1,5})?")
_PREFIX = re.compile(r"(/[A-Za-z0-9_~-][A-Za-z0-9._~-]*){1,10}/?")
_LONGEST_PREFIX = 200
_SAID = ("HTTP_X_FORWARDED_FOR", "HTTP_X_FORWARDED_PROTO", "HTTP_X_FORWARDED_HOST", "HTTP_X_FORWARDED_PREFIX")


class TrustedProxies:
    """Applies X-Forwarded-For, -Proto, -Host and -Prefix of the proxies that are trusted; nobody else's are read.

    The proxy takes its prefix off the path, and says with -Prefix what it has taken.
    """

    def __init__(self, application: Callable[..., Any], trusted: Sequence[str]) -> None:
        self._application = application
        self._trusted: list[Network] = [ip_network(item, strict=False) for item in trusted]

    def __call__(self, environ: dict[str, Any], start_response: Any) -> Any:
        """Answer a request."""
        if any(name in environ for name in _SAID) and self._trusts(_address(environ.get("REMOTE_ADDR", ""))):
            self._apply(environ)
        return self._application(environ, start_response)

    def _apply(self, environ: dict[str, Any]) -> None:
        hops, protocol, host, prefix = (environ.get(name, "") for name in _SAID)
        if caller := self._caller(hops):
            environ["REMOTE_ADDR"] = str(caller)
        if (scheme := _last(protocol).lower()) in ("http", "https"):
            environ["wsgi.url_scheme"] = scheme
        if _HOST.fullmatch(_last(host)):
            environ["HTTP_HOST"] = _last(host)
        if len(prefix) <= _LONGEST_PREFIX and _PREFIX.fullmatch(prefix):
            environ["SCRIPT_NAME"] = prefix.rstrip("/")

    def _caller(self, hops: str) -> Address | None:
        """The last address that is no proxy of ours: what comes before it, the caller may have written."""
        caller = None
        for hop in reversed(hops.split(",")):
            address = _address(hop.strip())
            if address is None:
                break
            caller = address
            if not self._trusts(address):
                break
        return caller

    def _trusts(self, address: Address | None) -> bool:
        return address is not None and any(address in network for network in self._trusted)


def _last(values: str) -> str:
    return values.rpartition(",")[2].strip()


def _address(text: str) -> Address | None:
    try:
        address = ip_address(text)
    except ValueError:
        return None
    mapped = address.ipv4_mapped if isinstance(address, IPv6Address) else None
    return mapped or address
