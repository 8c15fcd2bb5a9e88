"""`RELOAD`, which `up --reload` sets: a worker takes changed model files up as a development server does."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from tests.deployment import Api, Deployment, eventually, until
from tests.noting import NOTED, state

ADD = """
    import time
    from service import model

    @model
    def add(x: int) -> int:
        return x + 1
"""
LONG = """
    @model
    def long(seconds: float = 0) -> str:
        note("begun")
        try:
            time.sleep(seconds)
        finally:
            note("left")
        return "first"
"""


def gives(api: Api, model: str, output: Any, **value: Any) -> None:
    job = api.submit(model, wait=10, input=value)
    assert job["output"] == output, job


def test_a_changed_file_is_served_and_a_new_and_a_removed_one_too(deployed: Deployment) -> None:
    path = deployed.write(ADD)
    worker = deployed.worker(RELOAD="1", GRACE_PERIOD="3000")
    api = deployed.web()
    gives(api, "add", 2, x=1)

    for plus in (2, 3):  # of the same size, within a second
        path.write_text(path.read_text().replace(f"x + {plus - 1}", f"x + {plus}"))
        began = time.monotonic()
        eventually(lambda plus=plus: gives(api, "add", 1 + plus, x=1), within=20)
        assert time.monotonic() - began < 15  # 2 s on a machine that has nothing else to do

    deployed.write(ADD.replace("add", "more"), "more.py")
    until(lambda: api.http.get("/v1/models/more").status_code == 200)
    gives(api, "more", 2, x=1)
    path.unlink()
    until(lambda: state(api, "add")["state"] == "offline")
    assert worker.poll() is None


def test_an_error_in_a_file_is_told_with_its_line_and_what_was_served_goes_on(deployed: Deployment) -> None:
    path = deployed.write(ADD)
    deployed.write(ADD.replace("add", "other"), "other.py")
    worker = deployed.worker(RELOAD="1")
    api = deployed.web()
    gives(api, "add", 2, x=1)

    path.write_text(path.read_text() + "\nmissing_name\n")

    line = path.read_text().splitlines().index("missing_name") + 1
    until(lambda: "not reloaded" in worker.log.read_text())
    assert "missing_name" in worker.log.read_text()
    assert f"models.py, line {line}" in worker.log.read_text()
    gives(api, "add", 2, x=1)
    gives(api, "other", 2, x=1)
    for path_of_it in ("/readyz", "/v1/models"):
        until(lambda each=path_of_it: f"models.py, line {line}" in str(api.http.get(each).json()["warnings"]), 30)
    path.write_text(path.read_text().replace("missing_name", "").replace("x + 1", "x + 5"))
    eventually(lambda: gives(api, "add", 6, x=1), within=20)
    until(lambda: not api.http.get("/v1/models").json()["warnings"], 30)


def test_a_file_that_ends_the_process_or_never_imports_keeps_nobody_from_serving(deployed: Deployment) -> None:
    path = deployed.write(ADD)
    worker = deployed.worker(RELOAD="1")
    api = deployed.web()
    good = path.read_text()

    path.write_text(good + "\nimport os\nos._exit(4)\n")
    until(lambda: "exited with code 4" in worker.log.read_text())
    gives(api, "add", 2, x=1)

    path.write_text(good + "\ntime.sleep(1000)\n")
    gives(api, "add", 2, x=1)
    path.write_text(good.replace("x + 1", "x + 7"))
    eventually(lambda: gives(api, "add", 8, x=1), within=20)


def test_a_running_job_is_stopped_at_once_and_given_back_uncounted(deployed: Deployment, notes: Path) -> None:
    path = deployed.write(NOTED + LONG)
    deployed.worker(RELOAD="1", GRACE_PERIOD="3000")
    api = deployed.web()
    job_id = api.submit("long", input={"seconds": 1000})["id"]
    until(lambda: "begun" in notes.read_text())

    path.write_text(path.read_text().replace('"first"', '"second"').replace("time.sleep(seconds)", "pass"))

    job = api.done(job_id)
    assert (job["status"], job["output"]) == ("finished", "second")
    assert [attempt["number"] for attempt in job["attempts"]] == [1]
    assert job["attempts"][0]["version"] == state(api, "long")["version"]
    assert notes.read_text().split()[:3] == ["begun", "left", "begun"]


def test_a_setup_that_runs_is_left_when_its_file_changes(deployed: Deployment, notes: Path) -> None:
    path = deployed.write(
        NOTED
        + """
    @model
    class Slow:
        def setup(self) -> None:
            note("setup")
            time.sleep(1000)

        def predict(self) -> str:
            return "mended"
    """
    )
    deployed.worker(RELOAD="1")
    api = deployed.web()
    job_id = api.submit("slow")["id"]
    until(lambda: "setup" in notes.read_text())

    path.write_text(path.read_text().replace("time.sleep(1000)", "pass"))

    job = api.done(job_id)
    assert (job["output"], len(job["attempts"])) == ("mended", 1)


def test_a_changed_helper_below_the_jobs_folder_is_a_change(deployed: Deployment) -> None:
    folder = deployed.jobs_dir / "_lib"
    folder.mkdir()
    (folder / "__init__.py").write_text("STEP = 1\n")
    deployed.write("""
        from jobs._lib import STEP
        from service import model

        @model
        def add(x: int) -> int:
            return x + STEP
    """)
    deployed.worker(RELOAD="1")
    api = deployed.web()
    gives(api, "add", 2, x=1)

    (folder / "__init__.py").write_text("STEP = 9\n")

    eventually(lambda: gives(api, "add", 10, x=1), within=20)


def test_a_worker_that_begins_with_a_broken_file_serves_it_when_it_is_mended(deployed: Deployment) -> None:
    path = deployed.write("from service import model\n\n@model\ndef add(x: int) -> int\n    return x + 1\n")
    worker = deployed.worker(RELOAD="1")
    api = deployed.web()
    until(lambda: state(api, "models")["state"] == "failed")

    path.write_text(path.read_text().replace("-> int\n", "-> int:\n"))

    until(lambda: api.http.get("/v1/models/add").status_code == 200)
    gives(api, "add", 2, x=1)
    until(lambda: api.http.get("/v1/models/models").status_code == 404)
    assert worker.poll() is None


def test_a_worker_without_models_serves_the_first_one(deployed: Deployment) -> None:
    worker = deployed.worker(RELOAD="1")
    api = deployed.web()

    deployed.write(ADD)

    until(lambda: api.http.get("/v1/models/add").status_code == 200)
    gives(api, "add", 2, x=1)
    assert worker.poll() is None


def test_a_file_that_ends_its_process_does_not_hold_up_the_others(deployed: Deployment) -> None:
    path = deployed.write(ADD)
    worker = deployed.worker(RELOAD="1")
    api = deployed.web()
    gives(api, "add", 2, x=1)

    deployed.write("import os\nos._exit(3)\n", "ends.py")
    until(lambda: "while ends.py was imported" in worker.log.read_text(), 30)
    path.write_text(path.read_text().replace("x + 1", "x + 2"))
    eventually(lambda: gives(api, "add", 3, x=1), 30)
    assert "exited with code 3" in state(api, "ends")["error"]

    deployed.write(ADD.replace("add", "ends"), "ends.py")
    eventually(lambda: gives(api, "ends", 2, x=1), 30)
    path.write_text("import os\nos._exit(4)\n")  # what was served goes on
    until(lambda: "while models.py was imported" in worker.log.read_text(), 30)
    gives(api, "add", 3, x=1)
    assert worker.poll() is None
