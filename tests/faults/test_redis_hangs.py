"""Redis hangs: it takes what it is sent, or not even that, and says nothing. Nobody waits for long."""

from __future__ import annotations

import os
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import httpx
import pytest
import redis

from service.embedded import EmbeddedRedis
from service.settings import Settings
from service.store import patience
from service.store.connection import connect
from service.store.scripts import Scripts
from tests.deployment import NO_TLS, Api, Deployment, deployment, until

MODELS = """
    import time
    from service import model

    @model(timeout=60)
    def sleeps(seconds: float) -> str:
        time.sleep(seconds)
        return "slept"
"""

CALLERS = 40
LONG = 10.0  # seconds: with the default of 2 s for Redis, and room for a machine that is busy


@pytest.fixture
def server(tmp_path: Path) -> Iterator[EmbeddedRedis]:
    """A Redis of this test's own, which it may stop."""
    with EmbeddedRedis(tmp_path / "redis") as each:
        yield each


@pytest.fixture
def own(tmp_path: Path, server: EmbeddedRedis) -> Iterator[Deployment]:
    """A deployment on it."""
    with deployment(tmp_path, server.url) as each:
        each.write(MODELS)
        yield each


@contextmanager
def hanging(server: EmbeddedRedis) -> Iterator[None]:
    """Redis does nothing: the system still accepts connections for it."""
    os.kill(server.pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(server.pid, signal.SIGCONT)


def timed(call: Callable[[], Any]) -> tuple[float, Any]:
    began = time.monotonic()
    answer = call()
    return time.monotonic() - began, answer


def at_once(calls: list[Callable[[], Any]]) -> list[tuple[float, Any]]:
    with ThreadPoolExecutor(len(calls)) as pool:
        return [each.result() for each in [pool.submit(timed, call) for call in calls]]


def test_forty_callers_of_a_redis_that_hangs_are_all_told_within_its_time(
    own: Deployment, server: EmbeddedRedis
) -> None:
    worker, api = own.worker(), own.web()
    job = api.submit("sleeps", input={"seconds": 2})
    api.started(job["id"])
    until(lambda: api.http.get("/readyz").status_code == 200)

    def call(number: int) -> Callable[[], httpx.Response]:
        url, body = f"http://127.0.0.1:{api.port}", {"input": {"seconds": 0}}
        path = ["/v1/models", f"/v1/jobs/{job['id']}", "/readyz", f"/v1/jobs/{job['id']}?wait=1"][number % 4]
        if number % 2:  # each by a connection of its own
            return lambda: httpx.post(f"{url}/v1/models/sleeps/jobs", json=body, timeout=60, verify=NO_TLS)
        return lambda: httpx.get(url + path, timeout=60, verify=NO_TLS)

    with hanging(server):
        for answers in (at_once([call(number) for number in range(CALLERS)]) for _ in range(2)):
            assert {answer.status_code for _, answer in answers} == {503}
            assert max(seconds for seconds, _ in answers) < LONG
    finished = _done(api, job["id"])

    assert (finished["status"], len(finished["attempts"])) == ("finished", 1)
    assert (worker.poll(), api.process.poll()) == (None, None)  # type: ignore[attr-defined]
    until(lambda: api.post("sleeps", input={"seconds": 0}).status_code == 202)


def test_long_polls_that_end_while_redis_hangs_are_answered_within_its_time(
    own: Deployment, server: EmbeddedRedis
) -> None:
    own.worker()
    api = own.web()
    job = api.submit("sleeps", input={"seconds": 20})
    api.started(job["id"])
    url = f"http://127.0.0.1:{api.port}/v1/jobs/{job['id']}?wait=2"

    with ThreadPoolExecutor(CALLERS) as pool:
        polls = [pool.submit(timed, lambda: httpx.get(url, timeout=60, verify=NO_TLS)) for _ in range(CALLERS)]
        until(lambda: _connections(api) >= CALLERS)
        with hanging(server):
            answers = [poll.result() for poll in polls]

    assert {answer.status_code for _, answer in answers} <= {200, 503}
    assert max(seconds for seconds, _ in answers) < 2 + LONG


def test_more_callers_than_connections_and_all_is_well_once_redis_answers_again(own: Deployment) -> None:
    own.worker()
    api = own.web(WEB_THREADS="100")
    with redis.Redis.from_url(own.redis_url) as client:
        until(lambda: api.http.get("/readyz").status_code == 200)
        client.client_pause(1500)
    at_once([lambda: httpx.get(f"http://127.0.0.1:{api.port}/v1/jobs/none", timeout=60, verify=NO_TLS)] * 90)

    for path in ("/v1/models", "/v1/queues", "/readyz"):
        seconds, answer = timed(lambda path=path: api.http.get(path))  # type: ignore[misc]
        assert answer.status_code == 200, answer.text
        assert seconds < LONG


def test_scripts_of_many_threads_give_their_connections_back(redis_url: str, connection: redis.Redis) -> None:
    with connect(Settings(redis_url=redis_url, redis_timeout=10)) as ours:
        connection.client_pause(500)
        scripts = Scripts(ours)
        answers = at_once([lambda: scripts.states(keys=[])] * 100)

        assert {tuple(answer) for _, answer in answers} == {()}
        seconds, _ = timed(ours.ping)
        assert seconds < LONG
        assert len(ours.connection_pool._in_use_connections) == 0


def test_a_child_process_uses_none_of_its_parents_connections(redis_url: str) -> None:
    with connect(Settings(redis_url=redis_url)) as ours:
        scripts = Scripts(ours)
        parent = ours.client_id()
        scripts.states(keys=[])
        reader, writer = os.pipe()
        if (pid := os.fork()) == 0:
            with suppress(BaseException):
                scripts.states(keys=[])
                os.write(writer, str(ours.client_id()).encode())
            os._exit(0)
        os.waitpid(pid, 0)

        assert int(os.read(reader, 100)) != parent
        assert ours.client_id() == parent
        os.close(reader)
        os.close(writer)


@contextmanager
def listening(serve: Callable[[socket.socket], None] | None = None) -> Iterator[str]:
    """The URL of something that accepts connections and does with each what `serve` says, or does not even that."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def accept() -> None:
            with suppress(OSError):
                while serve is not None:
                    threading.Thread(target=_quietly, args=(serve, listener.accept()[0]), daemon=True).start()

        threading.Thread(target=accept, daemon=True).start()
        yield f"127.0.0.1:{listener.getsockname()[1]}"
        with suppress(OSError):
            listener.shutdown(socket.SHUT_RDWR)


def _quietly(serve: Callable[[socket.socket], None], sock: socket.socket) -> None:
    with sock, suppress(OSError):
        serve(sock)


def drip(sock: socket.socket) -> None:
    """Say something now and then, so that no single read takes long, and never a whole reply."""
    sock.sendall(b"$1000\r\n")
    while True:
        time.sleep(0.1)
        sock.sendall(b"x")


@pytest.mark.parametrize(("scheme", "serve"), [("redis", None), ("rediss", None), ("redis", drip)])
def test_a_request_waits_for_its_time_however_many_commands_it_has(
    scheme: str, serve: Callable[[socket.socket], None] | None
) -> None:
    with listening(serve) as address, connect(Settings(redis_url=f"{scheme}://{address}", redis_timeout=0.5)) as ours:
        began = time.monotonic()
        with patience.within(0.5):
            for _ in range(20):
                with pytest.raises((redis.exceptions.TimeoutError, redis.exceptions.ConnectionError)):
                    ours.ping()

        assert time.monotonic() - began < 8


def test_once_redis_was_waited_for_in_vain_others_fail_at_once_until_it_answers(
    server: EmbeddedRedis, tmp_path: Path
) -> None:
    with connect(Settings(redis_url=server.url, redis_timeout=1)) as ours:
        ours.ping()

        def fails() -> None:
            with pytest.raises(redis.exceptions.TimeoutError):
                ours.ping()

        with hanging(server):
            fails()
            began = time.monotonic()
            at_once([fails] * 200)
            assert time.monotonic() - began < 5
        until(lambda: _answers(ours))
        assert all(answer for _, answer in at_once([ours.ping] * 20))


def _answers(client: redis.Redis) -> bool:
    try:
        return bool(client.ping())
    except redis.exceptions.TimeoutError:
        return False


def _connections(api: Api) -> int:
    pid = api.process.pid  # type: ignore[attr-defined]
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return sum(len(list(Path(f"/proc/{child}/fd").iterdir())) for child in children)


def _done(api: Api, job_id: str) -> Any:
    def is_done() -> bool:
        answer = api.http.get(f"/v1/jobs/{job_id}")
        return answer.status_code == 200 and bool(answer.json()["done"])

    until(is_done, within=30)
    return api.job(job_id)
