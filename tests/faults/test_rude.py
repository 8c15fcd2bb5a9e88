"""A rude model beside well-behaved ones: none of these fails, is tried twice, waits long, or shows a word of another's.

    RUDE_JOBS=500 POLITE_JOBS=10000 RUDE_MINUTES=10 .venv/bin/python -m pytest -s tests/faults/test_rude.py

is the long form; RUDE_SEED chooses other jobs.

Each job is submitted when its time has come, so that it can be said how long it waited. It may take its own time plus
a reload, from the moment at which it is the first of its model's queue, and beside the time in which the worker ran
others in their turn. That a reload is needed is not known at once if the work-horse hangs: STUCK_AFTER.
"""

from __future__ import annotations

import json
import os
import random
import threading
import time
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from service.worker.stuck import STUCK_AFTER
from tests.deployment import Api, Deployment, children, eventually, until
from tests.noting import state
from tests.polite import POLITE, Asked, Polite, copy_examples, language_model
from tests.rude_model import RUDE, TIMEOUT, error_of, rude_things

RUDE_JOBS, POLITE_JOBS = int(os.environ.get("RUDE_JOBS", "25")), int(os.environ.get("POLITE_JOBS", "250"))
MINUTES = float(os.environ.get("RUDE_MINUTES", "0.4"))
SEED = int(os.environ.get("RUDE_SEED", "12"))
OWN_TIME = 2.0
"""Seconds that no well-behaved job needs, on the slowest of machines."""
SLOWER = 4.0
"""A reload may take so many times longer than the one that was measured, when nothing else ran."""
AT_LEAST = 30.0
"""Seconds that are allowed in any case: the machine of a test has other things to do, too."""


def planned(chosen: random.Random) -> list[tuple[float, Asked]]:
    """When to submit which job, in seconds; one kind of harm comes as often as another."""
    polite = Polite(chosen)
    plan = [(60 * MINUTES * chosen.random(), polite.job()) for _ in range(POLITE_JOBS)]
    things = rude_things()
    chosen.shuffle(things)
    for number in range(RUDE_JOBS):
        model, how = things[number % len(things)]
        asked = Asked(model, {"name": f"rude-{number}", "how": how})
        plan.append((60 * MINUTES * number / RUDE_JOBS, asked))
    return sorted(plan, key=lambda each: each[0])


def submit(api: Api, plan: list[tuple[float, Asked]]) -> None:
    began, never = time.monotonic(), threading.Event()
    for at, asked in plan:
        never.wait(began + at - time.monotonic())
        asked.id = api.submit(asked.model, input=asked.input)["id"]


def done(api: Api, job_id: str) -> Any:
    return eventually(lambda: api.done(job_id), within=60 + MINUTES * 60)


def reload_time(deployed: Deployment, api: Api) -> float:
    """Seconds from the death of the work-horse until models with and without setup have run in the next one."""
    until(lambda: "polite" in api.http.get("/v1/models").text and state(api, "polite")["state"] == "ready", 90)
    before, began = children(deployed.processes[0].pid), time.monotonic()
    for horse in before:
        os.kill(horse, 9)
    for model in ("polite", "waits"):
        assert api.submit(model, wait=60, input={"word": "first"})["status"] == "finished"
    return time.monotonic() - began


def moment(text: str) -> float:
    return datetime.fromisoformat(text).timestamp()


class Ran:
    """When which job ran."""

    def __init__(self, jobs: list[Any]) -> None:
        attempts = [(job["id"], attempt) for job in jobs for attempt in job["attempts"]]
        runs = [(moment(each["started_at"]), moment(each["ended_at"]), job_id) for job_id, each in attempts]
        self._runs = sorted(runs)
        self._first_at: dict[str, float] = {}
        queues: dict[str, float] = {}
        for job in sorted(jobs, key=lambda job: moment(job["created_at"])):
            before = queues.get(job["model"], 0.0)
            self._first_at[job["id"]] = max(moment(job["created_at"]), before)
            queues[job["model"]] = max(before, moment(job["started_at"]))

    def nobody(self, job: Any) -> float:
        """Seconds between its place at the head of its queue and a job's end in which no other job ran."""
        at, end = self._first_at[job["id"]], moment(job["ended_at"])
        left = end - at
        for begin, over, job_id in self._runs:
            if begin >= end:
                break
            if job_id != job["id"] and over > at:
                left -= max(0.0, min(over, end) - max(begin, at))
                at = max(at, over)
        return left


def wrong(asked: Asked, job: Any, events: list[dict[str, Any]]) -> Iterator[str]:
    """What a well-behaved job should not have met."""
    if job["status"] != "finished" or not asked.right(job["output"]):
        yield f"{job['status']} {job['error']} {str(job['output'])[:300]}"
    if len(job["attempts"]) != 1:
        yield f"{len(job['attempts'])} attempts"
    if "SECRET" in json.dumps([job, events]):
        yield f"a word of another's: {[each for each in events if 'SECRET' in str(each)][:3]}"
    logged = {event["data"]["message"] for event in events if event["type"] == "log"}
    if logged != asked.logs:  # in one that ran again, because its neighbour ended the work-horse, twice
        yield f"logged {logged}, not {asked.logs}"


def wrong_with_rude(asked: Asked, job: Any, events: list[dict[str, Any]]) -> Iterator[str]:
    """How a rude job itself may not end, and what it may not see."""
    ends = (job["error"] or {}).get("type")
    if ends != error_of(asked.input["how"]):
        yield f"{job['status']} {job['error']}"
    if "word-" in (told := json.dumps([job, events])) or "unix://" in told:
        yield f"it has seen {told[:1000]}"
    if told.count("SECRET rude-") != told.count(f"SECRET {asked.input['name']}"):
        yield f"another's: {[each for each in events if 'SECRET rude-' in str(each)][:3]}"
    if (ran := moment(job["ended_at"]) - moment(job["attempts"][-1]["started_at"])) > TIMEOUT + AT_LEAST:
        yield f"it ran for {ran:.1f} s"


@pytest.mark.timeout(240 + MINUTES * 120)
def test_what_a_rude_model_does_reaches_no_other_job(
    deployed: Deployment, project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    copy_examples(project, deployed.jobs_dir)
    deployed.write(POLITE, "polite.py")
    deployed.write(RUDE, "rude.py")
    with language_model() as url:
        deployed.run("worker", LLM_BASE_URL=url)
        api = deployed.web()
        reload = reload_time(deployed, api)
        plan = planned(random.Random(SEED))  # noqa: S311 -- the same jobs each time
        submit(api, plan)
        jobs = [done(api, asked.id) for _, asked in plan]

    found: list[str] = []
    ran, waits = Ran(jobs), []
    for (_, asked), job in zip(plan, jobs, strict=True):
        rude = asked.model.startswith("rude")
        looks = wrong_with_rude if rude else wrong
        found += [f"{asked.model} {asked.input}: {each}" for each in looks(asked, job, api.log(asked.id))]
        if not rude:
            waits.append((ran.nobody(job), moment(job["ended_at"]) - moment(job["created_at"]), asked.model))
    waits.sort()
    whole = sorted(each[1] for each in waits)
    with capsys.disabled():
        print(
            f"\nRUDE_SEED={SEED}: {RUDE_JOBS} rude and {POLITE_JOBS} well-behaved jobs in {MINUTES:g} minutes, "
            f"reload {reload:.1f} s; from submit to end: median {whole[len(whole) // 2]:.2f} s, "
            f"99 % within {whole[len(whole) * 99 // 100]:.2f} s, all within {whole[-1]:.2f} s; "
            f"while no other job ran at most {waits[-1][0]:.2f} s ({waits[-1][2]}); {len(found)} wrong"
        )
    assert not found, "\n".join(found[:50])
    assert waits[-1][0] <= max(AT_LEAST, OWN_TIME + STUCK_AFTER + SLOWER * reload), waits[-5:]
