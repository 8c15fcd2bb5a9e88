"""Adds two integers, slowly: the smallest model, to see progress move and to try a stop on."""

import time
from typing import Annotated

from pydantic import Field

from service import model, progress

STEPS = 10


@model(timeout=3660, retries=2)  # the most `seconds`, and a minute
def add(x: int, y: int, seconds: Annotated[float, Field(ge=0, le=3600)] = 5.0) -> int:
    """Add two integers, slowly: in ten steps, which take `seconds` together."""
    for _ in progress(range(STEPS)):
        time.sleep(seconds / STEPS)
    return x + y


if __name__ == "__main__":
    print(add(2, 3))
