"""Those who wait and hang up, at any moment and in any way: nobody else is told of it, and the process lives."""

from __future__ import annotations

import asyncio
import random
import socket
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import pytest
import redis

from service.relay.loop import Relay
from service.relay.peer import Peer
from service.settings import Settings
from service.store.jobs import Jobs
from tests.deployment import Api, until
from tests.raw_sockets import asked, web_pid
from tests.suspension import suspended
from tests.watchers import cut, over_event_stream, over_websocket

MODELS = """
    import time
    from collections.abc import Iterator
    from service import model

    @model
    def echo(value: str = "") -> str:
        return value

    @model(timeout=120)
    def story(count: int = 5, pause: float = 0.0) -> Iterator[str]:
        for number in range(count):
            yield str(number)
            time.sleep(pause)

    @model
    def large(size: int) -> str:
        return "x" * size
"""

SECONDS = 12.0


def test_forty_who_hang_up_at_the_moment_of_their_answer_end_nobody_elses_watch(service: Api) -> None:
    pid = web_pid(service)
    told = service.submit("story", input={"count": 300, "pause": SECONDS / 300})
    over = time.monotonic() + SECONDS

    def ask_and_go(number: int) -> None:
        rng = random.Random(number)
        while time.monotonic() < over:
            caller = asked(service, f"/v1/jobs/{waiting['id']}?wait=0.2")
            time.sleep(0.2 + rng.uniform(-0.01, 0.02))
            caller.close() if rng.random() < 0.5 else cut(caller)

    with suspended(service), ThreadPoolExecutor(41) as pool:
        waiting = service.submit("echo")
        watching = pool.submit(lambda: watched(service, told["id"]))
        for each in [pool.submit(ask_and_go, number) for number in range(40)]:
            each.result()
        seen = watching.result(timeout=60)
        service.cancel(waiting["id"])

    assert web_pid(service) == pid
    assert seen == service.log(told["id"])[: len(seen)]
    assert [event["type"] for event in seen].count("output") == 300


def watched(api: Api, job_id: str) -> list[dict[str, Any]]:
    with over_websocket(api, job_id, "?after=0") as events:
        return list(events)


@pytest.mark.parametrize("how", ["close", "cut"])
def test_those_who_hang_up_in_the_middle_of_a_large_answer_end_nobody_else(service: Api, how: str) -> None:
    pid = web_pid(service)
    with suspended(service):
        job = service.submit("large", input={"size": 5 * 2**20})
        callers = [asked(service, f"/v1/jobs/{job['id']}?wait=20") for _ in range(20)]
        streams = [asked(service, job["urls"]["events"] + "?after=0", Accept="text/event-stream") for _ in range(5)]
    service.done(job["id"])
    for caller in callers:
        assert caller.recv(1000)
        caller.close() if how == "close" else cut(caller)
    for stream in streams:
        cut(stream)

    for _ in range(5):
        assert service.submit("echo", wait=10, input={"value": "x"})["output"] == "x"
    assert web_pid(service) == pid


def test_watchers_that_come_and_go_at_once_end_nobody_else(service: Api) -> None:
    pid = web_pid(service)
    with suspended(service):
        job = service.submit("echo")
        with over_event_stream(service, job["id"]) as events:
            assert next(events)["type"] == "snapshot"
            for number in range(200):
                cut(asked(service, job["urls"]["events"], Accept="text/event-stream" if number % 2 else "*/*"))
                service.socket(job["urls"]["events"]).shutdown()
            service.cancel(job["id"])
            assert [event["type"] for event in events] == ["canceled"]
    assert web_pid(service) == pid


# --- a relay in this process, whose steps a test chooses ------------------------------------------


class Speaker(Peer):
    """A peer that is told nothing."""

    def __init__(self, relay: Relay) -> None:
        super().__init__(relay)
        self.gone = threading.Event()

    def begin(self) -> None:
        """Nothing to do."""

    def beat(self) -> None:
        """Nothing to do."""

    def restart(self) -> None:
        self.abort()

    def left(self) -> None:
        self.gone.set()


@pytest.fixture
def crashes() -> list[str]:
    return []


@pytest.fixture
def relay(connection: redis.Redis, redis_url: str, crashes: list[str]) -> Iterator[Relay]:
    """A relay whose crash a test sees."""
    each = Relay(redis_url, connection, Jobs(connection, Settings()), 100, lambda: crashes.append("crashed"))
    _kept.append(each)
    yield each
    each.close(5)


_kept: list[Relay] = []  # its thread goes on: what is collected here would be taken for forgotten


Hold = Callable[..., tuple[Speaker, socket.socket]]


@pytest.fixture
def held(relay: Relay) -> Iterator[Hold]:
    """Makes peers of the relay, each with its client."""
    clients: list[socket.socket] = []

    def hold(peer_class: type[Speaker] = Speaker) -> tuple[Speaker, socket.socket]:
        listener = socket.create_server(("127.0.0.1", 0))
        clients.append(socket.create_connection(listener.getsockname()))
        ours, _ = listener.accept()
        listener.close()
        peers: list[Speaker] = []

        def make() -> Speaker:
            peers.append(peer_class(relay))
            return peers[0]

        relay.admit()
        relay.hold(ours, make, "the-request")
        until(lambda: bool(peers) and peers[0]._transport is not None)
        return peers[0], clients[-1]

    yield hold
    for client in clients:
        client.close()


def on_loop(relay: Relay, step: Any) -> None:
    """Do something on a relay's loop, and wait until it is done."""
    done = threading.Event()

    def call() -> None:
        try:
            step()
        finally:
            done.set()

    assert relay._loop is not None
    relay._loop.call_soon_threadsafe(call)
    assert done.wait(10)


def test_the_end_of_an_answer_for_one_who_has_gone_ends_that_one(relay: Relay, held: Hold, crashes: list[str]) -> None:
    peer, client = held()
    other, _ = held()

    def finish() -> None:
        cut(client)
        time.sleep(0.05)  # until the kernel knows: the loop does not yet
        peer.finish()

    on_loop(relay, finish)

    assert peer.gone.wait(10)
    assert not crashes
    assert not other.gone.is_set()


def test_one_who_goes_while_the_last_of_a_large_answer_is_written_ends_that_one(
    relay: Relay, held: Hold, crashes: list[str]
) -> None:
    for _ in range(20):
        peer, client = held()
        on_loop(relay, partial(say_much, peer))
        client.recv(100_000)
        cut(client)
        assert peer.gone.wait(15)

    assert not crashes
    until(lambda: relay._waiters == 0)


def say_much(peer: Peer) -> None:
    peer.write(b"x" * 5_000_000)
    peer.finish()


def test_a_large_answer_arrives_whole_before_its_end(relay: Relay, held: Hold) -> None:
    peer, client = held()

    on_loop(relay, lambda: (peer.write(b"x" * 5_000_000), peer.write(b"end"), peer.finish()))
    received = b""
    while data := client.recv(65536):
        received += data

    assert len(received) == 5_000_003
    assert received.endswith(b"end")


def fails(*_: Any) -> None:
    raise ZeroDivisionError("in a step of a peer")


@pytest.mark.parametrize("step", ["begin", "hear", "eof_received", "left", "look_at_close", "resumed"])
def test_an_error_in_any_step_of_a_peer_ends_that_one_and_says_whose_it_was(
    relay: Relay, held: Hold, crashes: list[str], step: str, caplog: pytest.LogCaptureFixture
) -> None:
    other, _ = held()
    broken = type("Broken", (Speaker,), {step: fails})
    peer, client = held(broken)

    client.sendall(b"hello")
    if step in ("look_at_close", "resumed"):
        on_loop(relay, lambda: (peer.write(b"x" * 5_000_000), peer.close_soon()))
    while step == "resumed" and not peer.gone.is_set():
        client.recv(65536)
    if step == "eof_received":
        client.shutdown(socket.SHUT_WR)
    if step == "left":
        cut(client)

    until(lambda: relay._waiters == 1)
    assert not crashes
    assert not other.gone.is_set()
    until(lambda: any(getattr(each, "request_id", "") == "the-request" and each.exc_info for each in caplog.records))


def test_an_error_in_a_task_of_a_peer_ends_that_one(relay: Relay, held: Hold, crashes: list[str]) -> None:
    async def task() -> None:
        await asyncio.sleep(0)
        raise ZeroDivisionError("in a task")

    peer, _ = held()
    other, _ = held()

    on_loop(relay, lambda: relay.start(task(), peer))

    assert peer.gone.wait(10)
    assert not crashes
    assert not other.gone.is_set()


def test_what_belongs_to_nobody_is_logged_and_the_loop_goes_on(
    relay: Relay, held: Hold, crashes: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    peer, _ = held()

    for _ in range(1000):
        on_loop(relay, lambda: relay._loop.call_soon(fails))  # type: ignore[union-attr]

    assert not crashes
    assert not peer.gone.is_set()
    lines = [record for record in caplog.records if "on the relay's loop" in record.getMessage()]
    assert 1 <= len(lines) < 100


def test_a_relay_whose_clock_cannot_go_on_ends_its_process(
    relay: Relay, held: Hold, crashes: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    held()

    monkeypatch.setattr(relay, "_tick", fails)

    until(lambda: crashes == ["crashed"])
