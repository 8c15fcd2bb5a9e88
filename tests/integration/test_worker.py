"""The worker: in which order it takes jobs, and its command line."""

from __future__ import annotations

import json
import os
import signal
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import redis
from rq import Worker
from rq.serializers import JSONSerializer

from tests.deployment import Api, Deployment, children, eventually, until
from tests.noting import FOLDER, NOTED, state


def output(worker: Any, within: float = 20) -> tuple[int, str]:
    """How a process that ends by itself ended, and what it wrote."""
    code = worker.wait(within)
    return code, worker.log.read_text()


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


def test_a_second_worker_of_a_living_ones_name_is_refused(deployed: Deployment, notes: Path) -> None:
    deployed.write(NOTED + FOLDER)
    deployed.worker("--name", "mine")

    code, said = output(deployed.run("worker", "--name", "mine", LOG_LEVEL="warning"))

    assert code == 1
    assert said == "error: a worker named mine lives already: choose another --name, or none\n"
    job = deployed.web().submit("first", wait=10, input={"name": "a"})
    assert (job["output"], job["attempts"][0]["worker"]) == ("a", "mine")


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
    until(lambda: pool.log.read_text().count("worker started") == 3)  # type: ignore[attr-defined]
    assert api.submit("first", wait=10)["status"] == "finished"

    pool.terminate()
    code, said = output(pool)
    assert code == 0, said


def test_workers_of_a_pool_share_the_gpus(deployed: Deployment, notes: Path) -> None:
    deployed.write(
        NOTED
        + """
    @model
    class Seen:
        def setup(self) -> None:
            note(os.environ["CUDA_VISIBLE_DEVICES"])

        def predict(self) -> None: ...
    """
    )
    pool = deployed.run("worker", "--count", "2", CUDA_VISIBLE_DEVICES="4,5,6")

    until(lambda: sorted(notes.read_text().split()) == ["4,6", "5"])
    assert pool.poll() is None


def test_a_pool_that_is_stopped_while_it_starts_ends(deployed: Deployment, notes: Path) -> None:
    deployed.write(NOTED + FOLDER)
    pool = deployed.run("worker", "--count", "4")
    until(lambda: len(children(pool.pid)) > 0)

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


# --- what a model tells faster than it can be written ---------------------------------------------


def test_a_model_that_streams_faster_than_redis_takes_it_loses_nothing(deployed: Deployment) -> None:
    deployed.write("""
    from collections.abc import Iterator
    from service import model

    @model
    def flood(count: int) -> Iterator[int]:
        yield from range(count)
    """)
    deployed.worker(MAX_EVENTS="100000")
    api = deployed.web()

    job = api.done(api.submit("flood", input={"count": 30_000})["id"], within=60)

    assert job["output"] == list(range(30_000))
    with redis.Redis.from_url(deployed.redis_url) as connection:
        entries: Any = connection.xrange(f"service:job:{job['id']}:events")
    outputs = [json.loads(fields[b"data"])["output"] for _, fields in entries if fields[b"type"] == b"output"]
    assert outputs == list(range(30_000))
    assert entries[-1][1][b"type"] == b"finished"


def test_the_worker_hash_shows_the_state_of_its_models(deployed: Deployment, notes: Path) -> None:
    deployed.write(NOTED + FOLDER)
    deployed.write("import nothing_like_this", "broken.py")
    deployed.worker("--name", "mine")

    with redis.Redis.from_url(deployed.redis_url) as connection:

        def shown() -> None:
            states = json.loads(str(connection.hget("rq:worker:mine", "models") or b"{}", "utf-8"))  # type: ignore[arg-type]
            assert states == {"first": "ready", "second": "ready", "third": "ready", "broken": "failed"}

        eventually(shown)
