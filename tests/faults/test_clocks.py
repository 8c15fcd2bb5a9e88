"""Hosts whose clocks are wrong, or take a step: only Redis's decides, and the monotonic one of each process."""

from __future__ import annotations

import textwrap
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.deployment import Deployment, eventually

MODELS = """
    import time
    from service import model, Retry, progress

    @model(timeout=60)
    def sleeps(seconds: float) -> str:
        for _ in progress(range(round(seconds * 10))):
            time.sleep(0.1)
        return "slept"

    @model(retries=2, backoff=[1, 1])
    def fails(word: str) -> str:
        raise ValueError(word)
"""

# A clock that is wrong by what a file says, for everything in a process that asks for the time of day.
WRONG_CLOCK = """
    import datetime, os, time

    _time, _time_ns = time.time, time.time_ns

    def _wrong_by():
        try:
            with open(os.environ["WRONG_BY"]) as file:
                return float(file.read() or 0)
        except OSError:
            return 0.0

    time.time = lambda: _time() + _wrong_by()
    time.time_ns = lambda: _time_ns() + int(_wrong_by() * 1e9)

    class _DateTime(datetime.datetime):
        @classmethod
        def now(cls, tz=None):
            return datetime.datetime.fromtimestamp(time.time(), tz)

        @classmethod
        def utcnow(cls):
            return datetime.datetime.fromtimestamp(time.time(), datetime.UTC).replace(tzinfo=None)

    datetime.datetime = _DateTime
"""


Wrong = Callable[[str, float], dict[str, str]]


@pytest.fixture
def wrong(deployed: Deployment, tmp_path: Path) -> Wrong:
    """The environment of a process whose clock is wrong by so many seconds; called again, the clock takes a step."""
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "sitecustomize.py").write_text(textwrap.dedent(WRONG_CLOCK))

    def environment(name: str, seconds: float) -> dict[str, str]:
        (tmp_path / f"{name}.new").write_text(str(seconds))
        (tmp_path / f"{name}.new").rename(tmp_path / name)
        path = f"{tmp_path / 'site'}:{deployed.environment['PYTHONPATH']}"
        return {"PYTHONPATH": path, "WRONG_BY": str(tmp_path / name)}

    deployed.write(MODELS)
    return environment


def test_a_job_runs_once_beside_workers_whose_clocks_are_wrong(deployed: Deployment, wrong: Wrong) -> None:
    deployed.worker(**wrong("ahead", 60))
    deployed.worker(**wrong("behind", -60))
    api = deployed.web(**wrong("web", -3600))
    jobs = [api.submit("sleeps", input={"seconds": 5}, start_timeout=60) for _ in range(4)]

    for job in jobs:
        ended = api.done(job["id"], within=40)
        assert (ended["status"], len(ended["attempts"])) == ("finished", 1)
        assert ended["created_at"] <= ended["started_at"] <= ended["ended_at"]


@pytest.mark.parametrize("step", [3600, -3600])
def test_a_step_of_the_clock_while_a_job_runs_changes_nothing(deployed: Deployment, wrong: Wrong, step: float) -> None:
    deployed.worker(**wrong("clock", 0))
    api = deployed.web(**wrong("clock", 0))
    job = api.submit("sleeps", input={"seconds": 6})
    api.started(job["id"])

    wrong("clock", step)

    ended = api.done(job["id"], within=40)
    assert (ended["status"], len(ended["attempts"])) == ("finished", 1)


def test_retries_come_in_time_whatever_the_workers_clock_says(deployed: Deployment, wrong: Wrong) -> None:
    deployed.worker(**wrong("behind", -600))
    api = deployed.web()

    job = api.done(api.submit("fails", input={"word": "no"})["id"], within=30)

    assert (job["status"], len(job["attempts"])) == ("failed", 3)


def test_a_clock_that_is_wrong_is_a_warning(deployed: Deployment, wrong: Wrong) -> None:
    deployed.worker("--name", "late", **wrong("behind", -60))
    api = deployed.web(**wrong("web", 60))

    def warned() -> str:
        warnings = " ".join(api.http.get("/readyz").json()["warnings"])
        assert "worker late is 60.0 s behind Redis's" in warnings
        return warnings

    assert "this web process's host is 60.0 s ahead of Redis's" in eventually(warned)
    shown = api.http.get("/v1/workers").json()
    assert any("worker late is 60.0 s behind" in warning for warning in shown["warnings"])
    (worker,) = shown["workers"]
    assert worker["clock_ahead"] == pytest.approx(-60, abs=1)


def test_a_start_timeout_is_kept_behind_a_long_job_of_the_same_model(deployed: Deployment, wrong: Wrong) -> None:
    deployed.worker()
    api = deployed.web()
    long = api.submit("sleeps", input={"seconds": 9})
    short = [api.submit("sleeps", input={"seconds": 0.1}, start_timeout=2) for _ in range(3)]

    for job in short:
        assert api.done(job["id"])["error"]["type"] == "expired"
    assert api.done(long["id"])["status"] == "finished"


def test_a_start_timeout_is_kept_while_a_model_is_loaded(deployed: Deployment) -> None:
    deployed.write("""
        import os, time
        from service import model

        @model
        class Slow:
            def setup(self):
                while not os.path.exists(os.environ["GATE"]):
                    time.sleep(0.05)

            def predict(self, x: int) -> int:
                return x
    """)
    deployed.worker(GATE=str(deployed.folder / "gate"))
    api = deployed.web()

    job = api.submit("slow", input={"x": 1}, start_timeout=2)

    assert api.done(job["id"])["error"]["type"] == "expired"
