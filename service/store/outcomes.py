"""How an execution may end, and what that writes."""

from __future__ import annotations

from base64 import b64encode
from dataclasses import dataclass
from typing import Any, Literal

from service.store.events import LARGEST_INLINE_OUTPUT, dumps
from service.store.job import RESULT_SUCCESSFUL, failed_result, urls

CRASHES = frozenset({"crashed", "lost"})


@dataclass(frozen=True)
class Finished:
    """The model returned; `output` is JSON."""

    output: str


@dataclass(frozen=True)
class Failed:
    """The try failed. `again` says whether another one may help, `after` how many seconds later.

    Without `after` the job's back-off says when. `exceptions`: what was raised, and its base classes, by name.
    """

    type: str
    message: str
    traceback: str = ""
    again: bool = True
    after: float | None = None
    exceptions: tuple[str, ...] = ()

    @property
    def crashed(self) -> bool:
        """Whether its process died of it, or with it."""
        return self.type in CRASHES


@dataclass(frozen=True)
class Stopped:
    """The job was stopped at a caller's wish."""

    mode: Literal["cooperative", "killed"]
    acknowledged_at: str


@dataclass(frozen=True)
class Released:
    """The job was not run to its end through no fault of its own; the try does not count.

    It is queued again, in front, or `after` so many seconds.
    """

    after: float = 0


@dataclass(frozen=True)
class Declined:
    """The model refuses an input that another version of it, the job's own, has accepted; the try does not count.

    It waits for a worker with that version. `failure` is how it ends when it has waited in vain.
    """

    failure: Failed


Outcome = Finished | Failed | Stopped | Released | Declined


@dataclass(frozen=True)
class Ending:
    """How an outcome is written: the job's status, which is the event's type too, and what goes with it."""

    status: str
    data: str
    fields: dict[str, Any]
    result: dict[str, Any]
    error: dict[str, str] | None = None


def ending_of(job_id: str, outcome: Finished | Failed | Stopped) -> Ending:
    if isinstance(outcome, Finished):
        inline = len(outcome.output) <= LARGEST_INLINE_OUTPUT
        data = f'{{"output":{outcome.output}}}' if inline else dumps({"result_url": urls(job_id)["result"]})
        # RQ writes no return_value for None.
        result = {} if outcome.output == "null" else {"return_value": b64encode(outcome.output.encode()).decode()}
        return Ending("finished", data, {}, {"type": RESULT_SUCCESSFUL, **result})
    if isinstance(outcome, Failed):
        error = {"type": outcome.type, "message": outcome.message}
        reason = outcome.traceback or f"{outcome.type}: {outcome.message}"
        return Ending("failed", dumps({"error": error}), {"error": dumps(error)}, failed_result(reason), error)
    fields = {"cancel_acknowledged_at": outcome.acknowledged_at, "cancel_mode": outcome.mode}
    reason = "Job stopped by user, work-horse terminated."  # RQ's words
    return Ending("stopped", dumps({"mode": outcome.mode}), fields, failed_result(reason))
