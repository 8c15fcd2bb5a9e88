"""What may befall a running service from outside: a table of situations, and what must hold after each.

A situation is a function that does something to a Stage and puts back what it changed. What must hold afterwards is
the same for all of them and is asked here: `assert_well`.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import httpx

from tests.deployment import eventually
from tests.hostile.load import Asked, expected
from tests.hostile.models import LOADED
from tests.hostile.stage import Memory, Stage
from tests.watchers import TERMINAL, log_of

LONGEST_SILENCE = 4.0
"""Seconds for which /healthz may not answer: the machine of a test has other things to do, too."""
READY_AGAIN = 20.0
ENDS_WITHIN = 30.0
# 16 threads make an answer of 9 MB each. A connection to Redis keeps the room of its largest answer (hiredis) until it
# is used again, which is 12 MB for each of those.
MORE_MEMORY, HIGHER_PEAK = 250 * 2**20, 600 * 2**20
MORE_FILES = 80  # of which the pool of connections to Redis may keep 64


@dataclass(frozen=True)
class Situation:
    """One thing that may befall a service."""

    name: str
    row: str
    """Of the list of kinds: A1 ... D."""
    do: Callable[[Stage], None]
    on: str
    """The kind of stage that it needs; see stages.py."""
    touches: frozenset[str]
    """What it changes that no other situation may change at the same time."""
    again: bool
    """Whether jobs may have more than one attempt, or fail as `lost`, because it kills who ran them."""
    forgets: bool
    """Whether Redis forgets what was accepted before."""
    silent: bool
    """Whether the web process may be silent, because it is killed or frozen itself."""


SITUATIONS: dict[str, Situation] = {}


def situation(
    row: str, on: str = "main", touches: str = "", again: bool = False, forgets: bool = False, silent: bool = False
) -> Callable[[Callable[[Stage], None]], Callable[[Stage], None]]:
    """Add a function to the table; its name says what it does."""

    def add(do: Callable[[Stage], None]) -> Callable[[Stage], None]:
        name = do.__name__
        assert name not in SITUATIONS, name
        SITUATIONS[name] = Situation(name, row, do, on, frozenset(touches.split()), again, forgets, silent)
        return do

    return add


@dataclass(frozen=True)
class Before:
    """What a service was like."""

    processes: dict[str, int]
    memory: dict[str, Memory]
    asked: int
    """How many jobs had been asked for."""


def before(stage: Stage) -> Before:
    """What a service is like, before something is done to it."""
    stage.forget_peaks()
    return Before(stage.processes(), stage.memory(), len(stage.ledger.jobs))


@contextmanager
def forgetting(stage: Stage) -> Iterator[None]:
    """Within it Redis forgets: whatever was accepted until its end may be gone."""
    try:
        yield
    finally:
        stage.forgotten_until = time.monotonic()


def assert_well(stage: Stage, was: Before, again: bool = False, silent: bool = False) -> None:
    """The service is as it was: its processes live, it works, nothing accepted is lost, its memory is back."""
    stage.until_all_work()
    _assert_the_same_live(stage, was)
    assert silent or stage.ledger.silent < LONGEST_SILENCE, f"/healthz was silent for {stage.ledger.silent:.1f} s"
    stage.until_ready(READY_AGAIN)
    _assert_it_works(stage)
    for asked in stage.ledger.jobs[was.asked :]:
        _assert_kept(stage, asked, again)
    assert not stage.ledger.wrong, stage.ledger.wrong[:5]
    eventually(lambda: _assert_nothing_is_open(stage), within=ENDS_WITHIN)
    eventually(lambda: _assert_memory_is_back(stage, was), within=20)
    _assert_the_same_live(stage, was)


def _assert_the_same_live(stage: Stage, was: Before) -> None:
    live = stage.processes()
    for name, pid in was.processes.items():
        parent = was.processes.get(name.replace("horse", "worker").partition(".")[0], pid)
        if {pid, parent} & stage.killed:
            continue
        assert live.get(name) == pid, f"{name} (pid {pid}) has ended, now: {live}"


def _assert_it_works(stage: Stage) -> None:
    """One job of each kind, by new callers, is done within its time, at the first attempt."""
    jobs = [stage.ledger.submit(stage.api, model) for model in LOADED]
    for asked in jobs:
        assert asked.id, stage.ledger.wrong
        job = stage.api.done(asked.id, within=ENDS_WITHIN)
        assert job["status"] == "finished", job
        assert len(job["attempts"]) == 1, job["attempts"]


def _assert_kept(stage: Stage, asked: Asked, again: bool) -> None:
    assert asked.id, f"{asked.name} was never accepted: {stage.ledger.wrong}"
    answer = _read(stage, asked)
    if asked.accepted_at < stage.forgotten_until and answer.status_code in (404, 410):
        return
    assert answer.status_code == 200, f"{asked}: {answer.status_code} {answer.text[:300]}"
    job = answer.json()
    assert job["done"], f"{asked.name} is stuck: {_short(job)}"
    lost = job["status"] == "failed" and job["error"]["type"] in ("lost", "crashed")
    assert job["status"] == "finished" or (again and lost), f"{asked.name}: {_short(job)}"
    assert lost or job["output"] == expected(asked), f"{asked.name} has another's output: {_short(job)}"
    assert again or len(job["attempts"]) == 1, f"{asked.name} was tried again: {job['attempts']}"
    if asked.watched and not (asked.gone or asked.accepted_at < stage.forgotten_until):
        _assert_seen(stage, asked)


def _assert_nothing_is_open(stage: Stage) -> None:
    """Whoever asked for it, each job is over."""
    open_ones = {job_id: status for job_id, status in stage.statuses().items() if status not in TERMINAL}
    assert not open_ones, f"stuck: {open_ones}"


def _read(stage: Stage, asked: Asked) -> httpx.Response:
    return stage.api.http.get(f"/v1/jobs/{asked.id}", params={"wait": ENDS_WITHIN})


def _assert_seen(stage: Stage, asked: Asked) -> None:
    log = log_of(stage.api, asked.id)
    assert [each["id"] for each in asked.seen] == [each["id"] for each in log], f"{asked.name}: {asked.seen} of {log}"


def _assert_memory_is_back(stage: Stage, was: Before) -> None:
    for name, memory in stage.memory().items():
        if name in was.memory and stage.processes().get(name) == was.processes[name]:
            old = was.memory[name]
            grown = f"{name}: {old} -> {memory}"
            assert memory.rss < old.rss + MORE_MEMORY, f"keeps memory, {grown}"
            assert memory.peak < old.rss + HIGHER_PEAK, f"took much memory, {grown}"
            assert memory.files < old.files + MORE_FILES, f"keeps files open, {grown}"


def _short(job: dict[str, object]) -> dict[str, object]:
    return {name: value for name, value in job.items() if name not in ("input", "output", "urls")}
