"""Workers with different code of one model, as during a deploy: who may say that an input is wrong."""

from __future__ import annotations

from service.store.executions import Execution
from service.store.outcomes import Declined, Failed, Outcome

_REFUSED = "service.worker.prediction.Refused"  # by its name: the supervisor has no use for the rest of that module


def judged(execution: Execution, outcome: Outcome) -> Outcome:
    """The outcome; Declined if it is an input that this version refuses, and that was accepted by another."""
    if not isinstance(outcome, Failed) or outcome.type != "invalid_input":
        return outcome
    # A model may give its own errors this type: then it has run.
    if outcome.exceptions[:1] != (_REFUSED,) or execution.job.version in ("", execution.version):
        return outcome
    return Declined(outcome)
