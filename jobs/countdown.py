"""Counts down: the smallest model that streams, with a number and a step of progress at each beat."""

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
    for number in progress(range(start, 0, -1), message="counting down"):
        yield number
        time.sleep(interval)


if __name__ == "__main__":
    print(*countdown())
