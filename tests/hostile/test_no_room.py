"""A web process that has no thread, no descriptor or no connection left goes on with what it has."""

from __future__ import annotations

import os
import resource
import threading
import time
from contextlib import ExitStack, suppress
from pathlib import Path

import redis

from tests.deployment import Api, Deployment, children, until
from tests.raw_http import Raw, request


def server_of(api: Api) -> int:
    """The process that has the connections."""
    (pid,) = children(api.process.pid)  # type: ignore[attr-defined]
    return pid


def files(pid: int) -> int:
    return len(os.listdir(f"/proc/{pid}/fd"))


def cpu(pid: int) -> float:
    """Seconds of CPU that a process has used."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def alive(api: Api) -> bool:
    with suppress(OSError, AssertionError), Raw(api.port) as client:
        client.settimeout(3)
        client.sendall(request("GET", "/healthz", Connection="close"))
        return client.answer().status == 200
    return False


def test_health_is_told_while_all_threads_wait_for_a_redis_that_hangs(
    deployed: Deployment, connection: redis.Redis
) -> None:
    api = deployed.web(WEB_THREADS="2")
    usual = api.http.get("/healthz", headers={"X-Request-ID": "mine"})
    with ExitStack() as stack:
        connection.execute_command("CLIENT", "PAUSE", "6000", "ALL")
        callers = [stack.enter_context(Raw(api.port)) for _ in range(20)]
        for caller in callers:
            caller.sendall(request("GET", "/v1/models/none"))
        kept, began = stack.enter_context(Raw(api.port)), time.monotonic()

        for _ in range(5):
            kept.sendall(request("GET", "/healthz", X_Request_ID="mine"))
            answer = kept.answer()
            assert answer.json() == {"status": "alive"}
            assert set(answer.headers) == {name.lower() for name in usual.headers}
            assert answer.headers["x-request-id"] == "mine"
        assert time.monotonic() - began < 5

        assert {caller.answer().status for caller in callers} <= {404, 503}


def test_half_requests_are_timed_and_wrong_ones_refused_while_all_threads_wait(
    deployed: Deployment, connection: redis.Redis
) -> None:
    api = deployed.web(WEB_THREADS="2", HEAD_TIMEOUT="1")
    with ExitStack() as stack:
        connection.execute_command("CLIENT", "PAUSE", "6000", "ALL")
        callers = [stack.enter_context(Raw(api.port)) for _ in range(4)]
        for caller in callers:
            caller.sendall(request("GET", "/v1/models/none"))
        began = time.monotonic()
        half, wrong = stack.enter_context(Raw(api.port)), stack.enter_context(Raw(api.port))
        half.sendall(b"GET / HTTP/1.1\r\n")
        wrong.sendall(b"GET /\r\n\r\n")

        wrong.answer().problem(400)
        half.answer().problem(408)

        assert time.monotonic() - began < 5
        assert {caller.answer().status for caller in callers} <= {404, 503}


def test_a_process_without_descriptors_lives_and_takes_connections_when_there_are_some(deployed: Deployment) -> None:
    api = deployed.web(WEB_THREADS="2")
    pid = server_of(api)
    with ExitStack() as stack:
        api.http.get("/v1/models")
        idle = stack.enter_context(Raw(api.port))
        idle.sendall(request("GET", "/healthz"))
        assert idle.answer().status == 200
        resource.prlimit(pid, resource.RLIMIT_NOFILE, (files(pid) + 20, 20_000))
        crowd = [stack.enter_context(Raw(api.port)) for _ in range(60)]
        for client in crowd:
            client.sendall(b"GET / HTTP/1.1\r\n")  # none of them is idle
        until(lambda: "can be accepted" in api.process.log.read_text())  # type: ignore[attr-defined]
        used, began = cpu(pid), time.monotonic()
        assert idle.has_ended()  # it made room
        while time.monotonic() - began < 2:
            time.sleep(0.1)
        assert cpu(pid) - used < 1  # it does not ask again and again
        assert server_of(api) == pid

    until(lambda: alive(api))
    assert server_of(api) == pid
    assert api.process.log.read_text().count("can be accepted") <= 3  # type: ignore[attr-defined]


def test_more_connections_than_are_allowed_close_those_that_say_nothing(deployed: Deployment) -> None:
    api = deployed.web(WEB_THREADS="2", MAX_CONNECTIONS="30")
    with ExitStack() as stack:
        silent = [stack.enter_context(Raw(api.port)) for _ in range(60)]

        assert alive(api)
        assert silent[0].has_ended()


def test_a_thousand_half_requests_and_clients_that_come_and_go_leave_nothing_behind(deployed: Deployment) -> None:
    api = deployed.web(WEB_THREADS="2", HEAD_TIMEOUT="2")
    assert alive(api)
    pid = server_of(api)
    api.http.get("/v1/models")
    before = files(pid)

    def crowd() -> None:
        with ExitStack() as stack:
            for number in range(250):
                client = stack.enter_context(Raw(api.port))
                client.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n"[: number % 25])
            assert alive(api)

    threads = [threading.Thread(target=crowd) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    until(lambda: files(pid) <= before)
    assert "Traceback" not in api.process.log.read_text()  # type: ignore[attr-defined]
