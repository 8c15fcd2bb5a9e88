"""What a worker gives back to a queue keeps its order, though some of it has something to tell first."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from service.store.executions import Turn
from service.store.outcomes import Outcome, Released
from service.worker.books import Books
from service.worker.held import Held


class Executions:
    """As Redis has them: what was given back, the first in its queue first."""

    def __init__(self) -> None:
        self.queue: list[str] = []

    def make(self, turn: Turn, worker: str) -> None:
        """All that was told is written."""

    def record(self, execution: Any, outcome: Outcome, begun: bool) -> str:
        self.queue.insert(0, execution.job.id)
        return "queued"


def held(number: int) -> Held:
    job = SimpleNamespace(id=f"job-{number}", model="double", secrets=())
    return Held(number, SimpleNamespace(job=job, number=1, waits=False), "double")  # type: ignore[arg-type]


def test_jobs_that_have_something_to_tell_go_back_in_their_order_with_those_that_have_not() -> None:
    executions = Executions()
    books = Books(executions, "worker", SimpleNamespace())  # type: ignore[arg-type]
    jobs = [held(number) for number in range(1, 5)]
    for each in jobs[1:]:
        each.tell({"events": [("log", "{}")]})
    for each in jobs:
        books.over(each, Released())

    while books.pending:
        books.turn([], [], running=False)

    assert executions.queue == ["job-1", "job-2", "job-3", "job-4"]
