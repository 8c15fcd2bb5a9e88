"""REDIS_URL: is it one, and what of it may be shown. No password, wherever it stands, leaves this file."""

from __future__ import annotations

import re
from urllib.parse import unquote, urlsplit

import redis

SCHEMES = ("redis://", "rediss://", "unix://")
HIDDEN = "..."

_SCHEME = re.compile(r"(redis|rediss|valkey|valkeys|unix|https?|tcp|sentinel)([+-](ssl|tls|sentinel|cluster|socket))?")
_HOST_AND_DATABASE = re.compile(r"((?:[A-Za-z0-9._-]+|\[[0-9A-Fa-f:.]+\])(?::\d{1,5})?)((?:/\d{0,5})?)")
_PATH = re.compile(r"/[^?#@\r\n]*")
_HOST = re.compile(r"[A-Za-z0-9._:-]+(%[A-Za-z0-9]+)?")
_DATABASE = re.compile(r"/?\d*/?")
_QUERY = re.compile(r"[A-Za-z_]+=[^&]*(&[A-Za-z_]+=[^&]*)*")


def without_password(url: str) -> str:
    """Scheme, host, port and database, or the path, as far as they surely are that; what may be a secret is `...`.

    For any text: a URL that is wrong must be told about, too, and a slip may have put a password anywhere.
    """
    scheme, separator, rest = url.partition("://")
    if not separator:
        scheme, rest = "", url
    elif not _SCHEME.fullmatch(scheme):
        return HIDDEN
    shown = _place(rest, _PATH if scheme == "unix" else _HOST_AND_DATABASE)
    return f"{scheme}{separator}{shown}"


def _place(rest: str, pattern: re.Pattern[str]) -> str:
    before, at, place = rest.rpartition("@")
    if at and re.search(r"[/?#]", before):  # is that of the password, or is the @ of a query's? Nobody can tell
        return HIDDEN
    place = re.split(r"[?#]", place, maxsplit=1)[0]
    return place if pattern.fullmatch(place) else HIDDEN


def check(url: str) -> str:
    """The URL, if redis-py takes it. Raises ValueError, which does not repeat any of it."""
    if not url.startswith(SCHEMES):
        raise ValueError(f"should start with {', '.join(SCHEMES)}")
    wrong = ValueError(
        "should be redis://[user:password@]host[:port][/database]; in a password, / ? # @ : and % are percent-encoded"
    )
    try:
        if _is_torn(url):
            raise wrong
        # Made as the pool will make it, and not connected: an option that does not exist shows only here.
        redis.ConnectionPool.from_url(url).make_connection()
    except Exception:  # redis-py raises what it pleases, with parts of the URL in its message
        raise wrong from None
    return url


def _is_torn(url: str) -> bool:
    """Whether a password that is not encoded has torn it: a part of it would be taken for the host, and told."""
    parts = urlsplit(url)
    if "@" in parts.fragment or ("@" in parts.query and not _QUERY.fullmatch(parts.query)):
        return True
    if parts.scheme == "unix":
        return not parts.path.startswith("/")
    return not (_HOST.fullmatch(unquote(parts.hostname or "localhost")) and _DATABASE.fullmatch(parts.path))
