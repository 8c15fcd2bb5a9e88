"""Whatever Redis answers to the relay: it lives, tells its watchers, and goes on when Redis does."""

from __future__ import annotations

import json
import os
import signal
import socket
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import redis

from service.embedded import EmbeddedRedis
from tests.deployment import Api, Deployment, deployment, eventually, until
from tests.raw_sockets import asked, close_code, frames, masked, upgraded, web_pid
from tests.suspension import suspended
from tests.watchers import Closed, Refused, over_event_stream, over_websocket

MODELS = """
    from service import model

    @model
    def echo(value: str = "") -> str:
        return value
"""


@pytest.fixture
def server(tmp_path: Path) -> Iterator[EmbeddedRedis]:
    """A Redis of this test's own."""
    with EmbeddedRedis(tmp_path / "redis") as each:
        yield each


@pytest.fixture
def admin(server: EmbeddedRedis) -> Iterator[redis.Redis]:
    with redis.Redis.from_url(server.url) as client:
        yield client


@pytest.fixture
def own(tmp_path: Path, server: EmbeddedRedis) -> Iterator[Deployment]:
    """A deployment on it."""
    with deployment(tmp_path, server.url) as each:
        each.write(MODELS)
        yield each


@pytest.fixture
def web(own: Deployment, server: EmbeddedRedis) -> Iterator[Api]:
    """Its web process, which must be the same one afterwards."""
    own.worker()
    api = own.web()
    api.redis_url = server.url  # type: ignore[attr-defined]
    pid = web_pid(api)
    yield api
    assert web_pid(api) == pid
    assert "has crashed" not in api.process.log.read_text()  # type: ignore[attr-defined]


def feeding(api: Api, **wish: Any) -> socket.socket:
    sock = upgraded(api, "/v1/events")
    sock.sendall(masked(1, json.dumps({"subscribe": [wish]}).encode()))
    return sock


# --- Redis comes back empty -----------------------------------------------------------------------


def test_watchers_are_told_that_their_job_is_gone_when_redis_is_empty(web: Api, admin: redis.Redis) -> None:
    with suspended(web), ThreadPoolExecutor(1) as pool:
        job = web.submit("echo")
        with over_websocket(web, job["id"]) as events, over_event_stream(web, job["id"]) as lines:
            next(events), next(lines)
            feed = feeding(web, job_id=job["id"])
            told = (json.loads(data) for opcode, data in frames(feed) if opcode == 1)
            assert next(told)["type"] == "snapshot"
            poll = pool.submit(lambda: web.http.get(f"/v1/jobs/{job['id']}?wait=50"))
            until(lambda: admin.pubsub_numsub(f"service:job:{job['id']}:events")[0][1] == 1)
            time.sleep(0.5)  # until the long poll waits, too
            began = time.monotonic()
            admin.flushall()

            with pytest.raises(Closed) as closed:
                next(events)
            last = list(lines)[-1]
            of_feed = next(told)
            answer = poll.result(timeout=30)

            assert time.monotonic() - began < 15
    assert (closed.value.code, closed.value.reason["type"]) == (4410, "job-gone")
    assert (last["type"], last["data"]["type"]) == ("error", "job-gone")
    assert (of_feed["type"], of_feed["data"]["type"]) == ("error", "job-gone")
    assert (answer.status_code, answer.json()["type"]) == (410, "/problems/job-gone")
    feed.close()


def test_a_feed_goes_on_when_redis_came_back_empty(web: Api, own: Deployment, admin: redis.Redis) -> None:
    feeds = [feeding(web, all=True), feeding(web, model="echo")]
    until(lambda: bool(admin.pubsub_numsub("service:submitted")[0][1]))
    web.submit("echo", wait=10)
    admin.flushall()
    admin.client_kill_filter(_type="pubsub")
    own.worker()  # which publishes its models

    job = eventually(lambda: web.submit("echo", wait=10))

    for feed in feeds:
        told = (json.loads(data) for opcode, data in frames(feed) if opcode == 1)
        seen = []
        while not seen or seen[-1]["type"] != "finished":
            event = next(told)
            assert event["data"].get("type") != "model-not-found"
            seen += [event] if event["job_id"] == job["id"] else []
        assert seen == web.log(job["id"])
        feed.close()


# --- Redis refuses --------------------------------------------------------------------------------


@pytest.mark.parametrize("rule", ["resetchannels", "-subscribe"])
def test_a_relay_that_may_not_listen_sends_its_watchers_away_and_serves_them_when_it_may(
    web: Api, admin: redis.Redis, rule: str
) -> None:
    with suspended(web):
        job = web.submit("echo")
        with over_websocket(web, job["id"]) as events:
            next(events)
            admin.acl_setuser("default", enabled=True, nopass=True, keys=["*"], channels=["*"], commands=["+@all"])
            admin.execute_command("ACL", "SETUSER", "default", rule)
            admin.client_kill_filter(_type="pubsub")
            feed = feeding(web, job_id=job["id"])

            with pytest.raises(Closed) as closed:
                next(events)
            assert (closed.value.code, closed.value.reason["type"]) == (1013, "unavailable")
            assert close_code(feed) == 1013
        assert web.http.get(f"/v1/jobs/{job['id']}?wait=0.5").status_code in (200, 503)
        admin.execute_command("ACL", "SETUSER", "default", "allchannels", "+@all")

        def served() -> None:
            with over_websocket(web, job["id"]) as again:
                try:
                    assert next(again)["type"] == "snapshot"
                except Closed as closed:
                    raise AssertionError(closed) from None

        eventually(served, within=40)


def test_too_many_clients_are_no_end(web: Api, admin: redis.Redis) -> None:
    with suspended(web):
        job = web.submit("echo")
        with over_websocket(web, job["id"]) as events:
            next(events)
            admin.config_set("maxclients", "1")
            for _ in range(10):
                admin.client_kill_filter(_type="pubsub")
                time.sleep(0.2)
            admin.config_set("maxclients", "1000")
            web.cancel(job["id"])

            assert [event["type"] for event in events] == ["canceled"]


ANSWERS = {
    "nothing": b"",
    "another protocol": b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n",
    "loading": b"-LOADING Redis is loading the dataset in memory\r\n",
    "no permission": b"-NOPERM this user has no permissions to access one of the channels used as arguments\r\n",
    "a failed snapshot": b"-MISCONF Redis is configured to save RDB snapshots\r\n",
    "a password": b"-NOAUTH Authentication required.\r\n",
    "numbers": b":1\r\n:2\r\n",
    "an empty list": b"*0\r\n*-1\r\n$-1\r\n",
    "a list of lists": b"*3\r\n*1\r\n:1\r\n*0\r\n$7\r\nmessage\r\n",
    "a message of numbers": b"*3\r\n$7\r\nmessage\r\n:1\r\n:2\r\n",
    "noise": bytes(range(256)) * 10,
}


@pytest.mark.parametrize("answer", ANSWERS.values(), ids=ANSWERS)
def test_what_answers_and_is_no_redis_is_no_end(
    own: Deployment, server: EmbeddedRedis, admin: redis.Redis, answer: bytes
) -> None:
    with Odd(server.url.removeprefix("unix://"), own.folder / "odd.sock") as odd:
        own.worker()
        web = own.web(REDIS_URL=f"unix://{odd.path}")
        web.redis_url = server.url  # type: ignore[attr-defined]
        pid = web_pid(web)
        with suspended(web):
            job = web.submit("echo")
            with over_websocket(web, job["id"]) as events:
                next(events)
                odd.answer = answer
                admin.client_kill_filter(_type="pubsub")
                until(lambda: odd.answered >= 2, within=30)
                odd.answer = None
                web.cancel(job["id"])

                assert [event["type"] for event in events] == ["canceled"]
        assert web_pid(web) == pid


class Odd:
    """A proxy before a Redis; while it has an `answer`, those who connect get that to all that they say."""

    def __init__(self, behind: str, path: Path) -> None:
        self.path = path
        self.answer: bytes | None = None
        self.answered = 0
        self._behind = behind
        self._listener = socket.socket(socket.AF_UNIX)

    def __enter__(self) -> Odd:
        self._listener.bind(str(self.path))
        self._listener.listen(100)
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        with client, socket.socket(socket.AF_UNIX) as server:
            server.connect(self._behind)
            threading.Thread(target=self._carry, args=(server, client), daemon=True).start()
            while True:
                try:
                    said = client.recv(65536)
                    if not said:
                        return
                    if self.answer is None:
                        server.sendall(said)
                    elif b"SUBSCRIBE" in said:  # all else is as ever
                        client.sendall(self.answer)
                        self.answered += 1
                        if not self.answer:
                            return
                    else:
                        server.sendall(said)
                except OSError:
                    return

    def _carry(self, server: socket.socket, client: socket.socket) -> None:
        try:
            while data := server.recv(65536):
                client.sendall(data)
            client.shutdown(socket.SHUT_RDWR)
        except OSError:
            return


# --- Redis hangs ----------------------------------------------------------------------------------


@pytest.mark.timeout(150)
def test_while_redis_hangs_those_who_wait_are_pinged_told_and_answered(
    web: Api, server: EmbeddedRedis, admin: redis.Redis
) -> None:
    with suspended(web):
        job = web.submit("echo")
        watcher = upgraded(web, job["urls"]["events"])
        polls = [asked(web, f"/v1/jobs/{job['id']}?wait=1") for _ in range(30)]
        submits = [asked(web, "/v1/models/echo/jobs", "POST", {"input": {}}, Prefer="wait=1") for _ in range(5)]
        until(lambda: admin.pubsub_numsub(f"service:job:{job['id']}:events")[0][1] == 1)
        time.sleep(0.5)
        os.kill(server.pid, signal.SIGSTOP)
        try:
            began = time.monotonic()
            statuses = [int(poll.recv(100).split()[1]) for poll in polls]
            accepted = [int(submit.recv(100).split()[1]) for submit in submits]
            assert time.monotonic() - began < 30
            assert set(statuses) <= {200, 503}
            assert set(accepted) == {202}
            assert close_code(watcher) == 1013
        finally:
            os.kill(server.pid, signal.SIGCONT)
            for sock in (*polls, *submits):
                sock.close()

    def served() -> None:
        try:
            with over_event_stream(web, job["id"]) as lines:
                assert next(lines)["type"] == "snapshot"
        except Refused as refused:
            raise AssertionError(refused) from None

    eventually(served, within=40)
