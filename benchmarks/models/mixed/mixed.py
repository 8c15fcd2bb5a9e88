"""Five models of each kind that note each run in a file, in the order in which they begin."""

import asyncio
import os
from collections.abc import AsyncIterator, Iterator
from dataclasses import fields

from service import model
from service.model import Options

OFFERED = {field.name for field in fields(Options)}
BATCHED = {"max_batch_size": 8, "batch_timeout": 0.005} if "max_batch_size" in OFFERED else {}
CONCURRENT = {"concurrency": 20} if "concurrency" in OFFERED else {}
NOTES = os.open(os.environ["NOTES"], os.O_WRONLY | os.O_APPEND | os.O_CREAT)


def note(name: str, priority: str, number: int) -> int:
    """One write, and so one line, whoever writes at the same time."""
    os.write(NOTES, f"{name} {priority} {number}\n".encode())
    return number * 2


@model
def plain(priority: str, number: int) -> int:
    """A function."""
    return note("plain", priority, number)


@model
class Loaded:
    """A class with something to load."""

    def setup(self) -> None:
        self._name = "loaded"

    def predict(self, priority: str, number: int) -> int:
        return note(self._name, priority, number)


@model
def stream(priority: str, number: int) -> Iterator[int]:
    """A generator."""
    yield note("stream", priority, number)


@model(**CONCURRENT)
async def waiting(priority: str, number: int) -> int:
    """An async function."""
    result = note("waiting", priority, number)
    await asyncio.sleep(0.001)
    return result


if BATCHED:

    @model(**BATCHED)
    def together(priority: list[str], number: list[int]) -> list[int]:
        """A batch."""
        return [note("together", *each) for each in zip(priority, number, strict=True)]

else:

    @model
    async def together(priority: str, number: int) -> AsyncIterator[int]:
        """An async generator, while there are no batches."""
        yield note("together", priority, number)
