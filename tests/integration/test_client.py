"""The Python client: every event once, in order, to the end, whatever happens to the web process."""

from __future__ import annotations

import json
import os
import random
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from wsproto import ConnectionType, WSConnection
from wsproto.events import AcceptConnection, CloseConnection, Request, TextMessage

from service.client import Unreachable, WatchRefused, watch
from tests.deployment import Api, Deployment, free_port, until

MODELS = """
    import time
    from collections.abc import Iterator
    from pathlib import Path
    from service import model

    @model
    def echo(value: str = "") -> str:
        return value

    @model
    def stream(gate: str) -> Iterator[int]:
        number = 0
        while not Path(gate).exists():
            yield number
            number += 1
            time.sleep(0.02)

    @model
    def fails() -> None:
        raise ValueError("no luck")
"""

Event = dict[str, Any]


class Web:
    """A web process, which can be ended and started again at its port."""

    def __init__(self, deployed: Deployment) -> None:
        self.api = deployed.web()
        self._deployed = deployed
        self._process = self.api.process  # type: ignore[attr-defined]

    def kill(self) -> None:
        """SIGKILL, gunicorn's own child included."""
        os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait(10)

    def stop(self) -> None:
        """SIGTERM, to its end."""
        self._process.terminate()
        self._process.wait(20)

    def start(self) -> None:
        """Start it again; it answers later."""
        self._process = self._deployed.run("web", PORT=str(self.api.port))


class Watcher:
    """Watches in a thread of its own; `seen` grows meanwhile."""

    def __init__(self, events: Iterator[Event]) -> None:
        self.seen: list[Event] = []
        self._events = events
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def finish(self, within: float = 60) -> list[Event]:
        """All it saw, once its watch has ended."""
        self._thread.join(within)
        assert not self._thread.is_alive(), f"still watching, after {self.seen[-3:]}"
        return self.seen

    def _run(self) -> None:
        for event in self._events:
            self.seen.append(event)


def address(api: Api) -> str:
    return f"http://127.0.0.1:{api.port}"


def whole_log(api: Api, job_id: str) -> list[Event]:
    """All events of a job that is done, page by page."""
    events: list[Event] = []
    cursor, done = "0", False
    while not done:
        page = api.http.get(f"/v1/jobs/{job_id}/events", params={"after": cursor}).json()
        events += page["events"]
        cursor, done = page["cursor"], page["done"]
    return events


def after(event: Event, log: list[Event]) -> list[Event]:
    """What a log has after an event's id."""
    return [each for each in log if order(each) > order(event)]


def order(event: Event) -> tuple[int, ...]:
    return tuple(map(int, event["id"].split("-")))


# --- a service that is well -----------------------------------------------------------------------


def test_a_job_is_watched_from_its_snapshot_to_its_end(service: Api, tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    job = service.submit("stream", input={"gate": str(gate)})
    events = watch(address(service), job["id"])

    snapshot = next(events)
    seen = [next(events) for _ in range(10)]
    gate.touch()
    seen.extend(events)

    assert (snapshot["type"], snapshot["data"]["id"]) == ("snapshot", job["id"])
    assert seen == after(snapshot, whole_log(service, job["id"]))
    assert seen[-1]["type"] == "finished"


def test_a_job_that_is_over_ends_its_watch_at_once(service: Api) -> None:
    job = service.submit("fails", wait=10)

    last = list(watch(address(service), job["id"]))[-1]

    assert last["type"] == "failed" or (last["type"], last["data"]["done"]) == ("snapshot", True)


def test_a_watch_goes_on_after_any_event_and_from_0_is_the_whole_log(service: Api) -> None:
    job = service.submit("echo", wait=10, input={"value": "x"})
    log = whole_log(service, job["id"])
    assert len(log) == 3

    assert list(watch(address(service), job["id"], after=0)) == log
    for number, event in enumerate(log, start=1):
        assert list(watch(address(service), job["id"], after=event["id"])) == log[number:]


def test_a_watch_that_is_left_leaves_no_thread_and_no_socket(service: Api, tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    job = service.submit("stream", input={"gate": str(gate)})
    events = watch(address(service), job["id"])
    threads, files = threading.active_count(), len(os.listdir("/proc/self/fd"))
    next(events)
    assert len(os.listdir("/proc/self/fd")) == files + 1

    events.close()

    assert (threading.active_count(), len(os.listdir("/proc/self/fd"))) == (threads, files)
    gate.touch()


def test_an_unknown_job_is_refused_with_4404(service: Api) -> None:
    with pytest.raises(WatchRefused, match="no job has this id") as refused:
        next(watch(address(service), "unknown"))

    assert (refused.value.code, refused.value.type) == (4404, "job-not-found")


def test_an_erased_job_is_refused_with_4410(service: Api) -> None:
    job = service.submit("echo", wait=10)
    service.http.delete(job["urls"]["self"])

    with pytest.raises(WatchRefused) as refused:
        next(watch(address(service), job["id"]))

    assert (refused.value.code, refused.value.type) == (4410, "job-gone")


def test_a_cursor_that_is_none_is_refused_with_4400(service: Api) -> None:
    job = service.submit("echo", wait=10)

    with pytest.raises(WatchRefused) as refused:
        next(watch(address(service), job["id"], after="junk"))

    assert (refused.value.code, refused.value.type) == (4400, "invalid-cursor")


def test_a_server_that_is_another_one_is_refused_with_its_status(service: Api) -> None:
    with pytest.raises(WatchRefused) as refused:
        next(watch(f"{address(service)}/of/somebody/else", "job"))

    assert (refused.value.code, refused.value.type) == (404, "handshake-refused")


def test_a_port_where_nobody_listens_is_an_error_after_the_tries() -> None:
    with pytest.raises(Unreachable, match="3 tries"):
        next(watch(f"http://127.0.0.1:{free_port()}", "job", tries_before_open=3))


# --- a web process that ends ----------------------------------------------------------------------


@pytest.mark.parametrize("end", [Web.kill, Web.stop], ids=["killed", "told to stop"])
def test_a_watch_is_exactly_the_log_though_the_web_process_ends_again_and_again(
    deployed: Deployment, tmp_path: Path, end: Callable[[Web], None]
) -> None:
    seed = random.randrange(2**32)
    print(f"seed {seed}")
    points = random.Random(seed)
    gate = tmp_path / "gate"
    deployed.write(MODELS)
    deployed.worker()
    web = Web(deployed)
    job = web.api.submit("stream", input={"gate": str(gate)})
    watcher = Watcher(watch(address(web.api), job["id"], after=0))

    for _ in range(4):
        point = len(watcher.seen) + points.randrange(1, 60)
        until(lambda point=point: len(watcher.seen) >= point, within=30)  # type: ignore[misc]
        end(web)
        web.start()
    gate.touch()

    seen = watcher.finish()
    assert seen == whole_log(web.api, job["id"])
    assert seen[-1]["type"] == "finished"


# --- a server that does what ours does seldom -----------------------------------------------------

CUT, SILENCE = "cut", "silence"


class Scripted:
    """A server that plays one part for each connection, all of it in one packet; `asked` are their targets.

    A part is events, as JSON, and at its end a close code, CUT (within a frame) or SILENCE; or it is an
    HTTP status instead of a handshake.
    """

    def __init__(self, *parts: Any) -> None:
        self.asked: list[str] = []
        self._parts = parts
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def close(self) -> None:
        """Wait until all parts are played."""
        self._thread.join(20)
        self._listener.close()
        assert not self._thread.is_alive(), "nobody came for the next part"

    def _run(self) -> None:
        self._listener.settimeout(15)
        for part in self._parts:
            client, _ = self._listener.accept()
            with client:
                self._play(client, part)

    def _play(self, client: socket.socket, part: Any) -> None:
        ws = WSConnection(ConnectionType.SERVER)
        ws.receive_data(client.recv(65536))
        (request,) = ws.events()
        assert isinstance(request, Request)
        self.asked.append(request.target)
        if isinstance(part, int):
            client.sendall(f"HTTP/1.1 {part} no\r\nContent-Length: 0\r\nConnection: close\r\n\r\n".encode())
            return
        *events, end = part
        said = ws.send(AcceptConnection())
        said += b"".join(ws.send(TextMessage(json.dumps(event))) for event in events)
        if isinstance(end, int):
            said += ws.send(CloseConnection(end, json.dumps({"type": "t", "title": "why"})))
        elif end == CUT:
            said += ws.send(TextMessage(json.dumps(event_of("9-9"))))[:-5]
        client.sendall(said)
        if isinstance(end, int):
            client.recv(65536)  # the client's answer; then it is the server's to close the connection
        elif end == SILENCE:
            while client.recv(65536):  # until the client goes
                pass


@contextmanager
def scripted(*parts: Any) -> Iterator[Scripted]:
    server = Scripted(*parts)
    try:
        yield server
    finally:
        server.close()


def event_of(id: str, type: str = "output", **data: Any) -> Event:
    return {"id": id, "job_id": "j", "type": type, "time": "2026-11-25T02:08:15.139Z", "data": data}


def test_all_that_may_pass_is_tried_again_from_the_last_event() -> None:
    events = [event_of("5-0", "snapshot", done=False), *(event_of(f"{ms}-0") for ms in range(9, 16))]
    ends = [CUT, 1008, 1011, 1012, 1013, 4408, CUT, 1000]
    parts = [list(part) for part in zip(events, ends, strict=True)]

    with scripted(503, 429, *parts[:4], 502, 404, *parts[4:]) as server:
        # A 404 counts only before the first socket: later it is a proxy that has lost its service.
        assert list(watch(server.url, "j", tries_before_open=3)) == events

    cursors = [target.partition("after=")[2] for target in server.asked]
    assert cursors == ["", "", "", "5-0", "9-0", "10-0", "11-0", "11-0", "11-0", "12-0", "13-0", "14-0"]


def test_what_was_seen_before_is_passed_over_in_the_order_of_numbers() -> None:
    log = [event_of(id) for id in ("9-0", "9-9", "9-10", "10-0")]

    with scripted([*log[:3], CUT], [*log, event_of("10-1", "finished"), 1000]) as server:
        assert list(watch(server.url, "j", after=0)) == [*log, event_of("10-1", "finished")]


def test_a_gap_is_told_and_the_snapshot_after_it_is_gone_on_from() -> None:
    gap, snapshot = event_of("7-0", "gap"), event_of("30-0", "snapshot", done=False)
    last = event_of("31-0", "finished")

    with scripted([event_of("1-0"), gap, CUT], [gap, snapshot, CUT], [last, 1000]) as server:
        seen = list(watch(server.url, "j", after=0, types=["output", "finished"]))

    assert seen == [event_of("1-0"), gap, gap, snapshot, last]
    assert server.asked == [
        f"/v1/jobs/j/events?after={cursor}&types=output%2Cfinished" for cursor in ("0", "1-0", "30-0")
    ]


def test_a_job_that_is_gone_once_its_end_was_seen_is_no_error() -> None:
    with scripted([event_of("1-0", "finished"), CUT], [4410]) as server:
        assert list(watch(server.url, "j")) == [event_of("1-0", "finished")]


def test_a_server_that_falls_silent_is_taken_for_dead() -> None:
    with scripted([event_of("1-0"), SILENCE], [event_of("2-0", "stopped"), 1000]) as server:
        seen = list(watch(server.url, "j", dead_after=0.4))

    assert [event["id"] for event in seen] == ["1-0", "2-0"]
