"""How a worker loads its models: setups that fail, kill, hang or fork, and horses that are killed or stuck."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path
from typing import Any

from tests.deployment import Api, Deployment, children, eventually, until
from tests.noting import FOLDER, NOTED, state


def becomes(api: Api, name: str, wanted: str, within: float = 10) -> Any:
    """The model once it is in a state."""

    def check() -> Any:
        model = state(api, name)
        assert model["state"] == wanted, model
        return model

    return eventually(check, within)


def test_a_failing_setup_fails_its_jobs_is_told_and_is_tried_again(deployed: Deployment, notes: Path) -> None:
    deployed.write(
        NOTED
        + FOLDER
        + """
    @model
    class Needy:
        def setup(self) -> None:
            if not os.path.exists(os.environ["NOTES"] + ".weights"):
                raise FileNotFoundError("the weights are not there")

        def predict(self) -> str:
            return "loaded"
    """
    )
    deployed.worker()
    api = deployed.web()

    failed = becomes(api, "needy", "failed")
    assert "the weights are not there" in failed["error"]
    assert not failed["ready"]
    job = api.done(api.submit("needy")["id"])
    assert (job["status"], job["error"]["type"]) == ("failed", "setup_failed")
    assert "the weights are not there" in job["error"]["message"]
    assert api.done(api.submit("first", input={"name": "a"})["id"])["output"] == "a"

    Path(f"{notes}.weights").touch()
    assert becomes(api, "needy", "ready")["error"] is None
    assert api.done(api.submit("needy")["id"])["output"] == "loaded"


def test_a_failing_setup_is_tried_less_and_less_often(deployed: Deployment, notes: Path) -> None:
    deployed.write(
        NOTED
        + """
    @model
    class Never:
        def setup(self) -> None:
            note(time.time())
            raise RuntimeError("no")

        def predict(self) -> None: ...
    """
    )
    deployed.worker()

    def tried() -> list[float]:
        times = [float(line) for line in notes.read_text().split()]
        assert len(times) >= 3
        return times

    times = eventually(tried, within=12)
    pauses = [later - earlier for earlier, later in zip(times, times[1:], strict=False)]
    assert pauses[0] > 0.9
    assert pauses[1] > 1.9


DEADLY = """
    @model
    class Deadly:
        def setup(self) -> None:
            note("deadly")
            os._exit(1)

        def predict(self) -> None: ...

    @model
    class Warm:
        def setup(self) -> None:
            note("warm")

        def predict(self) -> str:
            return "warm"
"""


def test_a_setup_that_kills_the_process_does_not_starve_other_models(deployed: Deployment, notes: Path) -> None:
    deployed.write(NOTED + DEADLY)
    worker = deployed.worker()
    api = deployed.web()

    failed = becomes(api, "deadly", "failed")
    assert "exited with code 1" in failed["error"]
    jobs = [api.submit("warm", wait=10) for _ in range(20)]

    assert [job["output"] for job in jobs] == ["warm"] * 20
    assert worker.poll() is None
    assert notes.read_text().split().count("deadly") <= 5


def test_jobs_of_a_model_whose_setup_kills_do_not_cost_a_horse_each(deployed: Deployment, notes: Path) -> None:
    deployed.write(NOTED + DEADLY)
    deployed.worker()
    api = deployed.web()
    becomes(api, "deadly", "failed")

    deadly = [api.submit("deadly")["id"] for _ in range(12)]
    job = api.submit("warm", wait=20)

    assert job["status"] == "finished"
    assert {api.done(job_id)["error"]["type"] for job_id in deadly} == {"setup_failed"}
    assert notes.read_text().split().count("deadly") <= 6  # with back-off; not one for each job


def test_a_setup_that_takes_too_long_is_ended(deployed: Deployment, notes: Path) -> None:
    deployed.write(
        NOTED
        + FOLDER
        + """
    @model
    class Slow:
        def setup(self) -> None:
            time.sleep(1000)

        def predict(self) -> None: ...
    """
    )
    deployed.worker(SETUP_TIMEOUT="4")  # the imports must fit into it, too, on a machine that does other work
    api = deployed.web()

    assert "SETUP_TIMEOUT" in becomes(api, "slow", "failed")["error"]
    assert api.submit("first", wait=10, input={"name": "a"})["output"] == "a"


def test_a_horse_whose_setup_leaves_a_child_and_dies_is_noticed(deployed: Deployment) -> None:
    deployed.write("""
    import multiprocessing, os, time
    from service import model

    @model
    class Forks:
        def setup(self) -> None:
            multiprocessing.get_context("fork").Process(target=time.sleep, args=(30,)).start()
            os._exit(1)

        def predict(self) -> None: ...
    """)
    deployed.worker()

    becomes(deployed.web(), "forks", "failed", within=8)


def test_a_stop_reaches_a_job_whose_model_is_still_loading(deployed: Deployment, notes: Path) -> None:
    deployed.write(
        NOTED
        + """
    @model
    class Slow:
        def setup(self) -> None:
            if Path(os.environ["NOTES"] + ".slow").exists():
                note("slow")
                time.sleep(1000)
            raise RuntimeError("not yet")

        def predict(self) -> None: ...
    """
    )
    first = deployed.worker()
    api = deployed.web()
    becomes(api, "slow", "failed")
    first.kill()
    first.wait()
    Path(f"{notes}.slow").touch()
    job = api.submit("slow")
    worker = deployed.worker()  # finds the job before it has the leisure to load models
    until(lambda: "slow" in notes.read_text())
    api.started(job["id"])

    api.cancel(job["id"])

    assert api.done(job["id"], within=8)["status"] == "stopped"
    assert worker.poll() is None


def test_a_horse_killed_while_it_idles_is_replaced(deployed: Deployment, notes: Path) -> None:
    deployed.write(NOTED + DEADLY.replace("os._exit(1)", "pass"))
    worker = deployed.worker()
    api = deployed.web()
    becomes(api, "warm", "ready")
    (horse,) = children(worker.pid)

    os.kill(horse, signal.SIGKILL)

    assert api.submit("warm", wait=10)["output"] == "warm"
    assert notes.read_text().split().count("warm") == 2
    assert children(worker.pid) != [horse]


def test_a_job_that_a_killed_horse_had_not_begun_is_run_by_the_next(deployed: Deployment, notes: Path) -> None:
    deployed.write(NOTED + DEADLY.replace("os._exit(1)", "pass"))
    worker = deployed.worker()
    api = deployed.web()
    becomes(api, "warm", "ready")
    (horse,) = children(worker.pid)
    os.kill(horse, signal.SIGSTOP)
    job_id = api.submit("warm")["id"]
    api.started(job_id)

    os.kill(horse, signal.SIGKILL)

    job = api.done(job_id)
    assert job["output"] == "warm"
    assert [attempt["number"] for attempt in job["attempts"]] == [1]


def test_a_horse_that_does_not_read_cannot_hold_up_the_worker(deployed: Deployment, notes: Path) -> None:
    deployed.write(NOTED + FOLDER)
    worker = deployed.worker()
    api = deployed.web()
    assert api.submit("first", wait=10)["status"] == "finished"
    (horse,) = children(worker.pid)

    os.kill(horse, signal.SIGSTOP)
    job = api.submit("first", input={"name": "x" * 900_000}, timeout=1)

    # It never began there: another work-horse runs it, and it is not charged.
    done = api.done(job["id"], within=20)
    assert (done["status"], [attempt["number"] for attempt in done["attempts"]]) == ("finished", [1])
    assert horse not in children(worker.pid)


def test_a_line_written_between_jobs_neither_wakes_nor_ends_the_worker(deployed: Deployment, notes: Path) -> None:
    deployed.write(
        NOTED
        + """
    import logging, sys, threading

    @model
    def chatty() -> None:
        handler = logging.StreamHandler()  # as libraries do that configure their logging late
        logging.getLogger("library").addHandler(handler)
        def later():
            time.sleep(0.5)
            logging.getLogger("library").warning("between jobs")
            note("said")
        threading.Thread(target=later, daemon=True).start()

    @model
    class Late:
        def setup(self) -> None:
            if not Path(os.environ["NOTES"] + ".late").exists():
                raise RuntimeError("not yet")

        def predict(self) -> str:
            return "late"
    """
    )
    worker = deployed.worker()
    api = deployed.web()
    becomes(api, "late", "failed")
    api.done(api.submit("chatty")["id"])
    until(lambda: "said" in notes.read_text())

    before = _cpu_seconds(worker.pid)
    time.sleep(1)
    assert _cpu_seconds(worker.pid) - before < 0.5
    Path(f"{notes}.late").touch()
    assert api.submit("late", wait=10)["output"] == "late"
    assert worker.poll() is None


def _cpu_seconds(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
