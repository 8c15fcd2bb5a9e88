"""Whether a failed job is tried again, and when."""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from dataclasses import asdict, dataclass

from service.store.events import dumps
from service.store.job import Job
from service.store.outcomes import Failed

LONGEST_BACKOFF = 600.0


@dataclass(frozen=True)
class RetryPolicy:
    """How a job is tried again, within its retries. Seconds; the meaning is that of @model's options."""

    backoff: float | Sequence[float] = 1.0
    fatal: Sequence[str] = ()
    max_crashes: int = 2

    def to_json(self) -> str:
        """As the job's hash keeps it; empty for the default."""
        return "" if self == RetryPolicy() else dumps(asdict(self))

    def allows(self, failed: Failed, crashes: int) -> bool:
        """Whether another try may follow, after so many crashes before this failure."""
        if failed.crashed and crashes >= self.max_crashes:
            return False
        return failed.again and not any(_named(each, failed.exceptions) for each in self.fatal)

    def delay(self, failed: Failed, tries: int) -> float:
        """Seconds until the next try, after so many that have failed."""
        if failed.after is not None:
            return failed.after
        if not isinstance(self.backoff, (int, float)):
            return float(self.backoff[min(tries, len(self.backoff)) - 1])
        # With jitter: jobs that failed together, because something they need was down, do not come back together.
        longest = min(LONGEST_BACKOFF, self.backoff * 2.0 ** min(tries - 1, 30))
        return longest * random.uniform(0.5, 1)  # noqa: S311 -- nobody gains by guessing it


def retry_policy_of(job: Job) -> RetryPolicy:
    """The policy that a job's hash holds; the default if there is none, or none that can be read."""
    text = job.fields.get("retry_policy")
    try:
        return RetryPolicy(**json.loads(text)) if text else RetryPolicy()
    except (ValueError, TypeError):
        return RetryPolicy()


def _named(wanted: str, exceptions: Sequence[str]) -> bool:
    return any(wanted in (name, name.rpartition(".")[2]) for name in exceptions)
