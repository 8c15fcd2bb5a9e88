"""Server-sent events on the relay's loop. Source: HTML Living Standard, 9.2."""

from __future__ import annotations

from collections.abc import Collection

from service.relay.loop import Relay
from service.relay.peer import Peer
from service.relay.watch import Watch
from service.relay.websocket import complaint, why
from service.store.events import Event

_RETRY = b"retry: 1000\n\n"  # milliseconds after which a browser comes back
_HEARTBEAT = b":\n\n"


def as_event_stream(event: Event) -> bytes:
    """Without an `event` field: a browser's onmessage gets all of them, and each says its type in its data."""
    text = event.text
    if "\n" in text or "\r" in text:  # which no event of ours has between its tokens, and JSON has nowhere else
        text = text.replace("\n", " ").replace("\r", " ")
    return f"id: {event.id}\ndata: {text}\n\n".encode()


class EventStream(Peer):
    """The answer to a request for a job's events as they come; it ends with the job."""

    __slots__ = ("_head", "_watch")

    def __init__(
        self, relay: Relay, head: bytes, job_id: str, after: str | None, types: Collection[str] | None
    ) -> None:
        """`head`: the status line and header fields of the answer."""
        super().__init__(relay)
        self._head = head
        self._watch = Watch(relay, self, job_id, after, types)

    def begin(self) -> None:
        self.write(self._head + _RETRY)
        self._relay.channels.join(self._watch)

    encode = staticmethod(as_event_stream)

    def over(self, watch: Watch) -> None:
        self.finish()

    def failed(self, watch: Watch, error: Exception) -> None:
        # Without an id: a browser that comes back goes on after the last event that it got.
        self.write(f"data: {complaint(*why(error)[1:], watch.job_id).text}\n\n".encode())
        self.finish()

    def restart(self) -> None:
        self.finish()

    def too_slow(self) -> None:
        self._transport.abort()

    def beat(self) -> None:
        self.write(_HEARTBEAT)

    def left(self) -> None:
        self._watch.leave()
