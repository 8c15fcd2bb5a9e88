"""How a worker ends: what runs is finished or handed on, what waits is left, and nothing of the worker stays."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import redis
from rq import Worker
from rq.command import send_shutdown_command
from rq.serializers import JSONSerializer

from service.embedded import EmbeddedRedis
from tests.deployment import Api, Deployment, children, deployment, eventually, until

MODELS = """
    import time
    from service import model, progress

    @model(timeout=60)
    def sleeps(seconds: float) -> str:
        for _ in progress(range(round(seconds * 20))):
            time.sleep(0.05)
        return "slept"

    @model(timeout=60)
    def stubborn(file: str) -> str:
        try:
            open(file, "x").close()
        except FileExistsError:
            return "second run"
        while True:
            try:
                time.sleep(1000)
            except BaseException:
                pass

    @model
    class Slow:
        def setup(self) -> None:
            print("setting up", flush=True)
            time.sleep(20)

        def predict(self) -> None: ...
"""
WITHOUT_SLOW = MODELS[: MODELS.index("    @model\n    class Slow")]


@pytest.fixture
def api(deployed: Deployment) -> Api:
    """A caller; the models are written."""
    deployed.write(WITHOUT_SLOW)
    return deployed.web()


def ended(worker: Any, within: float) -> int:
    """The exit code of a worker that was asked to end."""
    code = worker.wait(within)
    assert "Traceback" not in worker.log.read_text()
    return int(code)


def kinds(api: Api, job: Any) -> list[str]:
    return [event["type"] for event in api.log(job["id"]) if event["type"] != "progress"]


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGINT])
def test_a_worker_asked_to_stop_finishes_its_job_and_takes_no_other(
    deployed: Deployment, api: Api, signum: signal.Signals
) -> None:
    worker = deployed.worker()
    running = api.submit("sleeps", input={"seconds": 1})
    waiting = api.submit("sleeps", input={"seconds": 0})
    api.started(running["id"])

    worker.send_signal(signum)

    assert ended(worker, within=20) == 0
    assert api.job(running["id"])["output"] == "slept"
    assert api.job(waiting["id"])["status"] == "queued"


def test_a_worker_says_what_it_waits_for_and_that_a_second_signal_ends_it(deployed: Deployment, api: Api) -> None:
    worker = deployed.worker(LOG_LEVEL="info")
    job = api.submit("sleeps", input={"seconds": 60})
    api.started(job["id"])

    worker.send_signal(signal.SIGINT)

    until(lambda: "a second signal" in worker.log.read_text())  # type: ignore[attr-defined]
    (line,) = [line for line in worker.log.read_text().splitlines() if "a second signal" in line]  # type: ignore[attr-defined]
    assert f"jobs={job['id']}" in line
    assert "seconds=30" in line
    time.sleep(0.6)  # closer together they count as one that was sent twice
    worker.send_signal(signal.SIGINT)
    assert ended(worker, within=20) == 0
    assert api.job(job["id"])["status"] == "queued"


def test_a_worker_whose_terminal_is_closed_gives_its_job_back_at_once(deployed: Deployment, api: Api) -> None:
    worker = deployed.worker()
    job = api.submit("sleeps", input={"seconds": 60})
    api.started(job["id"])

    worker.send_signal(signal.SIGHUP)

    assert ended(worker, within=20) == 0
    assert (api.job(job["id"])["status"], api.job(job["id"])["attempts"]) == ("queued", [])


def test_a_signal_to_all_processes_does_not_take_the_job_from_its_work_horse(deployed: Deployment, api: Api) -> None:
    worker = deployed.worker()
    job = api.submit("sleeps", input={"seconds": 1})
    api.started(job["id"])

    for pid in [worker.pid, *children(worker.pid)]:
        os.kill(pid, signal.SIGTERM)

    assert ended(worker, within=20) == 0
    assert api.job(job["id"])["output"] == "slept"


def test_a_process_that_a_model_forks_ends_by_sigterm_as_always(deployed: Deployment) -> None:
    deployed.write("""
        import multiprocessing, time
        from service import model

        @model
        def forks() -> int | None:
            child = multiprocessing.get_context("fork").Process(target=time.sleep, args=(60,))
            child.start()
            child.terminate()
            child.join(10)
            return child.exitcode
    """)
    deployed.worker()

    assert deployed.web().submit("forks", wait=20)["output"] == -signal.SIGTERM


def test_rqs_shutdown_command_ends_a_worker(deployed: Deployment, api: Api) -> None:
    worker = deployed.worker("--name", "mine")

    with redis.Redis.from_url(deployed.redis_url) as connection:
        send_shutdown_command(connection, "mine")

    assert ended(worker, within=20) == 0


def test_an_idle_worker_ends_at_once(deployed: Deployment, api: Api) -> None:
    worker = deployed.worker()
    asked = time.monotonic()

    worker.terminate()

    assert ended(worker, within=20) == 0
    assert time.monotonic() - asked < 10


def test_nothing_of_a_worker_is_left_in_the_books(deployed: Deployment, api: Api, connection: redis.Redis) -> None:
    worker = deployed.worker("--name", "mine")
    assert api.submit("sleeps", wait=10, input={"seconds": 0})["status"] == "finished"
    assert api.http.get("/v1/models/sleeps").json()["state"] == "ready"
    (horse,) = children(worker.pid)

    worker.terminate()

    assert ended(worker, within=20) == 0
    assert Worker.all(connection=connection, serializer=JSONSerializer) == []
    rq = str(Path(sys.executable).parent / "rq")
    command = [rq, "info", "--url", deployed.redis_url, "--only-workers"]
    listed = subprocess.run(command, capture_output=True, text=True, timeout=30)
    assert "0 workers" in listed.stdout
    model = api.http.get("/v1/models/sleeps").json()
    assert (model["state"], model["ready"], model["workers"]) == ("offline", False, 0)
    assert [key for key in connection.scan_iter("*mine*") if connection.ttl(key) < 0] == []
    assert not Path(f"/proc/{horse}").exists()


def test_a_job_that_outlasts_the_grace_period_goes_to_another_worker_and_its_try_does_not_count(
    deployed: Deployment, api: Api, connection: redis.Redis, tmp_path: Path
) -> None:
    worker = deployed.worker(GRACE_PERIOD="1", STOP_GRACE="0.5")
    running = api.submit("stubborn", input={"file": str(tmp_path / "ran")})
    behind = api.submit("stubborn", input={"file": str(tmp_path / "ran")})
    api.started(running["id"])

    worker.terminate()

    assert ended(worker, within=20) == 0
    job = api.job(running["id"])
    assert (job["status"], job["attempts"]) == ("queued", [])
    queue = [job_id.decode() for job_id in connection.lrange("rq:queue:stubborn", 0, -1)]
    assert queue == [running["id"], behind["id"]]

    deployed.worker()
    done = api.done(running["id"])
    assert (done["status"], done["output"]) == ("finished", "second run")
    assert [attempt["number"] for attempt in done["attempts"]] == [1]
    assert kinds(api, running) == ["queued", "started", "queued", "started", "finished"]


def test_a_second_signal_ends_a_worker_at_once(deployed: Deployment, api: Api, tmp_path: Path) -> None:
    worker = deployed.worker()
    running = api.submit("stubborn", input={"file": str(tmp_path / "ran")})
    api.started(running["id"])
    asked = time.monotonic()
    worker.terminate()

    def refuses_no_more() -> None:
        worker.terminate()
        assert worker.poll() is not None

    eventually(refuses_no_more, within=20)
    assert time.monotonic() - asked < 20
    assert api.job(running["id"])["status"] == "queued"


def test_a_stop_that_comes_while_the_worker_ends_is_not_lost(deployed: Deployment, api: Api, tmp_path: Path) -> None:
    worker = deployed.worker(GRACE_PERIOD="0", STOP_GRACE="8")
    running = api.submit("stubborn", input={"file": str(tmp_path / "ran")})
    api.started(running["id"])
    worker.terminate()
    assert api.cancel(running["id"]).status_code == 202

    assert ended(worker, within=20) == 0

    deployed.worker()
    done = api.done(running["id"])
    assert done["status"] in ("stopped", "canceled"), done


def test_a_worker_ends_while_a_model_is_still_loading(deployed: Deployment) -> None:
    deployed.write(MODELS)
    worker = deployed.worker()

    def loading() -> None:
        assert "setting up" in worker.log.read_text()  # type: ignore[attr-defined]

    eventually(loading)
    worker.terminate()

    assert ended(worker, within=15) == 0


def test_a_job_whose_model_is_still_loading_is_handed_back(deployed: Deployment, connection: redis.Redis) -> None:
    deployed.write(MODELS)
    worker = deployed.worker("--models", "slow")
    api = deployed.web()
    job = api.submit("slow")
    worker.terminate()

    assert ended(worker, within=15) == 0
    assert (api.job(job["id"])["status"], api.job(job["id"])["attempts"]) == ("queued", [])


def test_a_worker_ends_though_redis_is_away(tmp_path: Path) -> None:
    with EmbeddedRedis(tmp_path / "redis") as server, deployment(tmp_path, server.url) as each:
        each.write(WITHOUT_SLOW)
        worker = each.worker(GRACE_PERIOD="1")
        server.stop()

        def noticed() -> None:
            assert "Redis is away" in worker.log.read_text()  # type: ignore[attr-defined]

        eventually(noticed)
        worker.terminate()

        worker.wait(20)
        assert "Traceback" not in worker.log.read_text()  # type: ignore[attr-defined]


def test_a_pool_passes_the_stop_on_and_waits(deployed: Deployment, api: Api) -> None:
    pool = deployed.run("worker", "--count", "2")
    running = api
    until(lambda: pool.log.read_text().count("worker started") == 2)  # type: ignore[attr-defined]
    job = running.submit("sleeps", input={"seconds": 1})
    running.started(job["id"])
    workers = children(pool.pid)

    pool.terminate()

    assert ended(pool, within=20) == 0
    assert running.job(job["id"])["status"] == "finished"
    assert not any(Path(f"/proc/{pid}").exists() for pid in workers)


def test_a_pool_whose_terminal_is_closed_gives_its_jobs_back_at_once(deployed: Deployment, api: Api) -> None:
    pool = deployed.run("worker", "--count", "2")
    until(lambda: pool.log.read_text().count("worker started") == 2)  # type: ignore[attr-defined]
    job = api.submit("sleeps", input={"seconds": 60})
    api.started(job["id"])

    pool.send_signal(signal.SIGHUP)

    assert ended(pool, within=20) == 0
    assert (api.job(job["id"])["status"], api.job(job["id"])["attempts"]) == ("queued", [])


def test_workers_of_a_killed_pool_end_too(deployed: Deployment, api: Api) -> None:
    pool = deployed.run("worker", "--count", "2")
    until(lambda: pool.log.read_text().count("worker started") == 2)  # type: ignore[attr-defined]
    workers = children(pool.pid)

    os.kill(pool.pid, signal.SIGKILL)
    pool.wait()

    until(lambda: not any(map(_runs, workers)), within=20)


def _runs(pid: int) -> bool:
    """Whether a process is there and has not ended (nobody may have waited for it)."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False
