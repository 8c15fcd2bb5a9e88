"""Counts down: the smallest model that streams, with an output and a progress event at each beat."""

import time
from collections.abc import Iterator
from typing import Annotated

from pydantic import Field

from service import model, progress


@model(timeout=660)  # the highest `start` times the longest `interval`, and a minute
def countdown(
    start: Annotated[int, Field(ge=1, le=60)] = 10,
    interval: Annotated[float, Field(ge=0, le=10, description="Seconds between two numbers")] = 0.5,
) -> Iterator[int]:
    """Count down from `start` to 1, a number each `interval` seconds."""
    for step, number in enumerate(range(start, 0, -1), start=1):
        yield number
        progress.update(step / start, f"{step} of {start}")
        time.sleep(interval)


if __name__ == "__main__":
    print(*countdown())
