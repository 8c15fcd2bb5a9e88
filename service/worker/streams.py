"""sys.stdout and sys.stderr of a work-horse: what is written to them is told of the job that writes, line by line.

It goes on to the worker's own output too, but never depends on it. They are the same objects for all jobs, and no job
can close them, take them apart or have them speak another encoding.
"""

from __future__ import annotations

import codecs
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


class _Decoder(threading.local):
    """Of bytes that a thread writes: the end of a character may come later than its beginning."""

    def __init__(self) -> None:
        decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self.decode, self.reset, self.state = decoder.decode, decoder.reset, decoder.getstate


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
        self._buffer = _Binary(self)
        self._source = source
        self._fileno = fileno
        self._outlet = outlet
        self._speaker = speaker
        self._pending = _Pending()
        self.unfinished = False
        """Whether somebody has written a line, or a character, without its end."""
        self._own = frozenset(vars(self)) | {"_own"}

    @property
    def buffer(self) -> _Binary:
        """For bytes."""
        return self._buffer

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
        self.unfinished = self._buffer.half
        if pending := self._pending.text:
            self._pending.text = ""
            self._outlet.write_text(pending)

    def end(self) -> None:
        """The job that has begun something here is over."""
        self._buffer.forget_half()
        self.flush()

    def as_it_was(self) -> None:
        """Take away what a job has put over a method of it."""
        if len(vars(self)) != len(self._own):
            for name in vars(self).keys() - self._own:
                del vars(self)[name]

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
        self._decoder = _Decoder()
        self.name = text.name
        self.half = False
        """Whether somebody has written a character without its end."""

    def write(self, data: Any) -> int:
        raw = bytes(data)
        text = self._decoder.decode(raw)
        if self._decoder.state()[0]:
            self.half = self._text.unfinished = True
        self._text.write(text)
        return len(raw)

    def forget_half(self) -> None:
        """In the thread of the job that has written it."""
        self._decoder.reset()
        self.half = False

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
