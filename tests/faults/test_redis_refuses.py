"""Redis answers, and refuses: in each way it has, no process ends, nothing is lost and everybody is told which."""

from __future__ import annotations

import os
import re
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import redis

from service.embedded import EmbeddedRedis, binary
from service.settings import Settings
from service.store.connection import connect
from service.store.durability import take_a_write
from service.store.refusal import NotNow
from tests.deployment import Api, deployment, until

MODELS = """
    import os, time
    from service import model

    @model(timeout=120)
    def waits(file: str) -> str:
        while not os.path.exists(file):
            time.sleep(0.05)
        return "waited"
"""

LEASE = 3.0


class Server:
    """A Redis of these tests' own. `admin` has a user of its own, which keeps its rights."""

    def __init__(self, embedded: EmbeddedRedis) -> None:
        self.embedded = embedded
        with redis.Redis.from_url(embedded.url) as client:
            client.execute_command("ACL", "SETUSER", "admin", "on", ">pw", "~*", "&*", "+@all")
        path = embedded.url.removeprefix("unix://")
        self.admin: Any = redis.Redis(unix_socket_path=path, username="admin", password="pw")  # noqa: S106
        self.busy: threading.Thread | None = None

    def cut(self) -> None:
        """Cut all connections but the admin's: they have to be made anew."""
        for client in self.admin.client_list():
            if client.get("user") != "admin":
                with suppress(redis.exceptions.ResponseError):  # it has gone
                    self.admin.client_kill_filter(_id=client["id"])

    def cannot_save(self) -> None:
        """Have a snapshot fail."""
        (self.embedded.data_dir / "redis" / "dump.rdb").mkdir()
        self.admin.config_set("save", "3600 1")
        self.admin.bgsave()
        until(lambda: self.admin.info("persistence")["rdb_last_bgsave_status"] == "err")

    def can_save(self) -> None:
        (self.embedded.data_dir / "redis" / "dump.rdb").rmdir()
        self.admin.config_set("save", "")
        self.admin.bgsave()
        until(lambda: self.admin.info("persistence")["rdb_last_bgsave_status"] == "ok")

    def run_a_script_without_end(self) -> None:
        self.admin.config_set("lua-time-limit", 50)

        def run() -> None:
            with redis.Redis.from_url(self.embedded.url, socket_timeout=60) as client, suppress(redis.RedisError):
                client.eval("while true do end", 0)

        self.busy = threading.Thread(target=run, daemon=True)
        self.busy.start()
        until(lambda: self._is_busy())

    def _is_busy(self) -> bool:
        try:
            self.admin.ping()
        except redis.exceptions.ResponseError:
            return True
        return False

    def end_the_script(self) -> None:
        self.admin.script_kill()
        assert self.busy is not None
        self.busy.join(10)

    def admit_nobody(self) -> None:
        self.admin.config_set("maxclients", 1)
        self.cut()

    def deny(self, *rules: str) -> None:
        self.admin.execute_command("ACL", "SETUSER", "default", *rules)

    def allow(self) -> None:
        self.deny("on", "nopass", "~*", "&*", "+@all")

    def ask_a_password(self) -> None:
        self.deny("resetpass", ">secret")
        self.cut()


@dataclass(frozen=True)
class Refusal:
    """One way to refuse: how it begins and ends, and the word that people are told."""

    word: str
    begin: Callable[[Server], Any]
    end: Callable[[Server], Any]


REFUSALS = {
    "no memory": Refusal(
        "OOM", lambda it: it.admin.config_set("maxmemory", 1), lambda it: it.admin.config_set("maxmemory", 0)
    ),
    "too few replicas": Refusal(
        "NOREPLICAS",
        lambda it: it.admin.config_set("min-replicas-to-write", 1),
        lambda it: it.admin.config_set("min-replicas-to-write", 0),
    ),
    "a replica": Refusal(
        "READONLY", lambda it: it.admin.replicaof("127.0.0.1", 1), lambda it: it.admin.replicaof("NO", "ONE")
    ),
    "no snapshot": Refusal("MISCONF", Server.cannot_save, Server.can_save),
    "too many clients": Refusal(
        "MAXCLIENTS|cannot be reached",  # it closes the connection with that word, which may be lost
        Server.admit_nobody,
        lambda it: it.admin.config_set("maxclients", 1000),
    ),
    "may not write": Refusal("NOPERM", lambda it: it.deny("-@write"), Server.allow),
    "no scripts": Refusal("NOPERM", lambda it: it.deny("-@scripting"), Server.allow),
    "a password": Refusal("NOAUTH", Server.ask_a_password, Server.allow),
    "a script without end": Refusal("BUSY", Server.run_a_script_without_end, Server.end_the_script),
}


@dataclass(frozen=True)
class Running:
    """The service on that Redis."""

    server: Server
    api: Api
    worker: Any
    folder: Path


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """A service that all refusals meet, one after the other, in the same processes."""
    folder = tmp_path_factory.mktemp("refuses")
    executable = shutil.which(os.environ.get("TEST_REDIS_SERVER", "")) or binary()
    with EmbeddedRedis(folder / "redis", executable) as embedded, deployment(folder, embedded.url) as own:
        own.write(MODELS)
        worker = own.worker()
        yield Running(Server(embedded), own.web(), worker, folder)


@pytest.mark.parametrize("name", REFUSALS)
def test_a_redis_that_refuses_ends_no_process_and_no_job(running: Running, name: str) -> None:
    refusal, api, gate = REFUSALS[name], running.api, running.folder / f"gate {name}"
    until(lambda: api.http.get("/readyz").status_code == 200, within=30)
    job = api.submit("waits", input={"file": str(gate)})
    api.started(job["id"])
    with ThreadPoolExecutor(1) as pool:
        watched = pool.submit(api.watch, f"/v1/jobs/{job['id']}/events")
        refusal.begin(running.server)
        try:
            began = time.monotonic()
            _is_told(api, refusal.word)
            gate.touch()  # so the job ends while nothing can be written
            until(lambda: time.monotonic() > began + LEASE + 1)
            assert (running.worker.poll(), api.process.poll()) == (None, None)  # type: ignore[attr-defined]
        finally:
            gate.touch()
            refusal.end(running.server)
        done = _done(api, job["id"])
        events, code, _ = watched.result(60)

    assert (done["status"], done["output"], len(done["attempts"])) == ("finished", "waited", 1)
    last = events[-1]["data"]["status"] if events[-1]["type"] == "snapshot" else events[-1]["type"]
    assert (last, code) == ("finished", 1000)
    assert _done(api, _submitted(api, gate))["status"] == "finished"
    assert (running.worker.poll(), api.process.poll()) == (None, None)  # type: ignore[attr-defined]


def test_jobs_run_though_nothing_may_be_published_and_readiness_says_so(running: Running) -> None:
    api, gate = running.api, running.folder / "gate no channels"
    until(lambda: api.http.get("/readyz").status_code == 200, within=30)
    gate.touch()
    running.server.deny("resetchannels")
    try:
        job = api.submit("waits", input={"file": str(gate)})
        until(lambda: api.job(job["id"])["done"], within=30)
        ready = api.http.get("/readyz")
    finally:
        running.server.allow()

    assert api.job(job["id"])["output"] == "waited"
    assert (ready.status_code, "NOPERM" in ready.json()["checks"]["redis"]) == (503, True)


def _is_told(api: Api, word: str) -> None:
    submit = api.post("waits", input={"file": "none"})
    ready = api.http.get("/readyz")

    assert (submit.status_code, submit.headers["Content-Type"]) == (503, "application/problem+json"), submit.text
    assert submit.json()["type"] == "/problems/unavailable"
    assert int(submit.headers["Retry-After"]) > 0
    assert re.search(word, submit.json()["detail"])
    assert api.http.get("/healthz").status_code == 200
    for path in ("/v1/models", "/v1/jobs", "/v1/queues", "/v1/workers", "/dashboard/", "/dashboard/0/data/queues.json"):
        assert api.http.get(path).status_code in (200, 404, 503), path
    assert ready.status_code == 503, ready.text
    assert re.search(word, ready.json()["checks"]["redis"])


def _submitted(api: Api, gate: Path) -> str:
    def accepted() -> bool:
        answer = api.post("waits", input={"file": str(gate)})
        ids.append(answer.json().get("id", ""))
        return answer.status_code == 202

    ids: list[str] = []
    until(accepted, within=30)
    return ids[-1]


def _done(api: Api, job_id: str) -> Any:
    def is_done() -> bool:
        answer = api.http.get(f"/v1/jobs/{job_id}")
        return answer.status_code == 200 and bool(answer.json()["done"])

    until(is_done, within=40)
    return api.job(job_id)


def test_a_redis_that_was_demoted_is_left_for_the_one_that_its_address_leads_to_now(
    tmp_path: Path, redis_url: str
) -> None:
    address = tmp_path / "redis.sock"  # of the one that is written to
    with EmbeddedRedis(tmp_path / "old") as old:
        address.symlink_to(old.url.removeprefix("unix://"))
        with connect(Settings(redis_url=f"unix://{address}")) as ours, redis.Redis.from_url(old.url) as admin:
            take_a_write(ours)
            admin.replicaof("127.0.0.1", 1)  # as after a failover: it lives on, and so do its connections
            address.unlink()
            address.symlink_to(redis_url.removeprefix("unix://"))
            with pytest.raises(NotNow, match="READONLY"):
                take_a_write(ours)

            take_a_write(ours)
