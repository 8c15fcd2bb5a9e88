"""WebSockets: flask-sock makes the handshake, then the relay has the socket and the request is over."""

from __future__ import annotations

import contextlib
import json
import socket
from collections.abc import Callable
from typing import Any

from flask import request

from service.relay.loop import Relay, TooManyWaiters
from service.relay.takeover import pump, take
from service.relay.websocket import TRY_LATER, WebSocket
from service.web import access_log


class NoThread:
    """For simple-websocket, which would start a thread for each socket to read it: the relay does."""

    def __init__(self, target: Callable[[], None]) -> None:
        self.name = ""

    def start(self) -> None:
        """Do not."""


SERVER_OPTIONS = {"thread_class": NoThread}
"""For simple-websocket, through flask-sock."""


def hand_over(ws: Any, relay: Relay, peer: Callable[[], WebSocket]) -> None:
    """Have the relay serve a socket after its handshake."""
    access_log.answered(101)
    try:
        relay.admit()
    except TooManyWaiters:
        ws.close(TRY_LATER, json.dumps({"type": "too-many-watchers", "title": "reconnect later, with after=<last id>"}))
        return
    ws.connected = False  # flask-sock is not to close it
    ours: socket.socket | None = None
    try:
        sock = take(request.environ)
        if sock is None:
            ours, sock = socket.socketpair()
    except OSError:  # this process has no file left
        relay.dismiss()
        raise
    relay.hold(sock, peer, request.environ["service.request_id"])
    if ours is None:
        return
    pump(ws.sock, ours)
    with contextlib.suppress(OSError):
        ws.sock.shutdown(socket.SHUT_RDWR)
