"""Models that tell much."""

import time
from collections.abc import Iterator

from service import model, progress


@model
def flood(seconds: float) -> Iterator[str]:
    """Yield words for so long, as fast as they are taken."""
    end = time.monotonic() + seconds
    number = 0
    while time.monotonic() < end:
        yield f"word{number} "
        number += 1


@model
def steady(seconds: float, told: bool) -> None:
    """Do little for so long, 20 steps a second, with or without a word at each."""
    steps = round(seconds * 20)
    for step in range(1, steps + 1):
        time.sleep(1 / 20)
        if told:
            progress.update(step / steps, "training", loss=1 / step)
