"""A work-horse is replaced when it is worn, and a model that nobody uses is unloaded."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from tests.deployment import Deployment, children, eventually, until
from tests.noting import NOTED, state

LOADED = (
    NOTED
    + """
    @model
    class Loaded:
        def setup(self) -> None:
            note("setup")
            self.seen = 0

        def predict(self, grow: int = 0, seconds: float = 0) -> list[int]:
            self.seen += 1
            time.sleep(seconds)
            if grow:
                self.weight = bytearray(os.urandom(1)) * (grow * 2**20)
            return [os.getpid(), self.seen]

    @model(keep_alive=0.5)
    class Rare:
        def setup(self) -> None:
            note("rare")

        def predict(self) -> str:
            return "rare"

    @model
    def other() -> int:
        return os.getpid()
"""
)


def test_after_horse_max_jobs_a_fresh_one_takes_over_and_has_loaded_first(deployed: Deployment, notes: Path) -> None:
    deployed.write(LOADED)
    worker = deployed.worker(HORSE_MAX_JOBS="3")
    api = deployed.web()
    until(lambda: state(api, "loaded")["state"] == "ready")
    (first,) = children(worker.pid)

    for _ in range(3):
        assert api.submit("loaded", wait=10)["output"][0] == first

    until(lambda: first not in children(worker.pid))
    assert notes.read_text().split().count("setup") == 2
    assert state(api, "loaded")["state"] == "ready"
    pid, seen = api.submit("loaded", wait=10)["output"]
    assert pid != first
    assert seen == 1
    assert notes.read_text().split().count("setup") == 2


def test_above_horse_max_memory_a_fresh_one_takes_over(deployed: Deployment, notes: Path) -> None:
    deployed.write(LOADED)
    worker = deployed.worker(HORSE_MAX_MEMORY=str(300 * 2**20))
    api = deployed.web()
    (first,) = children(worker.pid)
    assert api.submit("loaded", wait=10)["output"][0] == first

    assert api.submit("loaded", wait=10, input={"grow": 400})["output"][0] == first

    until(lambda: first not in children(worker.pid))
    assert api.submit("loaded", wait=10)["output"][0] != first


def test_many_jobs_on_a_horse_that_is_often_replaced_are_each_run_once(deployed: Deployment, notes: Path) -> None:
    deployed.write(LOADED)
    deployed.worker(HORSE_MAX_JOBS="20")
    api = deployed.web()

    jobs = [api.submit("loaded", input={"seconds": 0.03})["id"] for _ in range(150)]

    done = [api.done(job, within=60) for job in jobs]
    assert {job["status"] for job in done} == {"finished"}
    assert {len(job["attempts"]) for job in done} == {1}
    outputs = [tuple(job["output"]) for job in done]
    assert len(set(outputs)) == 150
    assert len({pid for pid, _ in outputs}) > 1


def test_a_model_that_nobody_uses_is_unloaded_and_loads_again_for_its_next_job(
    deployed: Deployment, notes: Path
) -> None:
    deployed.write(LOADED)
    deployed.worker()
    api = deployed.web()

    def unloaded() -> None:
        assert state(api, "rare")["state"] == "unloaded"

    eventually(unloaded)
    assert state(api, "rare")["ready"] is True
    assert api.submit("rare", wait=10)["output"] == "rare"
    eventually(unloaded)
    assert notes.read_text().split().count("rare") == 2
    assert state(api, "loaded")["state"] == "ready"


@pytest.mark.parametrize("name", ["HORSE_MAX_JOBS", "HORSE_MAX_MEMORY"])
def test_a_limit_that_is_no_number_is_refused(deployed: Deployment, name: str) -> None:
    worker = deployed.run("worker", **{name: "many"})

    assert worker.wait(20) == 1
    assert name in worker.log.read_text()  # type: ignore[attr-defined]


def test_a_horse_that_is_worn_from_the_start_is_not_replaced_without_end(deployed: Deployment, notes: Path) -> None:
    deployed.write(LOADED)
    worker = deployed.worker(HORSE_MAX_MEMORY="1000000")
    api = deployed.web()
    until(lambda: "HORSE_MAX_MEMORY is less" in worker.log.read_text())  # type: ignore[attr-defined]
    pids = {json.dumps(api.submit("other", wait=10)["output"]) for _ in range(5)}

    assert len(pids) == 1
    assert os.path.exists(f"/proc/{pids.pop()}")
