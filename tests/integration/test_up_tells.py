"""What `up` says of workers: how many, which models are there, and why jobs wait."""

from __future__ import annotations

import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.deployment import Api, Deployment, children, deployment, eventually, free_port, until
from tests.noting import state

MODELS = """
    import time
    from service import model

    @model(timeout=300)
    def nap(seconds: float = 0) -> str:
        time.sleep(seconds)
        return "rested"

    @model
    def quick() -> str:
        return "quick"
"""
CALLS_ANOTHER = """
    import json, os, urllib.request
    from service import model

    @model(timeout=300)
    def outer(url: str) -> str:
        request = urllib.request.Request(
            url + "/v1/models/inner/jobs", b'{"input": {}}',
            {"Content-Type": "application/json", "Prefer": "wait=60"},
        )
        with urllib.request.urlopen(request) as answer:
            return json.load(answer)["output"]

    @model
    def inner() -> str:
        return "inner"
"""


@pytest.fixture
def laptop(tmp_path: Path) -> Iterator[Deployment]:
    with deployment(tmp_path, "") as each:
        each.write(MODELS)
        yield each


def output_of(process: subprocess.Popen[bytes]) -> str:
    return str(process.log.read_text())  # type: ignore[attr-defined]


def start(laptop: Deployment, *options: str, **environment: str) -> tuple[subprocess.Popen[bytes], Api]:
    port = free_port()
    process = laptop.run("up", *options, PORT=str(port), LOG_LEVEL="warning", **environment)
    until(lambda: process.poll() is not None or f"ready      http://127.0.0.1:{port}" in output_of(process), 60)
    assert process.poll() is None, output_of(process)
    return process, laptop.api(port)


def end(process: subprocess.Popen[bytes]) -> None:
    process.send_signal(signal.SIGINT)
    assert process.wait(timeout=60) == 0, output_of(process)


def says(process: subprocess.Popen[bytes], *parts: str, within: float = 30) -> None:
    until(lambda: any(all(part in line for part in parts) for line in output_of(process).splitlines()), within)


@pytest.mark.parametrize("by", ["option", "setting"])
def test_several_workers_keep_one_slow_model_from_stopping_the_others(laptop: Deployment, by: str) -> None:
    process, api = start(
        laptop, *(["--workers", "2"] if by == "option" else []), WORKERS="2" if by == "setting" else ""
    )
    until(lambda: len(api.http.get("/v1/workers").json()["workers"]) == 2, 30)
    slow = api.submit("nap", input={"seconds": 600})["id"]
    api.started(slow)

    assert api.submit("quick", wait=10)["output"] == "quick"

    process.send_signal(signal.SIGINT)
    says(process, "waiting for 1 running job", slow)
    process.send_signal(signal.SIGINT)
    assert process.wait(60) == 0


@pytest.mark.parametrize("number", ["0", "none", "257"])
def test_a_number_of_workers_that_is_none_is_refused(laptop: Deployment, number: str) -> None:
    process = laptop.run("up", "--workers", number)
    assert process.wait(20) == 2
    assert "from 1 to 256" in output_of(process)


def test_jobs_that_wait_behind_another_models_job_are_told(laptop: Deployment) -> None:
    process, api = start(laptop)
    early = api.submit("nap", input={"seconds": 1})["id"]
    waiting = api.submit("quick")["id"]
    api.done(early)
    api.done(waiting)
    slow = api.submit("nap", input={"seconds": 600})["id"]
    api.started(slow)
    api.submit("quick")

    says(process, "of quick waits, while every worker that serves it runs a job of nap", slow, "--workers 2")
    api.cancel(slow)
    end(process)


def test_jobs_that_wait_behind_another_models_setup_are_told(laptop: Deployment) -> None:
    laptop.write(
        """
        import os, time
        from service import model

        @model(keep_alive=0.1)
        class Heavy:
            def setup(self) -> None:
                time.sleep(300 if os.path.exists(os.environ["SLOW"]) else 0)

            def predict(self) -> str:
                return "heavy"
        """,
        "heavy.py",
    )
    # No room for a second work-horse: the setup is in the way.
    slow = laptop.folder / "slow"
    process, api = start(laptop, HORSE_MAX_MEMORY="1000", SLOW=str(slow))
    until(lambda: state(api, "heavy")["state"] == "unloaded", 60)
    slow.touch()
    api.submit("heavy")
    until(lambda: [each["setting_up"] for each in api.http.get("/v1/workers").json()["workers"]] == ["heavy"], 30)
    api.submit("quick")

    says(process, "jobs of quick wait behind the setup of heavy", "--workers 2")
    process.kill()


def test_a_sync_model_that_waits_for_a_job_that_it_has_submitted_is_told(laptop: Deployment) -> None:
    laptop.write(CALLS_ANOTHER, "calls.py")
    process, api = start(laptop)
    outer = api.submit("outer", input={"url": f"http://127.0.0.1:{api.port}"})["id"]

    says(process, "of inner waits", "runs a job of outer", outer, "Jobs that submit jobs")

    api.cancel(outer)
    end(process)


def test_jobs_that_wait_for_their_version_are_told(laptop: Deployment) -> None:
    path = laptop.write(MODELS)
    process, api = start(laptop, "--reload", "--workers", "1")
    blocked = api.submit("nap", input={"seconds": 1000})["id"]
    api.started(blocked)
    path.write_text(
        path.read_text().replace("seconds: float = 0", "minutes: float = 0").replace("(seconds)", "(minutes)")
    )

    says(process, "jobs of nap wait for a worker with version", blocked)
    assert eventually(lambda: api.job(blocked))["waits_for"]["version"]
    end(process)


def test_a_model_without_a_file_is_not_listed_and_a_submit_says_that_nobody_is_ready(laptop: Deployment) -> None:
    laptop.write(MODELS.replace("nap", "gone_nap").replace("quick", "gone"), "gone.py")
    process, api = start(laptop)
    assert "gone" in output_of(process)
    assert "ready" not in api.submit("gone", wait=None)
    end(process)
    (laptop.jobs_dir / "gone.py").unlink()

    process, api = start(laptop)

    (listed,) = [line for line in output_of(process).splitlines() if line.startswith("models")]
    assert listed.split()[1:] == ["nap,", "quick"]
    assert state(api, "gone")["state"] == "offline"
    job = api.submit("gone")
    assert (job["status"], job["ready"]) == ("queued", False)
    says(process, "jobs of gone wait: no worker serves it now")
    end(process)


def test_what_is_offline_goes_after_model_ttl_and_one_that_is_served_cannot_be_forgotten(laptop: Deployment) -> None:
    gone = laptop.write(MODELS.replace("nap", "gone_nap").replace("quick", "gone"), "gone.py")
    process, api = start(laptop, "--reload", MODEL_TTL="2")
    redis_url = f"unix://{laptop.folder / 'data/redis.sock'}"
    forget = laptop.run("models", "--forget", "quick", REDIS_URL=redis_url)
    assert forget.wait(30) == 1
    assert "a worker serves quick" in output_of(forget)
    assert state(api, "quick")["ready"]

    gone.unlink()

    until(lambda: api.http.get("/v1/models/gone").status_code == 404, 30)
    assert api.post("gone").status_code == 404
    assert {each["name"] for each in api.http.get("/v1/models").json()["models"]} == {"nap", "quick"}
    end(process)


def test_every_worker_of_a_reloading_pool_takes_a_change_up(laptop: Deployment) -> None:
    path = laptop.write(MODELS)
    process, api = start(laptop, "--reload", "--workers", "2")
    until(lambda: len(api.http.get("/v1/workers").json()["workers"]) == 2, 30)
    (web, pool) = children(process.pid)[-2:]
    path.write_text(path.read_text().replace('"quick"', '"quicker"'))

    until(lambda: output_of(process).count("reloaded") == 2, 30)
    assert {api.submit("quick", wait=10)["output"] for _ in range(6)} == {"quicker"}
    assert {web, pool} <= set(children(process.pid))
    end(process)
