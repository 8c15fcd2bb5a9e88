"""Which addresses a webhook may go to: public ones, and those that WEBHOOK_ALLOW opens.

A caller chooses the URL, so without this the service would reach for him what only its own network can
(server-side request forgery). The connection is made to an address that was checked, never to a name:
a name may lead elsewhere when it is looked up again.
"""

from __future__ import annotations

import asyncio
import re
import socket
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network

from service.webhooks.destination import InvalidUrl, ascii_name, parse_url

Address = IPv4Address | IPv6Address
Network = IPv4Network | IPv6Network
SocketAddress = tuple[str, int] | tuple[str, int, int, int]

OPENS = "webhooks go to public addresses only, WEBHOOK_ALLOW opens others"
_NUMBER = r"(?:0x[0-9a-f]*|[0-9]+)"
_NUMBERS = re.compile(rf"{_NUMBER}(?:\.{_NUMBER}){{0,3}}")
_LOOPBACK = (ip_address("127.0.0.1"), ip_address("::1"))
_NAT64 = IPv6Network("64:ff9b::/96")
_UNICAST = IPv6Network("2000::/3")  # all that is given out; ::/96, fec0::/10, 64:ff9b:1::/48 are not in it

# What `is_global` leaves open, in one version of Python or another: each leads to what belongs to a network, not
# to the world. Of 192.0.0.0/24 and 168.63.129.16 two clouds make what their machines read their secrets from.
# Source: the IANA registries of special-purpose addresses.
_NOT_PUBLIC = tuple(
    map(ip_network, ("192.0.0.0/24", "192.88.99.0/24", "168.63.129.16/32", "2001::/23", "2001:db8::/32", "3fff::/20"))
)

# A thread for each delivery that may run at once, and some for those that were given up while they looked up a
# name: that cannot be interrupted, and a name server that does not answer must not hold up other receivers.
_LOOKUPS = ThreadPoolExecutor(64, thread_name_prefix="webhook-lookup")


class AddressRefused(ValueError):
    """The URL leads to an address that webhooks may not go to; the message names it."""


@dataclass(frozen=True)
class Allowed:
    """What WEBHOOK_ALLOW opens: networks, and hosts whatever their addresses are."""

    networks: tuple[Network, ...] = ()
    hosts: frozenset[str] = frozenset()

    def opens(self, address: Address) -> bool:
        """Whether an address lies in one of the networks."""
        mapped = address.ipv4_mapped if isinstance(address, IPv6Address) else None
        return any((mapped or address) in network or address in network for network in self.networks)


def parse_allowed(items: Iterable[str]) -> Allowed:
    """Read WEBHOOK_ALLOW's networks, addresses and host names. Raises ValueError."""
    networks: list[Network] = []
    hosts: set[str] = set()
    for item in items:
        try:
            networks.append(ip_network(item.removeprefix("[").removesuffix("]")))
        except ValueError:
            hosts.add(_host(item))
    return Allowed(tuple(networks), frozenset(hosts))


def check_url(url: str, allowed: Allowed) -> None:
    """See at submit what can be seen of a URL without looking its name up. Raises InvalidUrl, AddressRefused."""
    host = parse_url(url).host
    if host in allowed.hosts:
        return
    address = literal(host)
    if address is not None and not _may_be_reached(address, allowed):
        raise _refused(host, address)
    if _is_localhost(host) and not any(allowed.opens(each) for each in _LOOPBACK):
        raise AddressRefused(f"{host} is this machine itself: {OPENS}")


async def resolve(host: str, port: int, allowed: Allowed) -> list[SocketAddress]:
    """Look a host up, once, and return its addresses, each checked.

    Raises AddressRefused if only one of them may not be reached: whoever mixes them means no good. OSError.
    """
    found = await asyncio.get_running_loop().run_in_executor(_LOOKUPS, _look_up, host, port)
    addresses: list[SocketAddress] = []
    for text, *rest in found:
        ip, _, zone = text.partition("%")
        address = ip_address(ip)
        if host not in allowed.hosts and (zone or not _may_be_reached(address, allowed)):
            raise _refused(host, address)
        addresses.append((ip, *rest))  # type: ignore[arg-type]  # as getaddrinfo has it; the zone's number is in `rest`
    return list(dict.fromkeys(addresses))


def literal(host: str) -> Address | None:
    """The address that a host is, in any notation that a resolver takes for one (127.1, 0x7f.1, 2130706433)."""
    with suppress(ValueError):
        return ip_address(host)
    if _NUMBERS.fullmatch(host):
        with suppress(OSError):
            return IPv4Address(socket.inet_aton(host))
    return None


def is_public(address: Address) -> bool:
    """Whether an address is one of the internet's, and so is the one that it stands for, if it does."""
    if isinstance(address, IPv6Address):
        inner = _stands_for(address)
        if inner is not None:
            return is_public(inner)
        if address not in _UNICAST:
            return False
    if any(address in network for network in _NOT_PUBLIC):
        return False
    return address.is_global and not address.is_multicast and not address.is_reserved


def _stands_for(address: IPv6Address) -> IPv4Address | None:
    """The IPv4 address that a gateway makes of it. Not Teredo's: all of 2001::/32 is refused."""
    if address in _NAT64:
        return IPv4Address(int(address) & 0xFFFF_FFFF)
    return address.ipv4_mapped or address.sixtofour


def _may_be_reached(address: Address, allowed: Allowed) -> bool:
    return allowed.opens(address) or is_public(address)


def _look_up(host: str, port: int) -> list[tuple[str, ...]]:
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return [address for family, _, _, _, address in found if family in (socket.AF_INET, socket.AF_INET6)]  # type: ignore[misc]


def _refused(host: str, address: Address) -> AddressRefused:
    named = "" if host == str(address) else f"{host} leads to {address}: "
    return AddressRefused(f"{named}{address} is not a public address: {OPENS}")


def _is_localhost(host: str) -> bool:
    return host == "localhost" or host.endswith(".localhost")


def _host(item: str) -> str:
    try:
        host = ascii_name(item)
    except InvalidUrl:
        host = ""
    if not host or literal(host) is not None:
        raise ValueError(
            f"{item!r} is no network (10.0.0.0/8, its last bits 0), no address (10.0.0.7, ::1) and no host name "
            "(hooks.example.com, without a scheme, a port or *)"
        )
    return host
