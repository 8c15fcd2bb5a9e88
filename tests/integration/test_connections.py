"""Connections to a web process: more of them than threads, and each gets its answers."""

from __future__ import annotations

import json
import signal
import socket
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from typing import Any

import pytest

from tests.deployment import Api, Deployment, until

MODELS = """
    from service import model

    @model
    def add(x: int) -> int:
        return x + 1
"""

GET = b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n"


def connected(api: Api, stack: ExitStack) -> socket.socket:
    return stack.enter_context(socket.create_connection(("127.0.0.1", api.port), timeout=20))


def answer(client: socket.socket) -> tuple[int, Any]:
    """Status and JSON of the next answer on a connection."""
    data = b""
    while b"\r\n\r\n" not in data:
        data += _received(client, 1)
    head, _, body = data.partition(b"\r\n\r\n")
    length = int(head.lower().partition(b"content-length: ")[2].split(b"\r\n")[0])
    while len(body) < length:
        body += _received(client, length - len(body))
    return int(head.split()[1]), json.loads(body)


def _received(client: socket.socket, most: int) -> bytes:
    data = client.recv(most)
    assert data, "the connection was closed"
    return data


@pytest.fixture
def api(deployed: Deployment) -> Api:
    return deployed.web(WEB_THREADS="2")


def test_connections_that_say_nothing_take_no_thread(api: Api) -> None:
    with ExitStack() as stack:
        silent = [connected(api, stack) for _ in range(50)]

        assert api.http.get("/healthz").status_code == 200

        for client in silent:
            client.sendall(GET)
        assert [answer(client)[0] for client in silent] == 50 * [200]


def test_requests_that_come_at_once_on_one_connection_are_all_answered_in_order(api: Api) -> None:
    with ExitStack() as stack:
        client = connected(api, stack)
        paths = ["/healthz", "/v1/models/missing", "/healthz", "/v1/jobs/missing", "/healthz"]

        client.sendall(b"".join(f"GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode() for path in paths))

        assert [answer(client)[0] for _ in paths] == [200, 404, 200, 404, 200]


def test_a_request_that_comes_in_pieces_is_answered(api: Api) -> None:
    with ExitStack() as stack:
        client, other = connected(api, stack), connected(api, stack)
        client.sendall(GET[:20])
        other.sendall(GET)
        assert answer(other)[0] == 200

        client.sendall(GET[20:])

        assert answer(client)[0] == 200


def test_a_connection_serves_request_after_request_beside_many_others(deployed: Deployment) -> None:
    deployed.write(MODELS)
    deployed.worker()
    api = deployed.web(WEB_THREADS="4")
    until(lambda: api.http.get("/v1/models/add").status_code == 200)

    def many(number: int) -> list[int]:
        with ExitStack() as stack:
            client, outputs = connected(api, stack), []
            for turn in range(20):
                body = json.dumps({"input": {"x": number * 1000 + turn}}).encode()
                head = f"POST /v1/models/add/jobs HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(body)}\r\n"
                client.sendall(f"{head}Content-Type: application/json\r\n\r\n".encode() + body)
                status, job = answer(client)
                assert status == 202
                outputs.append(job["input"]["x"])
            return outputs

    with ThreadPoolExecutor(24) as pool:
        for number, outputs in enumerate(pool.map(many, range(24))):
            assert outputs == [number * 1000 + turn for turn in range(20)]


def test_a_process_that_is_asked_to_end_does_so_soon_though_connections_are_open(api: Api) -> None:
    with ExitStack() as stack:
        clients = [connected(api, stack) for _ in range(20)]
        for client in clients[:10]:
            client.sendall(GET)
            assert answer(client)[0] == 200
        process = api.process  # type: ignore[attr-defined]

        process.send_signal(signal.SIGTERM)

        assert process.wait(timeout=9) == 0  # not the grace period of 10 s
        for client in clients:
            assert client.recv(1) == b""
