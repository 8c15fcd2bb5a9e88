"""Hosts whose clocks are off, are set while jobs run, or that slept."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

from tests.deployment import eventually
from tests.hostile.redis_answers import a_job_meanwhile
from tests.hostile.situation import situation
from tests.hostile.stage import Clock, Stage

LONG = 7.0
"""Seconds of a job: more than two leases of the stage's workers."""
HOUR = 3600.0


@contextmanager
def offsets(clocks: dict[Clock, float]) -> Iterator[None]:
    """Within it these clocks are off by so many seconds."""
    for clock, offset in clocks.items():
        clock.set(offset)
    try:
        yield
    finally:
        for clock in clocks:
            clock.set(0.0)


def _long_jobs(stage: Stage) -> list[str]:
    """Jobs that run by now, on all workers."""
    jobs = [stage.api.submit("sleeps", input={"name": "long", "seconds": LONG}) for _ in stage.workers]
    jobs.append(stage.api.submit("waits", input={"name": "long", "seconds": LONG}))
    return [stage.api.started(job["id"])["id"] for job in jobs]


def _end_in_one_attempt(stage: Stage, ids: list[str]) -> None:
    for job_id in ids:
        job = stage.api.done(job_id, within=LONG * 4)
        assert (job["status"], len(job["attempts"])) == ("finished", 1), job["attempts"]


def _jobs_run_with(stage: Stage, clocks: dict[Clock, float]) -> None:
    with offsets(clocks):
        time.sleep(1.5)  # so that whoever judges by its own clock has done so
        _end_in_one_attempt(stage, _long_jobs(stage))


@situation("C", touches="clocks")
def one_worker_is_a_minute_ahead_and_one_behind(stage: Stage) -> None:
    _jobs_run_with(stage, {stage.clocks[0]: 60, stage.clocks[1]: -60})


@situation("C", touches="clocks")
def the_web_host_is_a_minute_behind(stage: Stage) -> None:
    with offsets({stage.web_clock: -60}):
        job = stage.api.submit("sleeps", input={"name": "on time"}, start_timeout=20)
        assert stage.api.done(job["id"])["status"] == "finished"


@situation("C", touches="clocks")
def the_web_host_is_an_hour_ahead(stage: Stage) -> None:
    with offsets({stage.web_clock: HOUR}):
        job = stage.api.submit("sleeps", input={"name": "on time"}, start_timeout=20)
        assert stage.api.done(job["id"])["status"] == "finished"
        assert stage.api.http.get("/readyz").status_code == 200


def _a_clock_steps(offset: float) -> None:
    def step(stage: Stage) -> None:
        ids = _long_jobs(stage)
        with offsets(dict.fromkeys(stage.clocks, offset)):
            _end_in_one_attempt(stage, ids)
        time.sleep(1)  # and it steps back, with nothing at work

    step.__name__ = (
        f"the_clock_of_the_only_worker_steps_by_{'plus' if offset > 0 else 'minus'}_{abs(offset):.0f}_seconds"
    )
    situation("C", on="lone", touches="clocks")(step)


for _offset in (60.0, -60.0, HOUR, -HOUR):
    _a_clock_steps(_offset)


@situation("C", on="lone", touches="clocks workers")
def the_host_of_the_only_worker_sleeps_for_longer_than_its_lease(stage: Stage) -> None:
    """As a laptop does: its processes stand still, the time of day goes on."""
    ids = _long_jobs(stage)
    worker = stage.workers[0].pid
    with stage.stopped(worker, *stage.horses(worker)):
        time.sleep(5)
        stage.clocks[0].set(600.0)
    try:
        _end_in_one_attempt(stage, ids)
    finally:
        stage.clocks[0].set(0.0)


@situation("C", touches="clocks")
def clocks_wander_while_jobs_run(stage: Stage) -> None:
    with a_job_meanwhile(stage), offsets({}):
        for number, offset in enumerate((5, -5, 30, -30, 3, 0, 1e6, -1e6)):
            stage.clocks[number % len(stage.clocks)].set(offset)
            time.sleep(0.3)
        for clock in stage.clocks:
            clock.set(0.0)


@situation("C", touches="clocks")
def retries_are_on_time_though_a_clock_steps(stage: Stage) -> None:
    for offset in (HOUR, -HOUR):
        began = time.monotonic()
        job = stage.api.submit("stumbles", input={"name": "x", "until": began + 1.5})
        eventually(lambda job_id=job["id"]: _has_tried(stage, job_id))  # type: ignore[misc]
        with offsets(dict.fromkeys(stage.clocks, offset)):
            done = stage.api.done(job["id"], within=15)
            assert done["status"] == "finished", done
        assert 1.0 < time.monotonic() - began < 9, "not on time"


def _has_tried(stage: Stage, job_id: str) -> None:
    job = stage.api.job(job_id)
    assert job["attempts"], job
    assert job["status"] == "scheduled", job


@situation("C", on="lone")
def jobs_wait_longer_than_they_may_behind_a_long_one(stage: Stage) -> None:
    first = stage.api.submit("sleeps", input={"name": "first", "seconds": 6})
    stage.api.started(first["id"])
    behind = [stage.api.submit("sleeps", input={"name": "behind"}, start_timeout=2) for _ in range(3)]
    for job in behind:
        done = stage.api.done(job["id"], within=20)
        assert (done["status"], done["error"] and done["error"]["type"]) == ("failed", "expired"), done
    assert stage.api.done(first["id"])["status"] == "finished"


@situation("C", touches="clocks")
def an_offset_is_said(stage: Stage) -> None:
    with offsets({stage.web_clock: 30, stage.clocks[0]: -30}):

        def said() -> None:
            ready = stage.api.http.get("/readyz")
            assert ready.status_code == 200, ready.text
            assert "clock" in str(ready.json()["warnings"]), ready.text
            workers = stage.api.http.get("/v1/workers").text
            assert "clock" in workers or "offset" in workers, workers

        eventually(said, within=10)
