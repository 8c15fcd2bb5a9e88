"""Clients that do not read their answers, or slowly: no thread waits for them, and those who read get every byte."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from pathlib import Path

import httpx
import pytest

from tests.deployment import NO_TLS, Api, deployment
from tests.raw_http import Raw, request

MODELS = """
    from service import model

    @model
    def large(size: int) -> str:
        return "x" * size
"""

SIZE = 9_000_000
FEW = 4096  # bytes that the kernel takes for a client that does not read
MORE = 65536  # of one whose whole answer is read in the end: in small steps that takes minutes on a busy machine


@pytest.fixture(scope="module")
def path(service: Api) -> str:
    """Where there is a large answer."""
    job = service.submit("large", wait=30, input={"size": SIZE})
    assert job["done"]
    location: str = job["urls"]["self"]
    return location


def web(service: Api, folder: Path, **environment: str) -> Iterator[Api]:
    """Another web process of the same service, of two threads."""
    with deployment(folder, service.redis_url) as each:  # type: ignore[attr-defined]
        api = each.web(WEB_THREADS="2", **environment)
        yield api
        assert "Traceback" not in api.process.log.read_text()  # type: ignore[attr-defined]


@pytest.fixture
def api(service: Api, tmp_path: Path) -> Iterator[Api]:
    yield from web(service, tmp_path, SEND_TIMEOUT="120")  # the machine may be slower than it gives by itself


@pytest.fixture
def strict(service: Api, tmp_path: Path) -> Iterator[Api]:
    """One that gives up soon, and keeps little."""
    yield from web(service, tmp_path, SEND_TIMEOUT="2", MAX_PENDING_BYTES=str(4 * SIZE))


def serves(api: Api) -> None:
    with httpx.Client(base_url=api.http.base_url, timeout=60, verify=NO_TLS) as stranger:
        for _ in range(10):
            assert stranger.get("/healthz").status_code == 200
            assert stranger.get("/v1/models").status_code == 200


def test_clients_that_read_nothing_take_no_thread(api: Api, path: str) -> None:
    with ExitStack() as stack:
        clients = [stack.enter_context(Raw(api.port, MORE)) for _ in range(12)]
        for client in clients:
            client.sendall(request("GET", path))
        serves(api)

        expected = hashlib.sha256(api.http.get(path).content).digest()
        for client in clients:
            answer = client.answer()
            assert (answer.status, hashlib.sha256(answer.body).digest()) == (200, expected)


def test_requests_behind_a_large_answer_are_answered_in_order(api: Api, path: str) -> None:
    with Raw(api.port, FEW) as client:
        client.sendall(b"".join(request("GET", each) for each in (path, "/healthz", path, "/v1/jobs/none", "/healthz")))

        answers = [client.answer() for _ in range(5)]

    assert [answer.status for answer in answers] == [200, 200, 200, 404, 200]
    assert len(answers[0].body) == len(answers[2].body) > SIZE
    assert answers[1].json() == answers[4].json() == {"status": "alive"}


def test_a_client_that_has_ended_its_side_and_reads_slowly_gets_all_of_its_answer(api: Api, path: str) -> None:
    with Raw(api.port, FEW) as client:
        client.sendall(request("GET", path))
        client.half_close()
        serves(api)

        assert len(client.answer().body) > SIZE
        assert client.has_ended()


def test_an_answer_that_is_the_last_of_its_connection_comes_whole(api: Api, path: str) -> None:
    with Raw(api.port, FEW) as client:
        client.sendall(request("GET", path, Connection="close"))
        serves(api)

        assert len(client.answer().body) > SIZE
        assert client.has_ended()


@pytest.mark.parametrize("file", ["/static/watch.js", "/dashboard/"])
def test_files_and_pages_are_whole_for_a_client_that_reads_slowly(api: Api, file: str) -> None:
    expected = api.http.get(file, headers={"Accept-Encoding": "identity"})
    with ExitStack() as stack:
        clients = [stack.enter_context(Raw(api.port, FEW)) for _ in range(12)]
        for client in clients:
            client.sendall(20 * request("GET", file))
        serves(api)
        for client in clients[:3]:
            answers = [client.answer() for _ in range(20)]
            assert {(answer.status, len(answer.body)) for answer in answers} == {
                (expected.status_code, len(expected.content))
            }


def test_a_client_that_reads_nothing_for_long_is_closed(strict: Api, path: str) -> None:
    with Raw(strict.port, FEW) as lazy, Raw(strict.port, FEW) as slow:
        lazy.sendall(request("GET", path))
        slow.sendall(request("GET", path))
        assert slow.recv(1) == b"H"

        began, received = time.monotonic(), 1
        while time.monotonic() - began < 8:  # it reads now and then: more than the time that one may read nothing
            received += len(slow.recv(FEW))
            time.sleep(0.3)
        while received < SIZE:
            data = slow.recv(1 << 20)
            assert data, "the client that reads was closed"
            received += len(data)

        assert all_of(lazy) < SIZE


def all_of(client: Raw) -> int:
    """How many bytes come until the connection ends."""
    count = 0
    with suppress(ConnectionResetError):
        while data := client.recv(1 << 20):
            count += len(data)
    return count


def test_answers_that_nobody_reads_do_not_fill_the_memory(strict: Api, path: str) -> None:
    serves(strict)
    before, most = memory(strict), 0
    with ExitStack() as stack, ThreadPoolExecutor(1) as pool:
        for _ in range(40):
            stack.enter_context(Raw(strict.port, FEW)).sendall(request("GET", path))
        # Behind all of them.
        last = pool.submit(httpx.get, f"{strict.http.base_url}/v1/models", timeout=120, verify=NO_TLS)
        while not last.done():
            most = max(most, memory(strict) - before)
            time.sleep(0.05)
        assert last.result().status_code == 200
    # Four of them may be kept, and some are being made; there would be 40.
    assert most < 30 * SIZE


def memory(api: Api) -> int:
    """Resident memory of a web process and what it started, bytes."""
    pid = api.process.pid  # type: ignore[attr-defined]
    pids = [pid, *map(int, Path(f"/proc/{pid}/task/{pid}/children").read_text().split())]
    return sum(int(Path(f"/proc/{each}/statm").read_text().split()[1]) * 4096 for each in pids)


def test_half_bodies_do_not_fill_the_memory_and_who_has_to_go_is_told(service: Api, tmp_path: Path) -> None:
    most = 2**20
    for api in web(service, tmp_path, MAX_PENDING_BYTES=str(most), MAX_BODY_BYTES=str(most)):
        body = json.dumps({"input": {"size": 1}, "metadata": {"x": "y" * 200_000}}).encode()
        sent = request("POST", "/v1/models/large/jobs", body)
        with ExitStack() as stack:
            clients = []
            for _ in range(12):
                clients.append(stack.enter_context(Raw(api.port)))
                clients[-1].sendall(sent[:-1])
            answer = clients[0].answer()  # the first one's time would be over first
            assert answer.problem(503)["type"] == "/problems/unavailable"
            assert int(answer.headers["retry-after"]) >= 1

            clients[-1].sendall(sent[-1:])
            assert clients[-1].answer().status in (202, 422)
            serves(api)
