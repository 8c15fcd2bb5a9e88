"""What somebody does to a job, a queue or a worker leaves one line in the log: who, from where, and what."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest
from redis import Redis
from rq.command import send_stop_job_command
from rq.serializers import JSONSerializer

from service.store.models import Models
from tests.deployment import Api, Deployment, eventually

MODELS = """
    import time
    from service import Fatal, model

    @model
    def fails(x: int) -> int:
        raise Fatal("no")

    @model
    def slow(seconds: float) -> int:
        time.sleep(seconds)
        return 1
"""


@pytest.fixture
def api(deployed: Deployment) -> Api:
    deployed.write(MODELS)
    deployed.worker()
    return deployed.web(LOG_LEVEL="warning", LOG_FORMAT="json")


def lines(api: Api) -> list[dict[str, Any]]:
    """What the web process's log says was done."""
    text: str = api.process.log.read_text()  # type: ignore[attr-defined]
    return [json.loads(line) for line in text.splitlines() if '"a request was carried out"' in line]


def failed(api: Api) -> str:
    job_id: str = api.submit("fails", input={"x": 1})["id"]
    assert api.done(job_id)["status"] == "failed"
    return job_id


def waiting(api: Api) -> str:
    job_id: str = api.submit("slow", input={"seconds": 60})["id"]
    api.started(job_id)
    return job_id


ACTIONS: list[tuple[Callable[[Api], str], str, str, dict[str, Any] | None, str, dict[str, Any]]] = [
    (waiting, "POST", "/v1/jobs/{}/cancel", None, "cancel", {"outcome": "requested"}),
    (failed, "POST", "/v1/jobs/{}/cancel", None, "cancel", {"outcome": "done"}),
    (failed, "POST", "/v1/jobs/{}/retry", None, "retry", {}),
    (failed, "DELETE", "/v1/jobs/{}", None, "erase", {}),
    (failed, "POST", "/dashboard/job/{}/delete", None, "erase", {}),
    (failed, "POST", "/dashboard/job/{}/requeue", None, "retry", {}),
    (lambda _: "fails", "POST", "/dashboard/requeue/{}", None, "requeue", {}),
    (lambda _: "fails", "POST", "/dashboard/queue/{}/failed/empty", None, "empty", {"registry_name": "failed"}),
    (lambda _: "fails", "POST", "/dashboard/queue/{}/compact", None, "compact", {}),
    (lambda _: "fails", "POST", "/v1/models/{}/requeue", {"confirm": "fails"}, "requeue", {"requeued": 0}),
    (lambda _: "fails", "POST", "/v1/models/{}/pause", {"confirm": "fails"}, "pause", {"paused": True}),
]


def test_each_request_that_changes_something_is_told_once(api: Api) -> None:
    asked = []
    for prepare, method, path, body, operation, more in ACTIONS:
        on = prepare(api)
        headers = {"X-Request-ID": f"mine-{len(asked)}"}
        done = api.http.request(method, path.format(on), json=body, headers=headers)
        assert done.status_code < 300, (path, done.text)
        route = f"{method} {path.format(on)}"
        asked.append({"operation": operation, "on": on, "route": route, "request_id": f"mine-{len(asked)}", **more})

    told = eventually(lambda: _as_many(lines(api), len(asked)))

    for line, wanted in zip(told, asked, strict=True):
        assert line == {**line, **wanted, "level": "warning", "remote_address": "127.0.0.1"}


def _as_many(told: list[dict[str, Any]], count: int) -> list[dict[str, Any]]:
    assert len(told) == count, told
    return told


def test_what_is_refused_or_only_read_is_not_told(api: Api) -> None:
    job_id = failed(api)

    assert api.http.get(f"/v1/jobs/{job_id}").status_code == 200
    assert api.http.get("/dashboard/").status_code == 200
    assert api.http.delete("/v1/jobs/nobody").status_code == 404
    assert api.http.post("/dashboard/job/nobody/delete").status_code == 404
    assert api.http.post("/v1/models/fails/purge", json={}).status_code == 422
    assert api.cancel("nobody").status_code == 404

    assert lines(api) == []


def test_what_is_done_on_a_command_line_is_in_a_workers_log(deployed: Deployment) -> None:
    deployed.write(MODELS)
    worker = _quiet_worker(deployed)
    for arguments in (("pause", "slow", "--yes"), ("purge", "slow", "--yes"), ("requeue", "fails", "--yes")):
        subprocess.run(
            [sys.executable, "-m", "service", *arguments],
            env=deployed.environment,
            check=True,
            timeout=60,
            capture_output=True,
        )

    def check() -> list[dict[str, Any]]:
        told = [json.loads(line) for line in worker.log.read_text().splitlines() if "carried out" in line]
        return _as_many(told, 3)

    told = eventually(check)
    assert [(each["operation"], each["on"]) for each in told] == [
        ("pause", "slow"),
        ("purge", "slow"),
        ("requeue", "fails"),
    ]
    assert told[0]["outcome"] == "paused slow-high, slow, slow-low"
    assert all(each["user"] and each["host"] for each in told)


def _quiet_worker(deployed: Deployment) -> Any:
    """A worker that logs at the default level, once it listens."""
    process = deployed.run("worker", LOG_LEVEL="warning", LOG_FORMAT="json")
    with Redis.from_url(deployed.redis_url) as connection:

        def listens() -> None:
            assert any(number for _, number in connection.pubsub_numsub(*connection.pubsub_channels()))
            assert Models(connection).names()

        eventually(listens)
    return process


def test_a_command_of_rqs_tools_is_in_the_workers_log(deployed: Deployment) -> None:
    deployed.write(MODELS)
    worker = _quiet_worker(deployed)
    api = deployed.web()
    told = waiting(api)
    with Redis.from_url(deployed.redis_url) as connection:
        send_stop_job_command(connection, told, serializer=JSONSerializer)

    assert api.done(told)["status"] == "stopped"
    assert f'"command": "stop-job", "job_id": "{told}"' in worker.log.read_text()
    ours = waiting(api)
    api.cancel(ours)
    assert api.done(ours)["status"] == "stopped"
    assert ours not in worker.log.read_text()
