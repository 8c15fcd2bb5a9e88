"""The processes that run jobs. WarmWorker, which serves any RQ application, is imported on first use:
a work-horse of this service is a `python -m service.worker.horse`, and must not pay for importing RQ.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from service.worker.warm import WarmWorker

__all__ = ["WarmWorker"]


def __getattr__(name: str) -> object:
    if name == "WarmWorker":
        from service.worker.warm import WarmWorker

        return WarmWorker
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
