"""Whose trouble an error on the relay's loop is: it ends the peer that it belongs to, and nobody else's.

What belongs to no peer is logged, and the loop goes on.
"""

from __future__ import annotations

import logging
import time
from typing import TYPE_CHECKING, Any

from service.relay.readers import NotLive
from service.store.away import is_away
from service.store.jobs import JobGone, JobNotFound
from service.store.models import ModelNotFound

if TYPE_CHECKING:
    from service.relay.peer import Peer

log = logging.getLogger("service.relay")

LINES, LINES_PER_SECOND = 20, 1.0  # that are logged at once, and in the long run: one cause may meet 10,000 peers


class Trouble:
    """What is done about errors. On the relay's loop only."""

    def __init__(self) -> None:
        self._lines = float(LINES)
        self._lines_at = time.monotonic()
        self._kept_back = 0

    def of_peer(self, peer: Peer, error: BaseException, doing: str) -> None:
        """End a peer because of an error in what was done for it."""
        self.note(logging.ERROR, f"{doing} met an error; its connection is closed", error, peer)
        try:
            peer.broke()
        except Exception:  # it must not end another's
            peer.abort()

    def of_watch(self, peer: Peer, error: Exception) -> None:
        """Log why a watch of a peer, or a feed, cannot go on, unless that is the caller's own doing."""
        if isinstance(error, NotLive) or is_away(error):
            self.note(logging.WARNING, f"a watcher cannot be served: {error!r}", peer=peer)
        elif not isinstance(error, JobNotFound | JobGone | ModelNotFound):
            self.note(logging.ERROR, "a watcher met an error", error, peer)

    def note(self, level: int, message: str, error: BaseException | None = None, peer: Peer | None = None) -> None:
        """Log something, unless there is too much of it; the next line says how much was left out."""
        if not self._may_log():
            self._kept_back += 1
            return
        extra = {"request_id": peer.request_id} if peer is not None and peer.request_id else {}
        if self._kept_back:
            extra["lines_left_out"] = str(self._kept_back)
            self._kept_back = 0
        log.log(level, message, extra=extra, exc_info=error)

    def handle(self, context: dict[str, Any]) -> None:
        """What asyncio calls with an error that nobody has caught."""
        error = context.get("exception")
        transport, protocol = _owners(context)
        if hasattr(protocol, "broke") and error is not None:
            self.of_peer(protocol, error, str(context["message"]))
            return
        self.note(logging.ERROR, f"an error on the relay's loop: {context['message']}", error)
        if transport is not None:
            transport.abort()

    def _may_log(self) -> bool:
        moment = time.monotonic()
        self._lines = min(LINES, self._lines + (moment - self._lines_at) * LINES_PER_SECOND)
        self._lines_at = moment
        if self._lines < 1:
            return False
        self._lines -= 1
        return True


def _owners(context: dict[str, Any]) -> tuple[Any, Any]:
    """The transport and the protocol that a context of asyncio is about, as far as it tells."""
    transport, protocol = context.get("transport"), context.get("protocol")
    # A callback's error comes with its handle only, asyncio/events.py: Handle._run; most are methods of one of both.
    owner = getattr(getattr(context.get("handle"), "_callback", None), "__self__", None)
    if hasattr(owner, "get_protocol"):
        transport = owner
    elif hasattr(owner, "broke"):
        protocol = owner
    if protocol is None and transport is not None:
        protocol = transport.get_protocol()
    return transport, protocol
