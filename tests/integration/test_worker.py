"""The worker: how it loads models, in which order it takes jobs, and its command line."""

from __future__ import annotations

import os
import signal
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import redis
from rq import Worker
from rq.serializers import JSONSerializer

from tests.deployment import Api, Deployment, children, eventually

NOTED = """
    import os, time
    from pathlib import Path
    from service import model

    def note(text):
        with open(os.environ["NOTES"], "a") as file:
            file.write(f"{text}\\n")
"""
FOLDER = """
    @model
    def first(name: str = "", seconds: float = 0) -> str:
        time.sleep(seconds)
        note(name)
        return name

    @model
    def second(name: str = "") -> str:
        note(name)
        return name

    @model
    def third(name: str = "") -> str:
        note(name)
        return name
"""


@pytest.fixture
def notes(deployed: Deployment) -> Path:
    """The file that models write to."""
    path = deployed.folder / "notes"
    path.touch()
    deployed.environment["NOTES"] = str(path)
    return path


def state(api: Api, name: str) -> Any:
    response = api.http.get(f"/v1/models/{name}")
    assert response.status_code == 200
    return response.json()


def becomes(api: Api, name: str, wanted: str, within: float = 10) -> Any:
    """The model once it is in a state."""

    def check() -> Any:
        model = state(api, name)
        assert model["state"] == wanted, model
        return model

    return eventually(check, within)


def output(worker: Any, within: float = 20) -> tuple[int, str]:
    """How a process that ends by itself ended, and what it wrote."""
    code = worker.wait(within)
    return code, worker.log.read_text()


# --- setup --------------------------------------------------------------------------------------


def test_a_failing_setup_fails_its_jobs_is_told_and_is_tried_again(deployed: Deployment, notes: Path) -> None:
    deployed.write(NOTED + FOLDER + """
    @model
    class Needy:
        def setup(self) -> None:
            if not os.path.exists(os.environ["NOTES"] + ".weights"):
                raise FileNotFoundError("the weights are not there")

        def predict(self) -> str:
            return "loaded"
    """)
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
    deployed.write(NOTED + """
    @model
    class Never:
        def setup(self) -> None:
            note(time.time())
            raise RuntimeError("no")

        def predict(self) -> None: ...
    """)
    deployed.worker()

    def tried() -> list[float]:
        times = [float(line) for line in notes.read_text().split()]
        assert len(times) >= 4
        return times

    times = eventually(tried, within=12)
    pauses = [later - earlier for earlier, later in zip(times, times[1:], strict=False)]
    assert pauses[0] > 0.9
    assert pauses[1] > 1.9
    assert pauses[2] > 3.9


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
    deployed.write(NOTED + FOLDER + """
    @model
    class Slow:
        def setup(self) -> None:
            time.sleep(1000)

        def predict(self) -> None: ...
    """)
    deployed.worker(SETUP_TIMEOUT="1")
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
    deployed.write(NOTED + """
    @model
    class Slow:
        def setup(self) -> None:
            if Path(os.environ["NOTES"] + ".slow").exists():
                note("slow")
                time.sleep(1000)
            raise RuntimeError("not yet")

        def predict(self) -> None: ...
    """)
    worker = deployed.worker()
    api = deployed.web()
    becomes(api, "slow", "failed")
    Path(f"{notes}.slow").touch()
    job = api.submit("slow")
    eventually(lambda: _assert("slow" in notes.read_text()))
    api.started(job["id"])

    api.cancel(job["id"])

    assert api.done(job["id"], within=8)["status"] == "stopped"
    assert worker.poll() is None


def _assert(true: bool) -> None:
    assert true


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


def test_a_horse_that_does_not_read_cannot_hold_up_the_worker(deployed: Deployment, notes: Path) -> None:
    deployed.write(NOTED + FOLDER)
    worker = deployed.worker()
    api = deployed.web()
    assert api.submit("first", wait=10)["status"] == "finished"
    (horse,) = children(worker.pid)

    os.kill(horse, signal.SIGSTOP)
    job = api.submit("first", input={"name": "x" * 900_000}, timeout=1)

    assert api.done(job["id"], within=8)["error"]["type"] in ("timeout", "crashed")
    assert api.submit("first", wait=10)["status"] == "finished"


def test_a_line_written_between_jobs_neither_wakes_nor_ends_the_worker(deployed: Deployment, notes: Path) -> None:
    deployed.write(NOTED + """
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
    """)
    worker = deployed.worker()
    api = deployed.web()
    becomes(api, "late", "failed")
    api.done(api.submit("chatty")["id"])
    eventually(lambda: _assert("said" in notes.read_text()))

    before = _cpu_seconds(worker.pid)
    time.sleep(1)
    assert _cpu_seconds(worker.pid) - before < 0.5
    Path(f"{notes}.late").touch()
    assert api.submit("late", wait=10)["output"] == "late"
    assert worker.poll() is None


def _cpu_seconds(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


# --- order --------------------------------------------------------------------------------------


def held(deployed: Deployment) -> tuple[Any, Api]:
    """A service whose worker does not take jobs yet."""
    deployed.write(NOTED + FOLDER)
    worker = deployed.worker()
    api = deployed.web()
    with redis.Redis.from_url(deployed.redis_url) as connection:
        connection.set("rq:suspended", 1)
    return worker, api


def let_go(deployed: Deployment) -> None:
    with redis.Redis.from_url(deployed.redis_url) as connection:
        connection.delete("rq:suspended")


def test_high_comes_before_default_before_low_and_first_in_is_first_out(deployed: Deployment, notes: Path) -> None:
    _, api = held(deployed)
    for priority in ("low", "default", "high"):
        for number in range(3):
            last = api.submit("first", priority=priority, input={"name": f"{priority}{number}"})
            if priority == "low":
                lowest = last

    let_go(deployed)
    api.done(lowest["id"])

    wanted = [f"{priority}{number}" for priority in ("high", "default", "low") for number in range(3)]
    assert notes.read_text().split() == wanted


def test_a_backlog_of_one_model_does_not_starve_another(deployed: Deployment, notes: Path) -> None:
    _, api = held(deployed)
    backlog = [api.submit("first", input={"name": "first"}) for _ in range(30)]
    for _ in range(3):
        api.submit("second", input={"name": "second"})
        api.submit("third", input={"name": "third"})

    let_go(deployed)
    api.done(backlog[-1]["id"])

    ran = notes.read_text().split()
    assert len(ran) == 36
    assert ran.index("second") < 4
    assert max(index for index, name in enumerate(ran) if name != "first") < 12


def test_three_hundred_jobs_on_two_workers_are_each_run_once(deployed: Deployment, notes: Path) -> None:
    deployed.write(NOTED + FOLDER)
    workers = [deployed.worker(), deployed.worker()]
    api = deployed.web()
    models, priorities = ("first", "second", "third"), ("high", "default", "low")

    jobs = {}
    for number in range(300):
        name = f"job{number}"
        job = api.submit(models[number % 3], priority=priorities[number % 7 % 3], input={"name": name})
        jobs[job["id"]] = name
    outputs = {job_id: api.done(job_id)["output"] for job_id in jobs}

    assert outputs == jobs
    assert Counter(notes.read_text().split()) == Counter(jobs.values())
    assert all(worker.poll() is None for worker in workers)


# --- command line -------------------------------------------------------------------------------


def test_models_limits_what_a_worker_serves(deployed: Deployment, notes: Path) -> None:
    deployed.write(NOTED + FOLDER)
    api = deployed.web()
    deployed.worker("--models", "first,third")
    with redis.Redis.from_url(deployed.redis_url) as connection:
        (worker,) = Worker.all(connection=connection, serializer=JSONSerializer)
        assert {name.partition("-")[0] for name in worker.queue_names()} == {"first", "third"}

    assert api.submit("first", wait=10)["status"] == "finished"
    assert api.http.get("/v1/models/second").status_code == 404


def test_queues_limits_what_a_worker_takes(deployed: Deployment, notes: Path) -> None:
    deployed.write(NOTED + FOLDER)
    api = deployed.web()
    deployed.worker("--queues", "first-high,second")

    low = api.submit("first", priority="default")
    high = api.submit("first", priority="high")
    assert api.done(high["id"])["status"] == "finished"
    assert api.submit("second", wait=10)["status"] == "finished"
    assert api.job(low["id"])["status"] == "queued"


def test_a_burst_runs_what_is_queued_and_ends(deployed: Deployment, notes: Path) -> None:
    worker, api = held(deployed)
    jobs = [api.submit("first", input={"name": str(number)}) for number in range(3)]
    worker.terminate()
    worker.wait(10)
    let_go(deployed)

    code, said = output(deployed.run("worker", "--burst"))

    assert code == 0, said
    assert [api.job(job["id"])["status"] for job in jobs] == ["finished"] * 3
    assert len(notes.read_text().split()) == 3


def test_a_worker_may_be_named_and_a_second_of_that_name_takes_part(deployed: Deployment, notes: Path) -> None:
    deployed.write(NOTED + FOLDER)
    first = deployed.worker("--name", "mine")
    second = deployed.worker("--name", "mine")
    api = deployed.web()

    jobs = [api.submit("first", input={"name": str(number), "seconds": 0.05}) for number in range(20)]
    done = [api.done(job["id"]) for job in jobs]

    assert {job["attempts"][0]["worker"] for job in done} == {"mine"}
    assert sorted(map(int, notes.read_text().split())) == list(range(20))
    assert (first.poll(), second.poll()) == (None, None)


def test_a_killed_worker_does_not_keep_its_name(deployed: Deployment, notes: Path) -> None:
    deployed.write(NOTED + FOLDER)
    first = deployed.worker("--name", "mine")
    first.kill()
    first.wait()

    deployed.worker("--name", "mine")

    assert deployed.web().submit("first", wait=10)["attempts"][0]["worker"] == "mine"


def test_one_of_two_workers_that_is_killed_is_replaced(deployed: Deployment, notes: Path) -> None:
    deployed.write(NOTED + FOLDER)
    pool = deployed.run("worker", "--count", "2")
    api = deployed.web()

    def two() -> list[int]:
        assert state(api, "first")["workers"] == 2
        return children(pool.pid)

    before = eventually(two)
    os.kill(before[0], signal.SIGKILL)

    def replaced() -> None:
        now = children(pool.pid)
        assert len(now) == 2
        assert before[0] not in now

    eventually(replaced)
    assert api.submit("first", wait=10)["status"] == "finished"

    pool.terminate()
    code, said = output(pool)
    assert code == 0, said


def test_a_pool_that_is_stopped_while_it_starts_ends(deployed: Deployment, notes: Path) -> None:
    deployed.write(NOTED + FOLDER)
    pool = deployed.run("worker", "--count", "4")
    eventually(lambda: _assert(len(children(pool.pid)) > 0))

    pool.terminate()

    pool.wait(10)


@pytest.mark.parametrize("options", [(), ("--models", "nobody"), ("--queues", "nobody"), ("--burst",)])
def test_a_worker_without_a_model_to_serve_says_so_in_one_line(deployed: Deployment, options: tuple[str, ...]) -> None:
    if options and options[0] != "--burst":
        deployed.write(NOTED + FOLDER)

    code, said = output(deployed.run("worker", *options, LOG_LEVEL="warning"))

    assert code == 1
    assert said.count("\n") == 1, said
    assert said.startswith("error: ")


def test_model_files_that_end_the_process_are_told_in_one_line(deployed: Deployment) -> None:
    deployed.write("import os; os._exit(3)")

    code, said = output(deployed.run("worker", LOG_LEVEL="warning"))

    assert code == 1
    assert said.count("\n") == 1, said
    assert "exited with code 3" in said
