"""What is left of each job when all is over: the runs that its model noted, its attempts, its log; do they agree?"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.chaos import Fault
from tests.watchers import TERMINAL, Event


@dataclass
class Asked:
    """A job as its caller knows it."""

    name: str
    model: str
    retries: int = 0
    id: str = ""
    refused: Counter[str] = field(default_factory=Counter)
    watched: bool = False
    log: list[Event] = field(default_factory=list, repr=False)
    """What its watcher saw."""


@dataclass(frozen=True)
class Run:
    """One run of a job, as its model noted it."""

    worker: int
    horse: int
    began: float
    raised: bool


def runs_of_each(notes: Path) -> dict[str, list[Run]]:
    """The runs of each job, the first one first."""
    lines = [line.split() for line in notes.read_text().splitlines()]
    raised = {(name, horse) for word, name, _, horse, _ in lines if word == "raised"}
    runs = defaultdict(list)
    for word, name, worker, horse, moment in lines:
        if word == "start":
            runs[name].append(Run(int(worker), int(horse), float(moment), (name, horse) in raised))
    return {name: sorted(each, key=lambda run: run.began) for name, each in runs.items()}


def assert_explained(faults: Sequence[Fault], asked: Asked, job: Any, runs: list[Run]) -> None:
    """A job ran more than once, or failed, for a fault that struck its own worker or work-horse, and for no other."""
    for run, following in zip(runs, runs[1:], strict=False):
        blamed = [each for each in faults if each.explains(run.worker, run.horse, run.began, following.began)]
        assert run.raised or blamed, f"{asked} ran again for no reason: {runs}, {job}"
    errors = [(each["error"], each["worker"]) for each in job["attempts"] if each["error"]]
    for error, worker in errors:
        if error["type"] in ("lost", "crashed"):
            assert any(str(fault.worker) in worker.split("-") for fault in faults), f"{error} for no reason: {job}"
        else:
            assert error["type"] == "model_error" and any(run.raised for run in runs), job
    assert [each["number"] for each in job["attempts"]] == list(range(1, len(job["attempts"]) + 1)), job
    assert len(job["attempts"]) <= 1 + asked.retries


def assert_right(asked: Asked, job: Any, runs: list[Run]) -> None:
    """A job has come to one of the ends that it may come to."""
    if job["status"] == "finished":
        assert job["output"] == asked.name
        assert runs, f"{job} finished and never ran"
    elif job["status"] == "failed":
        assert job["error"]["type"] in ("lost", "crashed", "expired"), job
    else:
        assert job["cancellation"], job


def assert_whole(log: list[Event], job: Any) -> None:
    """A log says each thing once, in order, ends with the end, and has all that the last try has put out."""
    ids = [tuple(map(int, event["id"].split("-"))) for event in log]
    assert ids == sorted(set(ids)), log
    kinds = [event["type"] for event in log]
    assert kinds[0] == "queued"
    assert [kind for kind in kinds if kind in TERMINAL] == [job["status"]]
    assert kinds[-1] == job["status"]
    assert kinds.count("started") >= len(job["attempts"])
    last_try = log[len(kinds) - kinds[::-1].index("started") :] if "started" in kinds else []
    streamed = [event["data"]["output"] for event in last_try if event["type"] == "output"]
    if job["status"] == "finished" and streamed:
        assert "".join(streamed) == job["output"], log
