"""Two services on one Redis, with equal ids, names and keys, in two namespaces or databases: neither sees the other."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import pytest
import redis

from tests.deployment import ROOT, Api, Deployment, deployment, eventually, free_port, until

MODELS = """
    import os, time
    from service import model, progress

    @model(timeout=60)
    def waits(file: str, word: str) -> str:
        while not os.path.exists(file):
            time.sleep(0.02)
        return word
"""

APART = {
    "namespaces": ({"NAMESPACE": "one"}, {"NAMESPACE": "two"}),
    "a namespace and none": ({}, {"NAMESPACE": "two"}),
    "a hash tag": ({"NAMESPACE": "{one}"}, {"NAMESPACE": "{two}"}),
    "RQ's prefixes": ({"RQ_KEY_PREFIX": "one"}, {"RQ_KEY_PREFIX": "two"}),
    "databases": ({"database": "0"}, {"database": "3"}),
}


@dataclass
class Service:
    """One of them."""

    deployed: Deployment
    api: Api
    worker: subprocess.Popen[bytes]
    word: str
    gate: Path

    def submit(self, job_id: str) -> None:
        body = {"model": "waits", "input": {"file": str(self.gate), "word": self.word}}
        assert self.api.http.put(f"/v1/jobs/{job_id}", json=body).status_code == 202


@pytest.fixture(params=APART.values(), ids=APART)
def services(request: pytest.FixtureRequest, tmp_path: Path, redis_url: str) -> Iterator[list[Service]]:
    """Two services side by side, whose workers have one name."""
    with ExitStack() as stack:
        found = []
        for number, environment in enumerate(request.param):
            folder = tmp_path / str(number)
            folder.mkdir()
            settings = dict(environment)
            url = f"{redis_url}?db={settings.pop('database', 0)}"
            deployed = stack.enter_context(deployment(folder, url, **settings))
            deployed.write(MODELS)
            worker = deployed.worker("--name", "same")
            found.append(Service(deployed, deployed.web(), worker, f"of {number}", folder / "gate"))
        yield found
        # FLUSHALL of the next test is everybody's, and database 3 must be empty for it.


def test_equal_ids_are_two_jobs_and_each_watcher_sees_its_own(services: list[Service]) -> None:
    for each in services:
        each.submit("same")
    for each in services:
        each.api.started("same")
    watchers = [each.api.socket("/v1/jobs/same/events?after=0") for each in services]

    for each in services:
        each.gate.touch()

    for each, watcher in zip(services, watchers, strict=True):
        assert each.api.done("same")["output"] == each.word
        said = ""
        while "finished" not in said:
            said = watcher.recv()
        assert f'"{each.word}"' in said
        watcher.close()
        assert [event["type"] for event in each.api.log("same")] == ["queued", "started", "finished"]


def test_an_idempotency_key_of_one_gives_no_job_of_the_other(services: list[Service]) -> None:
    jobs = []
    for each in services:
        each.gate.touch()
        value = {"file": str(each.gate), "word": each.word}
        jobs.append(each.api.submit("waits", wait=10, headers={"Idempotency-Key": "same"}, input=value))

    assert jobs[0]["id"] != jobs[1]["id"]
    assert [job["output"] for job in jobs] == ["of 0", "of 1"]


def test_a_cancel_stops_one_and_a_drain_ends_one(services: list[Service]) -> None:
    one, other = services
    for each in services:
        each.submit("same")
        each.api.started("same")

    assert one.api.cancel("same").status_code == 202
    assert one.api.done("same")["status"] == "stopped"
    assert one.api.http.post("/v1/workers/same/drain", json={"confirm": "same"}).status_code == 202
    one.worker.wait(15)

    assert other.worker.poll() is None
    assert other.api.job("same")["status"] == "started"
    other.gate.touch()
    assert other.api.done("same")["output"] == other.word
    assert other.api.http.get("/v1/workers").json()["workers"][0]["state"] == "idle"


def test_a_dead_worker_of_one_is_found_by_its_own(services: list[Service]) -> None:
    one, other = services
    other.submit("mine")
    other.api.started("mine")
    one.submit("lost")
    one.api.started("lost")

    one.deployed.worker()
    one.worker.kill()

    assert one.api.done("lost")["error"]["type"] == "lost"
    assert other.api.job("mine")["status"] == "started"
    other.gate.touch()
    assert other.api.done("mine")["output"] == other.word


def test_no_key_and_no_channel_is_outside_of_the_namespace(tmp_path: Path, redis_url: str) -> None:
    with deployment(tmp_path, redis_url, NAMESPACE="{mine}") as deployed, redis.Redis.from_url(redis_url) as connection:
        deployed.write(MODELS)
        deployed.worker()
        api = deployed.web()
        gate = tmp_path / "gate"
        job = api.submit(
            "waits", headers={"Idempotency-Key": "k"}, input={"file": str(gate), "word": ""}, start_timeout=60
        )
        watcher = api.socket(f"/v1/jobs/{job['id']}/events")
        feed = api.socket("/v1/events")
        feed.send('{"subscribe": [{"all": true}]}')
        until(lambda: len(connection.pubsub_channels()) >= 4)
        gate.touch()
        api.done(job["id"])

        names = [*connection.keys(), *connection.pubsub_channels()]
        assert len(names) > 15
        assert [name for name in names if not name.startswith(b"{mine}:")] == []
        watcher.close()
        feed.close()


@pytest.mark.parametrize(
    "environment",
    [{"NAMESPACE": "a:b"}, {"NAMESPACE": "{a"}, {"NAMESPACE": "ü"}, {"NAMESPACE": "a", "RQ_KEY_PREFIX": "b"}],
    ids=str,
)
def test_a_namespace_that_cannot_be_is_refused_in_one_line(
    tmp_path: Path, redis_url: str, environment: dict[str, str]
) -> None:
    with deployment(tmp_path, redis_url, **environment) as deployed:
        process = deployed.run("web", PORT=str(free_port()))

        assert process.wait(20) == 1
        text = process.log.read_text()  # type: ignore[attr-defined]
        assert text.startswith("error: NAMESPACE is")
        assert text.count("\n") == 1


def test_rqs_own_tools_work_in_a_namespace(tmp_path: Path, redis_url: str) -> None:
    with deployment(tmp_path, redis_url, NAMESPACE="mine") as deployed:
        deployed.write(MODELS)
        deployed.worker()
        gate = tmp_path / "gate"
        gate.touch()
        deployed.web().submit("waits", wait=10, input={"file": str(gate), "word": ""})

        def info() -> str:
            rq = [str(ROOT / ".venv" / "bin" / "rq"), "info", "--url", redis_url]
            return subprocess.run(
                rq, env={**deployed.environment, "RQ_KEY_PREFIX": "mine:rq"}, capture_output=True, text=True
            ).stdout

        eventually(lambda: info().index("waits"))
        assert "1 workers" in info()
