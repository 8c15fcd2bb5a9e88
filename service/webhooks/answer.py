"""What a receiver answered, as far as a delivery wants to know it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

LONGEST_EXCERPT = 500  # characters
LONGEST_LOCATION = 200
LONGEST_DELAY = 86_400  # seconds; a receiver that asks for more is asked again after a day


@dataclass(frozen=True)
class Answer:
    """The answer to one try. Seconds; `excerpt` is the start of the body, printable."""

    status: int
    seconds: float
    retry_after: float | None = None
    location: str | None = None
    excerpt: str = ""


def answer_of(status: int, headers: Iterable[tuple[bytes, bytes]], body: bytes, seconds: float) -> Answer:
    """Put an answer together from what was read of it. `headers`: names in lower case."""
    named = {name: value.decode("latin-1") for name, value in headers}
    location = named.get(b"location")
    return Answer(
        status,
        round(seconds, 3),
        retry_after(named.get(b"retry-after")),
        None if location is None else printable(location, LONGEST_LOCATION),
        # Never decoded: a few bytes of gzip can be gigabytes.
        "" if named.get(b"content-encoding", "identity") != "identity" else printable(body.decode(errors="replace")),
    )


def retry_after(text: str | None) -> float | None:
    """Seconds that a Retry-After asks for, at most a day; None if it asks for no time to come. RFC 9110, 10.2.3."""
    if text is None:
        return None
    text = text.strip()
    seconds = float(text) if text.isascii() and text.isdigit() else _seconds_until(text)
    return min(seconds, LONGEST_DELAY) if seconds > 0 else None


def printable(text: str, longest: int = LONGEST_EXCERPT) -> str:
    """The start of a text in one line, without what a terminal or a page could take for more than text."""
    return " ".join("".join(each if each.isprintable() else " " for each in text).split())[:longest]


def _seconds_until(date: str) -> float:
    try:
        then = parsedate_to_datetime(date)
    except (ValueError, TypeError, OverflowError):
        return 0.0
    return (then.replace(tzinfo=then.tzinfo or UTC) - datetime.now(UTC)).total_seconds()
