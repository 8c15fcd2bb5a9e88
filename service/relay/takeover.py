"""Takes the client's socket out of the web server's hands, so that the relay's loop can have it."""

from __future__ import annotations

import os
import selectors
import socket
import ssl
from collections.abc import Iterator
from http.client import HTTPResponse
from typing import Any

# What gunicorn goes on to shut down and close, instead of the client's connection. Its other end is gone.
_nowhere, _ = socket.socketpair()
_.close()


def take(environ: dict[str, Any]) -> socket.socket | None:
    """The client's socket, which the web server has no longer; None if it cannot be had.

    That is so where the server ends TLS or speaks HTTP/2, in Flask's development server and its test client.
    gunicorn 27.0, workers/gthread.py: goes on with the descriptor's number, so its counters stay right.
    """
    sock: Any = environ.get("gunicorn.socket")
    if hasattr(sock, "hand_over"):  # our own server's
        taken: socket.socket = sock.hand_over()
        return taken
    if sock is None or isinstance(sock, ssl.SSLSocket) or environ.get("HTTP_VERSION") == "2":
        return None
    taken = socket.socket(fileno=os.dup(sock.fileno()))
    os.dup2(_nowhere.fileno(), sock.fileno())
    return taken


def http_answer(sock: socket.socket, start_response: Any) -> Iterator[bytes]:
    """Where the socket cannot be had: pass on, in the request's thread, the answer that the relay gives on `sock`."""
    answer = HTTPResponse(sock)
    answer.begin()
    hop_by_hop = ("connection", "keep-alive", "transfer-encoding")  # RFC 9110, section 7.6.1; PEP 3333 forbids them
    headers = [(name, value) for name, value in answer.getheaders() if name.lower() not in hop_by_hop]
    start_response(f"{answer.status} {answer.reason}", headers)
    return _body(answer, sock)


def _body(answer: HTTPResponse, sock: socket.socket) -> Iterator[bytes]:
    try:
        while piece := answer.read1(65536):
            yield piece
    finally:
        answer.close()
        sock.close()


def pump(client: socket.socket, ours: socket.socket) -> None:
    """Where the socket cannot be had: carry bytes between a client and the relay, in the request's thread.

    Returns when either has closed. Closes `ours`.
    """
    with ours, selectors.DefaultSelector() as ready:
        ready.register(client, selectors.EVENT_READ, (client, ours))
        ready.register(ours, selectors.EVENT_READ, (ours, client))
        client.settimeout(None)
        try:
            while True:
                for key, _ in ready.select():
                    source, sink = key.data
                    if not _carry(source, sink):
                        return
        except OSError:
            return


def _carry(source: socket.socket, sink: socket.socket) -> bool:
    more = True
    while more:
        data = source.recv(65536)
        if not data:
            return False
        sink.sendall(data)
        # What TLS has read ahead makes no descriptor readable.
        more = isinstance(source, ssl.SSLSocket) and source.pending() > 0
    return True
