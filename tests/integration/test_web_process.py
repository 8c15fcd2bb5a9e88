"""The web process: when it is ready, what it says while Redis is away, and how it ends."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
import redis
import websocket

from service.embedded import EmbeddedRedis, binary
from tests.deployment import NO_TLS, Api, Deployment, deployment, eventually, free_port
from tests.suspension import suspended

MODELS = """
    import time
    from collections.abc import Iterator
    from pathlib import Path
    from service import model

    @model
    def echo(value: int = 0) -> int:
        return value

    @model
    def gated(gate: str) -> Iterator[str]:
        yield "before"
        while not Path(gate).exists():
            time.sleep(0.01)
        yield "after"
"""


class Outage:
    """A service whose Redis can be taken away."""

    def __init__(self, server: EmbeddedRedis, api: Api) -> None:
        self.api = api
        self._server = server

    @contextmanager
    def redis_away(self) -> Iterator[None]:
        """Within it Redis does not run; after it the service has it back, with all that it was told."""
        self._server.stop()
        try:
            yield
        finally:
            self._server.start()
            eventually(self._ready)

    def _ready(self) -> None:
        assert self.api.http.get("/readyz").status_code == 200


@pytest.fixture(scope="module")
def outage(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Outage]:
    folder = tmp_path_factory.mktemp("outage")
    executable = shutil.which(os.environ.get("TEST_REDIS_SERVER", "")) or binary()
    with EmbeddedRedis(folder / "redis", executable) as server, deployment(folder, server.url) as each:
        each.write(MODELS)
        each.worker()
        api = each.web()
        api.redis_url = server.url  # type: ignore[attr-defined]
        yield Outage(server, api)


@pytest.fixture
def gate(tmp_path: Path) -> Iterator[Path]:
    """Lets a job of the model `gated` end, at the end of the test at the latest."""
    path = tmp_path / "gate"
    yield path
    path.touch()


def ended(process: subprocess.Popen[bytes], signum: signal.Signals = signal.SIGTERM) -> int:
    """The exit status of a process that is asked to end."""
    process.send_signal(signum)
    return process.wait(timeout=15)


def output(process: subprocess.Popen[bytes]) -> str:
    """What a process that ends by itself has written."""
    process.wait(timeout=20)
    text: str = process.log.read_text()  # type: ignore[attr-defined]
    return text


def close_of(watcher: websocket.WebSocket) -> int:
    """The code with which a WebSocket is closed."""
    while True:
        opcode, data = watcher.recv_data()
        if opcode == websocket.ABNF.OPCODE_CLOSE:
            return int.from_bytes(data[:2], "big")


def accepted(api: Api, value: Any) -> Any:
    """The job with this input, once there is one."""

    def check() -> Any:
        found = [job for job in api.http.get("/v1/jobs?include=input").json()["jobs"] if job["input"] == value]
        assert found
        return found[0]

    return eventually(check)


def waiting(api: Api, jobs: list[Any]) -> None:
    """Return when somebody waits for each of these jobs: Redis knows who listens to a job's channel."""

    def check() -> None:
        with redis.Redis.from_url(api.redis_url) as connection:  # type: ignore[attr-defined]
            listened_to = b" ".join(connection.pubsub_channels("service:job:*"))
        assert all(job["id"].encode() in listened_to for job in jobs)

    eventually(check)


# --- ready ----------------------------------------------------------------------------------------


def test_a_web_process_without_a_worker_is_alive_and_not_ready(deployed: Deployment) -> None:
    api = deployed.web()

    alive, ready = api.http.get("/healthz"), api.http.get("/readyz")

    assert alive.status_code == 200
    assert ready.status_code == 503
    assert ready.json()["ready"] is False
    assert ready.json()["checks"]["redis"] == "ok"
    assert ready.json()["checks"]["workers"] != "ok"
    assert api.http.get("/v1/models").json() == {"models": [], "warnings": []}


def test_a_web_process_is_ready_while_a_worker_listens(deployed: Deployment) -> None:
    deployed.write(MODELS)
    worker = deployed.worker()
    api = deployed.web()

    before = api.http.get("/readyz")
    ended(worker)
    after = api.http.get("/readyz")

    assert (before.status_code, before.json()) == (
        200,
        {"ready": True, "checks": {"redis": "ok", "workers": "ok"}, "warnings": []},
    )
    assert after.status_code == 503


# --- Redis is away --------------------------------------------------------------------------------


def test_without_redis_a_process_is_alive_and_says_what_it_lacks(outage: Outage) -> None:
    with outage.redis_away():
        alive, ready = outage.api.http.get("/healthz"), outage.api.http.get("/readyz")

    assert alive.status_code == 200
    assert ready.status_code == 503
    assert ready.json()["checks"]["redis"] != "ok"


@pytest.mark.parametrize(
    ("method", "path"),
    [("POST", "/v1/models/echo/jobs"), ("GET", "/v1/models"), ("GET", "/v1/jobs"), ("GET", "/v1/jobs/x/events")],
)
def test_without_redis_a_request_is_a_503_that_says_when_to_come_back(outage: Outage, method: str, path: str) -> None:
    with outage.redis_away():
        response = outage.api.http.request(method, path, json={"input": {}} if method == "POST" else None)

    assert response.status_code == 503
    assert response.headers["Content-Type"] == "application/problem+json"
    assert response.json()["type"] == "/problems/unavailable"
    assert int(response.headers["Retry-After"]) >= 1


def test_a_submit_that_was_refused_without_redis_left_nothing_and_the_next_one_is_taken(outage: Outage) -> None:
    before = outage.api.http.get("/v1/jobs").json()
    with outage.redis_away():
        refused = outage.api.post("echo")

    after = outage.api.http.get("/v1/jobs").json()

    assert refused.status_code == 503
    assert after == before
    assert outage.api.submit("echo", wait=10, input={"value": 7})["output"] == 7


def test_a_job_that_was_accepted_is_not_denied_when_redis_goes_while_its_caller_waits(
    outage: Outage, gate: Path
) -> None:
    with ThreadPoolExecutor(1) as pool:
        submit = pool.submit(outage.api.post, "gated", 3, input={"gate": str(gate)})
        job = accepted(outage.api, {"gate": str(gate)})
        waiting(outage.api, [job])
        with outage.redis_away():
            response = submit.result(timeout=25)
    gate.touch()

    # A caller who is told that nothing was accepted submits the job a second time.
    assert response.status_code == 202, response.text
    assert response.headers["Location"] == job["urls"]["self"]
    assert outage.api.done(job["id"])["output"] == "beforeafter"


def test_a_watcher_sees_every_event_once_although_redis_went_meanwhile(outage: Outage, gate: Path) -> None:
    job = outage.api.submit("gated", input={"gate": str(gate)})
    outage.api.started(job["id"])
    with ThreadPoolExecutor(1) as pool:
        watcher = pool.submit(outage.api.watch, job["urls"]["events"])
        waiting(outage.api, [job])
        with outage.redis_away():
            pass
        gate.touch()
        events, code, _ = watcher.result(timeout=25)

    assert code == 1000
    log = outage.api.log(job["id"])
    assert events[1:] == [event for event in log if event["id"] > events[0]["id"]]
    assert [event["type"] for event in log] == ["queued", "started", "output", "output", "finished"]


def test_a_watcher_that_comes_while_redis_is_away_is_told_to_come_back(outage: Outage) -> None:
    job = outage.api.submit("echo", wait=10)
    with outage.redis_away():
        events, code, reason = outage.api.watch(job["urls"]["events"])

    assert (events, code) == ([], 1013)
    assert json.loads(reason)["type"] == "unavailable"


def test_a_long_poll_is_answered_although_redis_went_meanwhile(outage: Outage, gate: Path) -> None:
    job = outage.api.submit("gated", input={"gate": str(gate)})
    outage.api.started(job["id"])
    with ThreadPoolExecutor(1) as pool:
        poll = pool.submit(outage.api.done, job["id"])
        waiting(outage.api, [job])
        with outage.redis_away():
            pass
        gate.touch()

        assert poll.result(timeout=25)["output"] == "beforeafter"


# --- the end --------------------------------------------------------------------------------------


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGINT])
def test_a_web_process_asked_to_end_tells_each_watcher_and_exits_with_0(
    service: Api, tmp_path: Path, signum: signal.Signals
) -> None:
    with deployment(tmp_path, service.redis_url) as each, suspended(service):  # type: ignore[attr-defined]
        other = each.web()
        job = other.submit("echo")
        watchers = [other.socket(job["urls"]["events"]) for _ in range(20)]
        for watcher in watchers:
            watcher.recv()
        began = time.monotonic()

        status = ended(other.process, signum)  # type: ignore[attr-defined]

        took = time.monotonic() - began
        codes = [close_of(watcher) for watcher in watchers]
        for watcher in watchers:
            watcher.shutdown()
    assert (status, set(codes)) == (0, {1012})
    assert took < 8  # gunicorn itself would wait for open sockets for 10 s


def test_a_watcher_goes_on_at_another_process_where_it_was_closed(service: Api, tmp_path: Path) -> None:
    with deployment(tmp_path, service.redis_url) as each, suspended(service):  # type: ignore[attr-defined]
        other = each.web()
        job = other.submit("echo")
        watcher = other.socket(job["urls"]["events"])
        try:
            first = json.loads(watcher.recv())
            ended(other.process)  # type: ignore[attr-defined]
            _, data = watcher.recv_data()
        finally:
            watcher.shutdown()

    second, _, _ = service.watch(f"{job['urls']['events']}?after={first['id']}")

    assert int.from_bytes(data[:2], "big") == 1012
    assert json.loads(data[2:])["type"] == "restarting"
    assert (first["type"], first["data"]["status"]) == ("snapshot", "queued")
    assert second == service.log(job["id"])[1:]


def test_a_web_process_asked_to_end_answers_its_long_polls(service: Api, tmp_path: Path) -> None:
    with deployment(tmp_path, service.redis_url) as each, suspended(service):  # type: ignore[attr-defined]
        other = each.web()
        jobs = [other.submit("echo") for _ in range(5)]
        with ThreadPoolExecutor(5) as pool:
            polls = [
                pool.submit(httpx.get, f"{other.http.base_url}{job['urls']['self']}?wait=25", verify=NO_TLS)
                for job in jobs
            ]
            waiting(service, jobs)

            status = ended(other.process)  # type: ignore[attr-defined]

            answers = [poll.result(timeout=20) for poll in polls]
    assert status == 0
    assert [(answer.status_code, answer.json()["status"]) for answer in answers] == [(200, "queued")] * 5


def test_a_submit_that_waits_is_answered_with_its_job_when_the_process_ends(service: Api, tmp_path: Path) -> None:
    with deployment(tmp_path, service.redis_url) as each, suspended(service):  # type: ignore[attr-defined]
        other = each.web()
        with ThreadPoolExecutor(1) as pool:
            submit = pool.submit(other.post, "echo", 25, input={"value": 5})

            waiting(service, [accepted(service, {"value": 5})])

            status = ended(other.process)  # type: ignore[attr-defined]

            response = submit.result(timeout=20)
    assert (status, response.status_code) == (0, 202)
    assert service.done(response.json()["id"])["output"] == 5


# --- clients that keep a connection ---------------------------------------------------------------


def test_clients_that_keep_their_end_open_hold_up_nobody(service: Api) -> None:
    began = time.monotonic()
    for _ in range(5):
        with socket.create_connection(("127.0.0.1", service.port), timeout=20) as lazy:
            lazy.sendall(b"GET /healthz HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
            while lazy.recv(4096):
                pass
            assert httpx.get(f"http://127.0.0.1:{service.port}/healthz", timeout=20, verify=NO_TLS).status_code == 200

    assert time.monotonic() - began < 8


# --- it cannot start ------------------------------------------------------------------------------


def test_a_web_process_that_cannot_have_its_port_says_so_in_one_line(service: Api, deployed: Deployment) -> None:
    process = deployed.run("web", PORT=str(service.port))

    text = output(process)

    assert process.returncode == 1
    assert str(service.port) in text
    assert "PORT" in text
    assert len(text.splitlines()) == 1


def test_a_web_process_without_redis_says_so_in_one_line(deployed: Deployment) -> None:
    process = deployed.run("web", PORT=str(free_port()), REDIS_URL=f"redis://user:secret@127.0.0.1:{free_port()}")

    text = output(process)

    assert process.returncode == 1
    assert "REDIS_URL" in text
    assert "secret" not in text
    assert len(text.splitlines()) == 1
