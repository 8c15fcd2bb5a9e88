"""Which GPUs each of several workers may use: CUDA takes it from CUDA_VISIBLE_DEVICES when a process starts."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path


def visible(environment: Mapping[str, str], dev: Path = Path("/dev")) -> list[str]:
    """The GPUs of this machine as CUDA names them, or those that CUDA_VISIBLE_DEVICES leaves of them."""
    if (named := environment.get("CUDA_VISIBLE_DEVICES")) is not None:
        return [name.strip() for name in named.split(",") if name.strip()]
    return sorted(
        (match[1] for path in dev.glob("nvidia*") if (match := re.fullmatch(r"nvidia(\d+)", path.name))), key=int
    )


def share(devices: Sequence[str], place: int, count: int) -> list[str]:
    """Those of the worker at a place (from 0) among `count`: one each in turn, or several if there are more GPUs."""
    if count >= len(devices):
        return [devices[place % len(devices)]] if devices else []
    return list(devices[place::count])
