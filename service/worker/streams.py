"""sys.stdout and sys.stderr of a work-horse: what is written to them is told of the job that writes, line by line.

It goes on to the worker's own output too, but never depends on it. They are the same objects for all jobs, and no job
can close them, take them apart or have them speak another encoding.
"""

from __future__ import annotations

import io
import threading
from collections.abc import Callable
from typing import Any, Protocol

from service.output import Outlet

_LONGEST_PENDING = 8192


class Speaker(Protocol):
    """Whoever is told what is written."""

    def write(self, source: str, text: str) -> None: ...


class _Pending(threading.local):
    """What a thread has written since its last end of line: lines of several threads are not mixed."""

    text = ""


class Text(io.TextIOBase):
    """A text stream that is always open."""

    encoding = "utf-8"
    errors = "backslashreplace"
    mode = "w"
    line_buffering = True
    write_through = False

    def __init__(self, source: str, fileno: int, outlet: Outlet, speaker: Callable[[], Speaker | None]) -> None:
        """`source`: its name in events. `fileno`: the descriptor that C code and child processes write to."""
        self.name = f"<{source}>"
        self.buffer = _Binary(self)
        self._source = source
        self._fileno = fileno
        self._outlet = outlet
        self._speaker = speaker
        self._pending = _Pending()
        self.unfinished = False
        """Whether somebody has written a line without its end."""

    def write(self, text: str) -> int:
        if not isinstance(text, str):
            raise TypeError(f"write() argument must be str, not {type(text).__name__}")
        if (job := self._speaker()) is not None:
            job.write(self._source, text)
        self._pending.text += text
        if "\n" in text or len(self._pending.text) > _LONGEST_PENDING:
            self.flush()
        else:
            self.unfinished = True
        return len(text)

    def flush(self) -> None:
        self.unfinished = False
        if pending := self._pending.text:
            self._pending.text = ""
            self._outlet.write_text(pending)

    def turn_to_descriptor(self) -> None:
        """In a forked child: write where C code writes, and nothing that the parent has begun."""
        self._pending = _Pending()
        self._outlet.turn_to(self._fileno)

    def fileno(self) -> int:
        return self._fileno

    def isatty(self) -> bool:
        return self._outlet.isatty

    def readable(self) -> bool:
        return False

    def writable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return False

    def close(self) -> None:
        """It is every job's: it stays open."""
        self.flush()

    def detach(self) -> io.BufferedIOBase:  # type: ignore[override]
        """What is below it, which stays so."""
        return self.buffer

    def reconfigure(self, **options: Any) -> None:
        """It is every job's: it stays as it is."""
        self.flush()


class _Binary(io.BufferedIOBase):
    """What `sys.stdout.buffer` is, for those that write bytes or wrap it in a stream of their own."""

    def __init__(self, text: Text) -> None:
        self._text = text
        self.name = text.name

    def write(self, data: Any) -> int:
        raw = bytes(data)
        self._text.write(raw.decode(errors="replace"))
        return len(raw)

    def flush(self) -> None:
        self._text.flush()

    def fileno(self) -> int:
        return self._text.fileno()

    def isatty(self) -> bool:
        return self._text.isatty()

    def readable(self) -> bool:
        return False

    def writable(self) -> bool:
        return True

    def close(self) -> None:
        """As that of the text."""
        self.flush()
