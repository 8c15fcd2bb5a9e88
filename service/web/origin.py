"""Whether a request comes from a page of ours, from another site, or from no page at all.

A browser sends a user's cookies and reaches a user's localhost on behalf of any site; what changes
something, and every WebSocket (which the same-origin policy does not cover), asks here first.
"""

from __future__ import annotations

from collections.abc import Collection

from flask import Flask, Request, request

from service.web.parameters import is_websocket
from service.web.problems import Problem

DEFAULT_PORTS = {"http": ":80", "https": ":443"}


def install(app: Flask, allowed: Collection[str]) -> None:
    """Refuse the requests of other sites, but those `allowed`, that change something or open a WebSocket."""

    def refuse_other_sites() -> None:
        if "HTTP_ORIGIN" not in request.environ and "HTTP_SEC_FETCH_SITE" not in request.environ:
            return  # no browser: most requests
        changes = request.method not in ("GET", "HEAD", "OPTIONS")
        if (changes or is_websocket(request)) and not same_origin(request, allowed):
            raise Problem(
                403, "other-site", "pages of other sites are refused here; ALLOWED_ORIGINS lists those that are not"
            )

    app.before_request(refuse_other_sites)


def same_origin(request: Request, allowed: Collection[str] = ()) -> bool:
    """True unless a browser says that another site's page made this request.

    `allowed` are further origins, as `https://host[:port]`. Without the headers that browsers send
    (curl, a Python client) the answer is True: there is no user whom a page could abuse.
    Source: Fetch Metadata, Sec-Fetch-Site; RFC 6454, section 7; RFC 6455, section 10.2.
    """
    origin = request.headers.get("Origin")
    if origin is not None and origin.lower() in {other.lower().rstrip("/") for other in allowed}:
        return True
    # Browsers send it over HTTPS and to localhost only. It is their own comparison, so it also holds
    # behind a proxy that rewrites Host. `none`: the user typed the address or opened a bookmark.
    site = request.headers.get("Sec-Fetch-Site")
    if site is not None:
        return site in ("same-origin", "none")
    return origin is None or _names_host(origin, request.host)


def _names_host(origin: str, host: str) -> bool:
    # The scheme is not compared: behind a proxy that ends TLS we see http where the browser saw https.
    # `null`, the origin of sandboxed and local pages, has no "://" and names nobody.
    scheme, _, origin_host = origin.lower().partition("://")
    port = DEFAULT_PORTS.get(scheme, "")
    return bool(origin_host) and origin_host.removesuffix(port) == host.lower().removesuffix(port)
