"""One model that is slow to set up does not hold up the jobs of others that a worker is ready for."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import pytest

from tests.deployment import Deployment, children, eventually, until
from tests.noting import FOLDER, NOTED, state

SLOW = """
    @model
    class Slow:
        def setup(self) -> None:
            note("setup begins")
            while not Path(os.environ["NOTES"] + ".go").exists():
                time.sleep(0.02)
            note("setup ends")

        def predict(self) -> str:
            return "slow"
"""
WARM = """
    @model
    class Warm:
        def setup(self) -> None:
            note("warm")

        def predict(self) -> int:
            return os.getpid()
"""


def go(notes: Path) -> None:
    Path(f"{notes}.go").touch()


def test_a_setup_in_an_idle_worker_does_not_hold_up_jobs_of_ready_models(deployed: Deployment, notes: Path) -> None:
    deployed.write(NOTED + FOLDER + SLOW)
    deployed.worker()
    api = deployed.web()
    until(lambda: "setup begins" in notes.read_text())

    jobs = [api.submit("first", wait=10, input={"name": str(number)}) for number in range(5)]

    assert [job["status"] for job in jobs] == ["finished"] * 5
    assert state(api, "slow")["state"] == "loading"
    go(notes)
    assert api.submit("slow", wait=20)["output"] == "slow"
    assert notes.read_text().split().count("begins") == 1


def test_a_model_that_is_loaded_goes_on_while_another_is_set_up(deployed: Deployment, notes: Path) -> None:
    deployed.write(NOTED + WARM + SLOW.replace("Slow", "Zlow"))
    worker = deployed.worker()
    api = deployed.web()
    until(lambda: "setup begins" in notes.read_text())
    waiting = api.submit("zlow")["id"]

    before = api.submit("warm", wait=10)["output"]
    go(notes)

    assert api.done(waiting)["output"] == "slow"
    after = api.submit("warm", wait=10)["output"]
    assert after != before
    assert children(worker.pid) == [after]


def test_jobs_of_ready_models_come_before_a_setup_whatever_their_priority(deployed: Deployment, notes: Path) -> None:
    # One that takes less than half a second is done at once.
    asleep = SLOW.replace("Slow", "Asleep").replace('note("setup ends")', 'time.sleep(0.7); note("setup ends")')
    deployed.write(NOTED + FOLDER + asleep.replace("@model", "@model(keep_alive=0)", 1))
    go(notes)
    deployed.worker(HORSE_MAX_MEMORY="1000")  # no room for a second one
    api = deployed.web()
    until(lambda: state(api, "asleep")["state"] == "unloaded")
    notes.write_text("")
    busy = api.submit("first", input={"name": "busy", "seconds": 1})["id"]
    api.started(busy)
    first = api.submit("asleep", priority="high")["id"]
    others = [api.submit("second", input={"name": f"o{number}"}, priority="low")["id"] for number in range(3)]

    assert api.done(first)["status"] == "finished"
    assert all(api.job(job_id)["status"] == "finished" for job_id in others)
    lines = notes.read_text().splitlines()
    assert lines.index("setup begins") > max(lines.index(f"o{number}") for number in range(3))


def test_jobs_of_an_unloaded_model_do_not_wait_until_others_have_none(deployed: Deployment, notes: Path) -> None:
    deployed.write(NOTED + FOLDER + SLOW.replace("Slow", "Asleep").replace("@model", "@model(keep_alive=0)", 1))
    go(notes)
    deployed.worker()
    api = deployed.web()
    until(lambda: state(api, "asleep")["state"] == "unloaded")
    others = [api.submit("first", input={"seconds": 0.3})["id"] for _ in range(60)]
    asleep = api.submit("asleep")["id"]

    assert api.done(asleep, within=14)["output"] == "slow"
    assert not api.job(others[-1])["done"]
    for job_id in others:
        api.cancel(job_id)


def test_a_setup_that_fails_or_kills_beside_others_costs_them_nothing(deployed: Deployment, notes: Path) -> None:
    deployed.write(
        NOTED
        + WARM
        + """
    @model
    class Zdeadly:
        def setup(self) -> None:
            if note("tried") is None and not Path(os.environ["NOTES"] + ".go").exists():
                os._exit(3)

        def predict(self) -> str:
            return "alive"

    @model
    class Zfails:
        def setup(self) -> None:
            raise OSError("no weights")

        def predict(self) -> None: ...
    """
    )
    deployed.worker()
    api = deployed.web()
    until(lambda: {state(api, "zdeadly")["state"], state(api, "zfails")["state"]} == {"failed"})
    assert "exited with code 3" in state(api, "zdeadly")["error"]
    assert "no weights" in state(api, "zfails")["error"]
    pid = api.submit("warm", wait=10)["output"]

    until(lambda: notes.read_text().split().count("tried") >= 3)

    assert api.submit("warm", wait=10)["output"] == pid
    assert notes.read_text().split().count("warm") <= 3
    go(notes)
    assert eventually(lambda: api.submit("zdeadly", wait=15), within=30)["output"] == "alive"


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGKILL])
def test_a_worker_that_ends_takes_a_successor_with_it(
    deployed: Deployment, notes: Path, signum: signal.Signals
) -> None:
    deployed.write(NOTED + FOLDER + SLOW)
    worker = deployed.worker()
    until(lambda: "setup begins" in notes.read_text())
    pids = children(worker.pid)
    assert len(pids) == 2

    os.kill(worker.pid, signum)
    worker.wait(20)

    until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in pids))


def test_a_setup_beside_others_that_takes_too_long_is_ended(deployed: Deployment, notes: Path) -> None:
    deployed.write(NOTED + FOLDER + SLOW)
    deployed.worker(SETUP_TIMEOUT="8")
    api = deployed.web()

    until(lambda: state(api, "slow")["state"] == "failed", within=40)

    assert "SETUP_TIMEOUT" in state(api, "slow")["error"]
    assert api.submit("first", wait=10)["status"] == "finished"


def test_a_long_job_is_not_interrupted_and_holds_up_no_async_model(deployed: Deployment, notes: Path) -> None:
    deployed.write(
        NOTED
        + FOLDER
        + SLOW
        + """
    @model(concurrency=4)
    async def echo(x: int) -> int:
        return x
    """
    )
    deployed.worker()
    api = deployed.web()
    until(lambda: "setup begins" in notes.read_text())
    long = api.submit("first", input={"name": "long", "seconds": 12})["id"]
    api.started(long)
    began = time.monotonic()
    until(lambda: time.monotonic() > began + 6)
    go(notes)

    assert api.submit("echo", wait=5, input={"x": 7})["output"] == 7
    assert api.job(long)["status"] == "started"
    assert api.done(long)["output"] == "long"
    assert len(api.job(long)["attempts"]) == 1
    assert api.submit("slow", wait=20)["output"] == "slow"


def test_a_setup_that_ends_its_process_does_not_take_the_others_with_it_each_time(
    deployed: Deployment, notes: Path
) -> None:
    ends = SLOW.replace("Slow", "Zends").replace("while not", 'note("ends"); os._exit(5)\n            while not')
    deployed.write(NOTED + FOLDER + SLOW + ends)
    go(notes)
    deployed.worker()
    api = deployed.web()

    until(lambda: state(api, "slow")["state"] == "ready", 60)
    until(lambda: notes.read_text().split().count("ends") >= 5, 60)  # "setup ends" is a word of it, too

    assert state(api, "zends")["error"].endswith("its process exited with code 5")
    assert notes.read_text().count("setup ends") <= 2
