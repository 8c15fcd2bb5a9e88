"""A connection that the relay's loop holds: what it is sent, and what becomes of one that does not read."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import time
from collections import deque
from contextlib import AbstractAsyncContextManager, nullcontext
from typing import TYPE_CHECKING, Any, cast

from service.store.events import Event

if TYPE_CHECKING:
    from service.relay.loop import Relay
    from service.relay.watch import Watch

BUFFER = 64 * 1024  # bytes that wait for a peer to read; what else there is for it waits in the job's log
PIECE = 64 * 1024  # bytes of a large event that are written at a time
HEARD_AT_ONCE = 16 * 1024  # bytes that are read of a peer before others have their turn
UNASKED = 64 * 1024  # bytes that a peer may say which has nothing to say
STUCK_AFTER = 10.0  # seconds with a full buffer in which a peer has read nothing; then it is closed
CLOSE_WITHIN = 1.0  # seconds in which a peer may answer a close
BEAT = 14  # seconds from one ping or heartbeat to the next; a dead peer is found in two of them

# For a peer that says nothing more: the kernel asks its kernel, and gives up what is not taken for so long.
_KEEPALIVE = {"TCP_KEEPIDLE": 15, "TCP_KEEPINTVL": 5, "TCP_KEEPCNT": 3, "TCP_USER_TIMEOUT": 20_000}

_heard = bytearray(HEARD_AT_ONCE)  # of whoever is read at the moment


class Peer(asyncio.BufferedProtocol):
    """One connection; subclasses know what it speaks."""

    __slots__ = (
        *("_closing_at", "_finishing", "_left", "_outbox", "_paused", "_relay", "_transport", "_unasked", "_waiting"),
        *("beats_with", "full_since", "is_mute", "request_id"),
    )

    turn: AbstractAsyncContextManager[Any] = nullcontext()
    """Entered to read a job's log for it: a peer that watches many jobs reads a few at a time."""

    def __init__(self, relay: Relay) -> None:
        self._relay = relay
        self._transport: asyncio.Transport = cast(asyncio.Transport, None)
        self._outbox: deque[bytes | memoryview] | None = None  # made when it is needed: most peers read
        self._waiting: asyncio.Future[None] | None = None
        self._left = (0, 0.0)  # bytes that are not read, and since when so many
        self._closing_at = 0.0
        self._finishing = False
        self._paused = False  # asyncio takes no more for it at the moment
        self._unasked = 0
        self.beats_with: set[Peer] = set()
        """Those whose turn to beat comes together with its own; kept by the relay."""
        self.full_since = 0.0
        """Since when its buffer is full, by time.monotonic(); 0 if it is not."""
        self.is_mute = False
        """Whether it has said that it says nothing more."""
        self.request_id = ""
        """Of the request that brought it."""

    # --- what subclasses say ----------------------------------------------------------------------

    def begin(self) -> None:
        """The connection is there."""
        raise NotImplementedError

    @staticmethod
    def encode(event: Event) -> bytes:
        """An event as this peer is sent it."""
        raise NotImplementedError

    def began(self, watch: Watch) -> None:
        """A watch of this peer has been told what was before; what follows comes as it happens."""

    def over(self, watch: Watch) -> None:
        """A watch of this peer has come to its job's end."""
        raise NotImplementedError

    def failed(self, watch: Watch, error: Exception) -> None:
        """A watch of this peer cannot go on."""
        raise NotImplementedError

    def broke(self) -> None:
        """Something that was done for it met an error of ours."""
        self.abort()

    def restart(self) -> None:
        """This process ends: say so, and close."""
        raise NotImplementedError

    def too_slow(self) -> None:
        """It has not read for STUCK_AFTER seconds: say so, and close."""
        raise NotImplementedError

    def beat(self) -> None:
        """To be called each BEAT seconds: see whether the peer is there."""
        raise NotImplementedError

    def hear(self, data: bytes) -> None:
        """It said something. One that waits for an answer has nothing to say, and is not listened to for long."""
        self._unasked += len(data)
        if self._unasked > UNASKED and not self._closing_at:
            self._transport.pause_reading()
            self._relay.unheard.add(self)

    def resumed(self) -> None:
        """Its buffer has room again."""

    def left(self) -> None:
        """The connection is gone: end what was done for it."""
        raise NotImplementedError

    # --- what goes out ----------------------------------------------------------------------------

    @property
    def closing(self) -> bool:
        return self._closing_at > 0

    def send(self, event: Event) -> None:
        """Send an event. Most of what the relay does is done here, so it takes no detour over `write`."""
        if not self._closing_at:
            data = event.encoded(self.encode)
            if self._outbox or self.full_since or len(data) > PIECE:
                self.write(data)
            else:
                self._transport.write(data)

    def write(self, data: bytes) -> None:
        """Send bytes: at once, or as the peer reads."""
        if self._outbox or self.full_since or len(data) > PIECE:
            if self._outbox is None:
                self._outbox = deque()
            self._outbox.append(data)
            self._flush()
        else:
            self._transport.write(data)

    def _flush(self) -> None:
        # In pieces: asyncio would copy all that the kernel does not take at once, for each peer.
        outbox = self._outbox
        while outbox and not self.full_since:
            view = memoryview(outbox.popleft())
            if len(view) > PIECE:
                outbox.appendleft(view[PIECE:])
            self._transport.write(view[:PIECE])
        if self._finishing and not outbox and not self.full_since:
            self._end_sending()

    async def drained(self) -> float:
        """Return when its buffer has room, at once if it has; for how many seconds it had none."""
        since = self.full_since
        while self.full_since and not self._transport.is_closing():
            if self._waiting is None:
                self._waiting = asyncio.get_running_loop().create_future()
            await asyncio.shield(self._waiting)
        return time.monotonic() - since if since else 0.0

    # --- its end ----------------------------------------------------------------------------------

    def abort(self) -> None:
        """Close the connection at once, whatever is under way."""
        if self._transport is not None:
            self._transport.abort()

    def close_soon(self) -> None:
        """Nothing more is sent; the connection goes when the peer has closed it, or soon."""
        if not self._closing_at:
            self._closing_at = time.monotonic()
            self._left = (0, 0.0)
            self._relay.closing.add(self)

    def finish(self) -> None:
        """The end of what is sent; the peer closes the connection when it has read it."""
        self.close_soon()
        self._finishing = True
        self._transport.set_write_buffer_limits(high=0)  # it is told when all has gone, see resume_writing
        self._flush()

    def _end_sending(self) -> None:
        # Only our half: closing both with bytes unread would lose what is under way. Not Transport.write_eof: it
        # raises if the peer has gone, and asyncio 3.11 to 3.14, selector_events.py: _write_ready, then does, too,
        # where nobody can catch it.
        self._finishing = False
        self._transport.resume_reading()  # until its end
        if self.is_mute:
            self._transport.close()
        elif not self._transport.is_closing():
            try:
                self._transport.get_extra_info("socket").shutdown(socket.SHUT_WR)
            except OSError:
                self._transport.abort()

    def look_at_close(self, now: float) -> None:
        """Close it if it had its time. One that has not read all yet gets longer, so that it may learn why."""
        waits = STUCK_AFTER if self._unread(now) else CLOSE_WITHIN
        if now - max(self._closing_at, self._left[1]) > waits:
            self._transport.abort()

    def look_at_buffer(self, now: float) -> None:
        """Close it if it has not read for long."""
        self._unread(now)
        if now - self._left[1] > STUCK_AFTER and not self._closing_at:
            if self._outbox:
                # What is half sent must be sent to its end, or the close could not be read.
                self._outbox = deque([self._outbox[0]]) if isinstance(self._outbox[0], memoryview) else None
            self.too_slow()

    def _unread(self, now: float) -> int:
        """How many bytes it is still to read, as far as they are here; notes when that became less."""
        left = self._transport.get_write_buffer_size() + sum(map(len, self._outbox or ()))
        if left < self._left[0] or not self._left[1]:
            self._left = (left, now)
        return left

    # --- what asyncio calls -----------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._transport.set_write_buffer_limits(high=BUFFER, low=BUFFER // 4)
        self._relay.joined(self)
        self.begin()

    def get_buffer(self, sizehint: int) -> bytearray:
        return _heard

    def buffer_updated(self, nbytes: int) -> None:
        self.hear(bytes(memoryview(_heard)[:nbytes]))

    def eof_received(self) -> bool:
        """It says nothing more. It may have gone, or it may still read: some clients and proxies shut down their
        sending side once they have asked. It gets what it waits for.

        One that has gone is found when something is sent to it, a heartbeat at the latest: its kernel refuses that,
        or does not take it (TCP_USER_TIMEOUT). To a long poll nothing can be sent before its answer: there its own
        seconds hold, and the kernel's keepalive, which learns within about a minute that the other end has gone.
        """
        if self._closing_at and not self._finishing and not self._transport.get_write_buffer_size():
            return False  # it has all, and both have said that this is the end
        if not self.is_mute:
            self.is_mute = True
            self._relay.unheard.add(self)
            self._keep_alive()
            if self._closing_at:
                self.finish()
            else:
                self.beat()
        return True  # asyncio is not to close it, else it does

    def _keep_alive(self) -> None:
        sock = self._transport.get_extra_info("socket")
        if sock.family in (socket.AF_INET, socket.AF_INET6):
            with contextlib.suppress(OSError):  # it has gone; that is seen soon
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
                for name, value in _KEEPALIVE.items():
                    if hasattr(socket, name):
                        sock.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)

    def descriptor(self) -> int:
        """That of its socket; -1 if it is closed."""
        return int(self._transport.get_extra_info("socket").fileno())

    def pause_writing(self) -> None:
        self._paused = True
        if not self.full_since:
            self.full_since = time.monotonic()
        self._left = (0, 0.0)
        self._relay.full.add(self)

    def resume_writing(self) -> None:
        # Not at once: asyncio, _write_ready, which calls this, calls connection_lost twice if what is written here
        # finds that the peer has gone.
        self._paused = False
        asyncio.get_running_loop().call_soon(self._resume)

    def _resume(self) -> None:
        if self._paused or self._transport.is_closing():
            return
        self.full_since = 0.0
        self._flush()
        if not self.full_since:
            self._relay.full.discard(self)
            self._release()
            self.resumed()

    def connection_lost(self, error: Exception | None) -> None:
        self._closing_at = self._closing_at or time.monotonic()  # who would close it now need not
        self.full_since = 0.0
        self._release()
        self._outbox = None
        self._relay.gone(self)
        self._relay.attend(self, self.left)

    def _release(self) -> None:
        if self._waiting is not None and not self._waiting.done():
            self._waiting.set_result(None)
        self._waiting = None
