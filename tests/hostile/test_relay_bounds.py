"""What one socket may cost: wishes, feeds, snapshots, frames. The memory is that of the web process."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.deployment import NO_TLS, Api, deployment, until
from tests.raw_sockets import (
    BINARY,
    CLOSE,
    PING,
    PONG,
    TEXT,
    close_code,
    frames,
    masked,
    memory,
    told,
    upgraded,
    web_pid,
)
from tests.suspension import suspended

MODELS = """
    from collections.abc import Iterator
    from service import model

    @model
    def echo(value: str = "") -> str:
        return value

    @model
    def story(count: int, size: int) -> Iterator[str]:
        for number in range(count):
            yield "x" * size

    @model(timeout=60)
    def stuck(count: int, size: int) -> Iterator[str]:
        import time
        for number in range(count):
            yield "x" * size
        time.sleep(30)
"""

ENVIRONMENT = {"MAX_BODY_BYTES": str(3 * 2**20)}
MIB = 2**20


@pytest.fixture
def web(service: Api, tmp_path: Path) -> Iterator[Api]:
    """A web process of this test's own, whose memory is measured."""
    with deployment(tmp_path, service.redis_url) as each:  # type: ignore[attr-defined]
        api = each.web(LOG_LEVEL="warning")
        sock = upgraded(api, "/v1/events")  # so that what is made once is there
        sock.sendall(masked(TEXT, b'{"subscribe": [{"job_id": "x"}]}'))
        told(sock, 1)
        sock.close()
        yield api


def grows_by(api: Api, do: Callable[[], Any], watch_for: float = 3.0) -> int:
    """By how many bytes at most a web process grows while something is done, and some seconds after it."""
    pid = web_pid(api)
    before = memory(pid)
    most = 0
    do()
    over = time.monotonic() + watch_for
    while time.monotonic() < over:
        most = max(most, memory(pid) - before)
        assert httpx.get(f"{api.http.base_url}/healthz", timeout=20, verify=NO_TLS).status_code == 200
        time.sleep(0.05)
    return most


def send_while_it_is_read(sock: Any, pieces: Iterator[bytes], within: float = 5.0) -> None:
    """Send as long as the other end takes it."""
    sock.settimeout(within)
    with suppress(TimeoutError, ConnectionError):
        for piece in pieces:
            sock.sendall(piece)


def subscribe(entries: list[str]) -> bytes:
    return masked(TEXT, f'{{"subscribe": [{",".join(entries)}]}}'.encode())


def ids(start: int, count: int) -> list[str]:
    return [f'{{"job_id": "job-{number:080d}"}}' for number in range(start, start + count)]


def test_a_hundred_messages_of_a_mib_of_wishes_cost_some_mib(web: Api) -> None:
    sock = upgraded(web, "/v1/events", receive_buffer=4096)
    messages = (subscribe(ids(number * 9_900, 9_900)) for number in range(100))

    grown = grows_by(web, lambda: send_while_it_is_read(sock, messages))

    assert grown < 60 * MIB
    sock.close()


def test_a_hundred_messages_of_the_smallest_wishes_cost_some_mib(web: Api) -> None:
    sock = upgraded(web, "/v1/events", receive_buffer=4096)
    messages = (subscribe(['{"all":true}'] * 10_000) for number in range(100))

    grown = grows_by(web, lambda: send_while_it_is_read(sock, messages))

    assert grown < 60 * MIB
    sock.close()


def test_thirty_thousand_feeds_in_one_message_are_refused(web: Api) -> None:
    sock = upgraded(web, "/v1/events")
    entries = [f'{{"model": "m{number}"}}' for number in range(30_000)]

    grown = grows_by(web, lambda: sock.sendall(subscribe(entries)))

    (event,) = told(sock, 1)
    assert event["data"]["type"] == "invalid-message"
    assert "10000" in event["data"]["title"]
    assert grown < 60 * MIB
    sock.close()


def test_more_feeds_than_a_hundred_are_refused_one_by_one(service: Api, web: Api) -> None:
    sock = upgraded(web, "/v1/events")
    for start in range(0, 9_000, 3_000):
        sock.sendall(subscribe([f'{{"model": "m{number}"}}' for number in range(start, start + 3_000)]))

    kinds = {event["data"]["type"] for event in told(sock, 9_000)}

    assert kinds == {"model-not-found", "too-many-feeds"}
    sock.close()


def test_snapshots_and_logs_of_many_large_jobs_wait_for_a_socket_that_does_not_read(service: Api, web: Api) -> None:
    jobs = [service.done(service.submit("story", input={"count": 100, "size": 50_000})["id"]) for _ in range(6)]
    sockets = [upgraded(web, "/v1/events", receive_buffer=4096) for _ in range(10)]

    def ask() -> None:
        for sock in sockets:
            sock.sendall(subscribe([f'{{"job_id": "{job["id"]}", "after": "0"}}' for job in jobs]))

    grown = grows_by(web, ask, watch_for=5)

    assert grown < 10 * 15 * MIB  # of 5 MiB a log, 6 logs, 10 sockets
    for sock in sockets:
        sock.close()


def test_a_flood_of_pings_is_closed_and_costs_no_memory(service: Api, web: Api) -> None:
    sock = upgraded(web, "/v1/events", receive_buffer=4096)
    pings = (masked(PING, b"x" * 125) * 1000 for _ in range(500))

    grown = grows_by(web, lambda: send_while_it_is_read(sock, pings))

    assert grown < 30 * MIB
    sock.close()


def test_a_client_that_pings_too_often_is_told_why_it_is_closed(web: Api) -> None:
    sock = upgraded(web, "/v1/events")
    sock.sendall(masked(PING) * 3_000)

    seen = list(frames(sock))

    assert [opcode for opcode, _ in seen[:-1]] == [PONG] * (len(seen) - 1)
    assert seen[-1][0] == CLOSE
    assert int.from_bytes(seen[-1][1][:2], "big") == 1008
    assert json.loads(seen[-1][1][2:])["type"] == "too-many-frames"


@pytest.mark.parametrize("path", ["/v1/events", "job"])
@pytest.mark.parametrize("piece", [b"", b"x"])
def test_a_message_of_endless_fragments_is_closed(service: Api, web: Api, path: str, piece: bytes) -> None:
    with suspended(service):
        job = service.submit("echo")
        sock = upgraded(web, job["urls"]["events"] if path == "job" else path)
        fragments = (masked(0, piece, final=False) * 1000 for _ in range(1000))
        sock.sendall(masked(TEXT, piece, final=False))

        grown = grows_by(web, lambda: send_while_it_is_read(sock, fragments))

        service.cancel(job["id"])
    assert grown < 30 * MIB
    sock.close()


@pytest.mark.parametrize("opcode", [TEXT, BINARY])
@pytest.mark.parametrize("length", [2**30, 2**40, 2**63 - 1])
def test_a_frame_that_says_to_be_huge_is_closed_when_it_is(web: Api, opcode: int, length: int) -> None:
    sock = upgraded(web, "/v1/events")
    sock.sendall(masked(opcode, b"x" * 1000, length=length))

    grown = grows_by(web, lambda: send_while_it_is_read(sock, iter([b"x" * 65536] * 64)), watch_for=1)

    assert grown < 30 * MIB
    with suppress(ConnectionError):
        assert close_code(sock) in (1002, 1009)
    sock.close()


@pytest.mark.parametrize(
    ("junk", "code"),
    [
        (masked(0xB, b"x"), 1002),  # no such opcode
        (masked(PING, b"x" * 126), 1002),  # too long for a control frame
        (masked(PING, b"x", final=False), 1002),
        (masked(0, b"x"), 1002),  # goes on with nothing
        (masked(TEXT, b"\xff"), 1007),
        (masked(CLOSE, b"x"), 1002),
        (masked(CLOSE, b"\x03\xed"), 1002),  # 1005 is never said
        (b"\xf1\x80" + bytes(4), 1002),  # reserved bits
        (b"\x81\x05hello", 1002),  # no mask
        (b"GET / HTTP/1.1\r\n\r\n", 1002),
    ],
    ids=range(10),
)
def test_what_breaks_the_protocol_is_closed_and_what_follows_is_passed_over(web: Api, junk: bytes, code: int) -> None:
    sock = upgraded(web, "/v1/events")

    grown = grows_by(web, lambda: send_while_it_is_read(sock, iter([junk, *[junk + b"x" * 65536] * 100])), watch_for=1)

    with suppress(ConnectionError):
        assert close_code(sock) == code
    assert grown < 30 * MIB
    sock.close()


def test_control_frames_after_the_close_end_the_connection(web: Api) -> None:
    sock = upgraded(web, "/v1/events")
    sock.sendall(masked(CLOSE, b"\x03\xe8") + masked(PING) * 1000 + masked(CLOSE) * 1000)

    seen = list(frames(sock))

    assert [opcode for opcode, _ in seen] == [CLOSE]


def test_while_one_socket_floods_the_others_are_told_in_time(service: Api) -> None:
    flooding = upgraded(service, "/v1/events", receive_buffer=4096)
    send_while_it_is_read(flooding, iter([masked(PING, b"x") * 20_000] * 20), within=1)
    watcher = upgraded(service, "/v1/events")
    watcher.sendall(subscribe(['{"model": "echo"}']))
    began = time.monotonic()
    for _ in range(20):
        service.submit("echo", wait=10)

    assert time.monotonic() - began < 20
    flooding.close()
    watcher.close()


# --- snapshots ------------------------------------------------------------------------------------


def snapshot(api: Api, job_id: str) -> Any:
    sock = api.socket(f"/v1/jobs/{job_id}/events")
    event = json.loads(sock.recv())
    sock.shutdown()
    assert event["type"] == "snapshot"
    return event["data"]


def test_a_snapshot_leaves_out_an_input_over_64_kib_and_says_so(service: Api) -> None:
    job = service.submit("echo", wait=10, input={"value": "é" * 70_000}, metadata={"note": "x" * 10_000})

    data = snapshot(service, job["id"])

    assert (data["input"], data["output"]) == (None, None)
    assert sorted(data["left_out"]) == ["input", "output"]
    assert data["result_url"] == job["urls"]["result"]
    assert {**data, "input": job["input"], "output": job["output"]}.items() >= job.items()


def test_a_snapshot_leaves_out_many_outputs_that_are_over_64_kib_together(service: Api) -> None:
    job = service.submit("stuck", input={"count": 10, "size": 10_000})
    until(lambda: len(service.log(job["id"])) >= 12)

    data = snapshot(service, job["id"])
    service.cancel(job["id"])

    assert (data["outputs"], data["left_out"]) == (None, ["outputs"])
    assert len(json.dumps(data)) < 64 * 1024


def test_a_small_snapshot_has_all_and_says_nothing_of_what_is_left_out(service: Api) -> None:
    job = service.submit("echo", wait=10, input={"value": "x" * 60_000})

    assert snapshot(service, job["id"])["input"] == job["input"]
