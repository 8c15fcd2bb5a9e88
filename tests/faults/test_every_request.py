"""A web process is killed at every write that it makes for a caller, who then asks again: it is done, and done once."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
import redis

from service.embedded import EmbeddedRedis
from service.store import keys
from tests.chaos import durable_redis
from tests.deadly import Deadly, Trap, script
from tests.deployment import Api, children, deployment, eventually, until
from tests.evidence import assert_whole
from tests.watchers import log_of

MODELS = """
    import os, time
    from service import model

    @model
    def quick(name: str) -> str:
        with open(os.environ["NOTES"], "a") as file:
            file.write(f"{name}\\n")
        return name

    @model
    def long(name: str) -> None:
        time.sleep(60)
"""


class Desk:
    """A web process behind a trap, and a worker that is not."""

    def __init__(self, api: Api, proxy: Deadly, worker: int, notes: Path, connection: redis.Redis) -> None:
        self.api = api
        self.proxy = proxy
        self.redis = connection
        self.notes = notes
        self._worker = worker

    def insist(self, trap: Trap, send: Callable[[httpx.Client], httpx.Response]) -> httpx.Response:
        """The answer of a caller who asks again for as long as there is none, the first time into the trap."""
        (first,) = children(self.api.process.pid)  # type: ignore[attr-defined]
        self.proxy.trap = trap
        with pytest.raises(httpx.TransportError):
            send(self.api.http)
        assert trap.sprung.is_set() and trap.pid == first

        def answered() -> httpx.Response:
            answer = send(self.api.http)
            assert answer.status_code != 503
            return answer

        return eventually(answered)

    @contextmanager
    def nobody_works(self) -> Iterator[None]:
        """No job is taken within."""
        os.kill(self._worker, signal.SIGSTOP)
        try:
            yield
        finally:
            os.kill(self._worker, signal.SIGCONT)

    def over(self, job_id: str) -> Any:
        """The job when it is over; its log is whole."""
        job = self.api.done(job_id)
        assert_whole(log_of(self.api, job_id), job)
        return job


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedRedis]:
    """A Redis of this module's own."""
    with durable_redis(tmp_path_factory.mktemp("redis")) as each:
        yield each


@pytest.fixture(scope="module")
def desk(tmp_path_factory: pytest.TempPathFactory, server: EmbeddedRedis) -> Iterator[Desk]:
    """One for all tests: a web process that was killed is started again by gunicorn."""
    folder = tmp_path_factory.mktemp("desk")
    proxy = Deadly(folder / "proxy", server.url.removeprefix("unix://"))
    with (
        deployment(folder, server.url, NOTES=str(folder / "notes")) as each,
        redis.Redis.from_url(server.url) as connection,
    ):
        each.write(MODELS)
        worker = each.worker()
        api = each.web(REDIS_URL=proxy.url)
        until(lambda: {model["name"] for model in api.http.get("/v1/models").json()["models"]} >= {"quick", "long"})
        yield Desk(api, proxy, worker.pid, folder / "notes", connection)
    proxy.close()


killed = pytest.mark.parametrize("before", [True, False], ids=["before it", "after it"])


@killed
def test_a_submit_with_a_key_is_one_job_though_its_web_process_is_killed_at_the_write(desk: Desk, before: bool) -> None:
    name = f"keyed-{before}"
    body = {"input": {"name": name}}
    trap = Trap((script("submit"), keys.idempotency(name).encode()), before)

    answer = desk.insist(
        trap, lambda http: http.post("/v1/models/quick/jobs", json=body, headers={"Idempotency-Key": name})
    )

    assert answer.status_code in (200, 202)
    assert answer.headers.get("Idempotent-Replayed") == (None if before else "true")
    assert desk.over(answer.json()["id"])["output"] == name
    assert desk.notes.read_text().splitlines().count(name) == 1


@killed
def test_a_submit_with_an_id_is_one_job_though_its_web_process_is_killed_at_the_write(desk: Desk, before: bool) -> None:
    job_id = f"mine-{before}"
    body = {"model": "quick", "input": {"name": job_id}}

    answer = desk.insist(
        Trap((script("submit"), job_id.encode()), before), lambda http: http.put(f"/v1/jobs/{job_id}", json=body)
    )

    assert answer.status_code in (200, 202)
    assert answer.headers.get("Idempotent-Replayed") == (None if before else "true")
    assert desk.over(job_id)["output"] == job_id
    assert desk.notes.read_text().splitlines().count(job_id) == 1


@killed
def test_a_waiting_job_is_canceled_though_the_web_process_is_killed_at_the_write(desk: Desk, before: bool) -> None:
    with desk.nobody_works():
        job = desk.api.submit("quick", input={"name": "canceled"})

        answer = desk.insist(
            Trap((script("cancel"), job["id"].encode()), before), lambda http: http.post(f"/v1/jobs/{job['id']}/cancel")
        )

    assert answer.status_code == 200
    assert desk.over(job["id"])["status"] == "canceled"
    assert "canceled" not in desk.notes.read_text().splitlines()


@killed
def test_a_running_job_is_stopped_though_the_web_process_is_killed_at_the_write(desk: Desk, before: bool) -> None:
    job = desk.api.submit("long", input={"name": ""})
    desk.api.started(job["id"])

    answer = desk.insist(
        Trap((script("cancel"), job["id"].encode()), before), lambda http: http.post(f"/v1/jobs/{job['id']}/cancel")
    )

    assert answer.status_code in (200, 202)  # 200 if it was stopped already
    assert desk.over(job["id"])["status"] == "stopped"


@killed
def test_a_job_that_waited_too_long_expires_though_the_web_process_is_killed_at_the_write(
    desk: Desk, before: bool
) -> None:
    with desk.nobody_works():
        job = desk.api.submit("quick", input={"name": "expired"}, start_timeout=1)
        time.sleep(1.1)  # the time itself is what is tested; whoever reads the job then ends it

        answer = desk.insist(
            Trap((script("expire"), job["id"].encode()), before), lambda http: http.get(f"/v1/jobs/{job['id']}")
        )

    assert answer.json()["error"]["type"] == "expired"
    desk.over(job["id"])
    assert "expired" not in desk.notes.read_text().splitlines()


@killed
def test_a_job_is_erased_though_the_web_process_is_killed_at_the_write(desk: Desk, before: bool) -> None:
    job = desk.api.submit("quick", wait=10, input={"name": "erased"})
    assert job["status"] == "finished"

    answer = desk.insist(
        Trap((script("erase"), job["id"].encode()), before), lambda http: http.delete(f"/v1/jobs/{job['id']}")
    )

    assert answer.status_code == (204 if before else 410)  # 410: it was erased the first time
    assert desk.api.http.get(f"/v1/jobs/{job['id']}").status_code == 410
    assert list(desk.redis.scan_iter(f"*{job['id']}*", count=1000)) == [keys.known(job["id"]).encode()]
