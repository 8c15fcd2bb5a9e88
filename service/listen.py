"""HOST and PORT: what they stand for, and whether they can be listened on."""

from __future__ import annotations

import errno
import ipaddress
import socket
import time

from service.failure import CannotListen
from service.settings import Settings


def bind(settings: Settings) -> str:
    """`address:port` to listen on, as gunicorn takes it: HOST may be a name. Raises CannotListen."""
    _, address = _resolved(settings)
    return _joined(address, settings.port)


def base_url(settings: Settings) -> str:
    """The service's address for who is on this machine. Raises CannotListen."""
    _, address = _resolved(settings)
    ip = ipaddress.ip_address(address.partition("%")[0])
    if ip.is_unspecified:  # all addresses: one of them is this machine's own
        return f"http://{'127.0.0.1' if ip.version == 4 else '[::1]'}:{settings.port}"
    return f"http://{_joined(settings.host, settings.port)}"


def check(settings: Settings, within: float = 0.0) -> None:
    """Make sure that HOST and PORT can be listened on, at once or within some seconds. Raises CannotListen."""
    family, address = _resolved(settings)
    deadline = time.monotonic() + within
    while (error := _tried(family, (address, settings.port))) is not None:
        if error.errno != errno.EADDRINUSE or time.monotonic() > deadline:
            where = _joined(settings.host, settings.port)
            raise CannotListen(f"cannot listen on {where} ({error.strerror}): {_remedy(error, settings)}")
        time.sleep(0.1)


def _tried(family: socket.AddressFamily, address: tuple[str, int]) -> OSError | None:
    with socket.socket(family) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as gunicorn does: TIME_WAIT is no obstacle
        try:
            probe.bind(address)
        except OSError as error:
            return error
    return None


def _resolved(settings: Settings) -> tuple[socket.AddressFamily, str]:
    try:
        found = socket.getaddrinfo(settings.host, settings.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except (OSError, UnicodeError):
        raise CannotListen(
            f"HOST is {settings.host!r}, which is no address and no name of one (conda, for one, exports a HOST of its "
            "own): unset it, or set it to 127.0.0.1, or to 0.0.0.0 to be reached from other machines"
        ) from None
    family, _, _, _, address = min(found, key=lambda each: each[0] != socket.AF_INET)
    return family, str(address[0])


def _remedy(error: OSError, settings: Settings) -> str:
    if error.errno == errno.EADDRNOTAVAIL:
        return f"HOST is {settings.host!r}, which is no address of this machine; set it to 127.0.0.1, or unset it"
    other = settings.port + 1 if 1024 <= settings.port < 65535 else 8000
    if error.errno == errno.EACCES:
        return f"set PORT to one that you may use, as in PORT={other}"
    return f"stop what does, or set PORT to another, as in PORT={other}"


def _joined(host: str, port: int) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
