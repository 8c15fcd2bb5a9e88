"""What the supervisor says of a job, beside its input, as what its model may know of it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from service.job import Attempt
from service.registry import Description


def attempt(description: Description, facts: list[Any], is_asked: Callable[[], bool]) -> Attempt:
    """One that begins now; `facts` are those of Held.parcel, `is_asked` says whether it has to leave."""
    job_id, number, retries_left, timeout, metadata = facts
    return Attempt(
        job_id, number, int(retries_left), int(timeout), metadata, description.name, description.version, is_asked
    )
