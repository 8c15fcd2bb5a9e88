"""Watching jobs over a WebSocket: every event, once, in order, to the end."""

from __future__ import annotations

import json
import socket
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any
from urllib.parse import quote

import httpx
import pytest
import redis
import websocket
from rq.job import Job
from rq.serializers import JSONSerializer

from tests.deployment import NO_TLS, Api, deployment, eventually
from tests.suspension import suspended

MODELS = """
    import logging
    import time
    from collections.abc import Iterator
    from pathlib import Path
    from service import model, progress, Retry

    @model
    def echo(value: str = "") -> str:
        return value

    @model
    def story(count: int = 3, size: int = 1) -> Iterator[str]:
        for number in range(count):
            print(f"part {number}")
            progress.update(number / count, loss=float(number))
            yield chr(ord("a") + number % 26) * size

    @model
    def gated(gate: str) -> Iterator[str]:
        yield "before"
        while not Path(gate).exists():
            time.sleep(0.01)
        yield "after"

    @model(retries=1, backoff=0)
    def fails() -> None:
        logging.warning("about to fail")
        raise ValueError("no luck")

    @model(retries=1)
    def comes_back() -> None:
        raise Retry("busy", after=0.1)

    @model
    def endless() -> None:
        while True:
            time.sleep(0.01)
"""

Event = dict[str, Any]
WATCHERS = 200


@contextmanager
def watching(api: Api, path: str, **options: Any) -> Iterator[websocket.WebSocket]:
    """An open WebSocket."""
    opened = api.socket(path, **options)
    try:
        yield opened
    finally:
        opened.shutdown()


def following(watcher: websocket.WebSocket) -> Iterator[Event]:
    """Events to the close, which must be a normal one."""
    while True:
        opcode, data = watcher.recv_data()
        if opcode == websocket.ABNF.OPCODE_CLOSE:
            assert int.from_bytes(data[:2], "big") == 1000, data
            return
        assert opcode == websocket.ABNF.OPCODE_TEXT
        yield json.loads(data)


def watch(api: Api, path: str, **options: Any) -> list[Event]:
    """All events of a watch that ends normally."""
    with watching(api, path, **options) as watcher:
        return list(following(watcher))


def closed(watcher: websocket.WebSocket) -> tuple[int, Any]:
    """The code and the reason, JSON, of a close; what comes before it is passed over."""
    while True:
        opcode, data = watcher.recv_data()
        if opcode == websocket.ABNF.OPCODE_CLOSE:
            return int.from_bytes(data[:2], "big"), json.loads(data[2:] or b"null")


def send_until_cut_off(watcher: websocket.WebSocket) -> None:
    """Send messages without an end; fails if the server neither closes its end nor reads on."""
    watcher.settimeout(2)
    try:
        while True:
            watcher.send("x" * 1000)
    except ConnectionError:
        return
    except websocket.WebSocketTimeoutException:  # it reads no more: so it has closed its end
        watcher.settimeout(10)
        while watcher.sock.recv(4096):
            pass


def whole(job: Any) -> str:
    """Where the whole log of a job can be watched from its beginning."""
    return f"{job['urls']['events']}?after=0"


def types(events: list[Event]) -> list[str]:
    return [event["type"] for event in events]


def order(event: Event) -> tuple[int, ...]:
    return tuple(map(int, event["id"].split("-")))


def logged(api: Api, job_id: str, kind: str) -> list[Event]:
    """The events of a type, once there is one."""

    def check() -> list[Event]:
        found = [event for event in api.log(job_id) if event["type"] == kind]
        assert found
        return found

    return eventually(check)


# --- what a watcher sees --------------------------------------------------------------------------


def test_a_watch_of_a_job_that_is_over_is_a_snapshot_of_it(service: Api) -> None:
    job = service.submit("echo", wait=10, input={"value": "x"})

    (snapshot,) = watch(service, job["urls"]["events"])

    assert snapshot["type"] == "snapshot"
    assert snapshot["id"] == service.log(job["id"])[-1]["id"]
    assert snapshot["data"] == {**job, "outputs": []}


def test_a_watch_from_the_beginning_has_no_snapshot_and_ends_after_the_terminal_event(service: Api) -> None:
    job = service.submit("echo", wait=10, input={"value": "x"})

    events = watch(service, whole(job))

    assert types(events) == ["queued", "started", "finished"]
    assert events[-1]["data"] == {"output": "x"}


def test_each_event_has_the_same_five_fields_and_a_later_id(service: Api) -> None:
    job = service.submit("story", wait=10)

    events = [*watch(service, job["urls"]["events"]), *watch(service, whole(job))]

    for event in events:
        assert list(event) == ["id", "job_id", "type", "time", "data"]
        assert event["job_id"] == job["id"]
        assert event["time"].endswith("Z")
        assert isinstance(event["data"], dict)
    moments = [datetime.fromisoformat(event["time"]) for event in events[1:]]
    assert moments == sorted(moments)
    assert [order(event) for event in events[1:]] == sorted({order(event) for event in events[1:]})


def test_a_watch_that_began_before_the_job_started_sees_everything(service: Api) -> None:
    with ExitStack() as open_ones:
        with suspended(service):
            job = service.submit("story")
            events = following(open_ones.enter_context(watching(service, job["urls"]["events"])))
            snapshot = next(events)
        seen = list(events)

    assert snapshot["data"]["status"] == "queued"
    queued, *rest = service.log(job["id"])
    assert (snapshot["id"], seen) == (queued["id"], rest)
    assert types(seen)[0] == "started"
    assert types(seen)[-1] == "finished"


def test_a_snapshot_of_a_running_job_has_what_it_put_out_so_far(service: Api, tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    job = service.submit("gated", input={"gate": str(gate)})
    logged(service, job["id"], "output")

    with watching(service, job["urls"]["events"]) as watcher:
        events = following(watcher)
        snapshot = next(events)
        gate.touch()
        seen = list(events)

    assert snapshot["data"]["status"] == "started"
    assert snapshot["data"]["outputs"] == ["before"]
    assert types(seen) == ["output", "finished"]
    assert [event["data"]["output"] for event in seen] == ["after", "beforeafter"]


def test_a_job_that_is_over_is_replayed_and_the_watch_ends(service: Api) -> None:
    job = service.submit("story", wait=10)

    first, second = watch(service, whole(job)), watch(service, whole(job))

    assert first == second == service.log(job["id"])


def test_progress_logs_and_outputs_are_events(service: Api) -> None:
    job = service.submit("story", wait=10, input={"count": 3})

    events = watch(service, whole(job))

    assert [event["data"]["output"] for event in events if event["type"] == "output"] == ["a", "b", "c"]
    lines = [event["data"] for event in events if event["type"] == "log"]
    assert [line["message"] for line in lines] == ["part 0", "part 1", "part 2"]
    assert {line["level"] for line in lines} == {"info"}
    progressed = [event["data"] for event in events if event["type"] == "progress"]
    assert progressed[-1] == {
        **{"index": None, "length": None, "fraction": pytest.approx(2 / 3), "unit": None, "message": None},
        "metrics": {"loss": 2.0},
    }


def test_a_failed_try_is_told_as_retrying_and_the_last_one_as_failed(service: Api) -> None:
    job = service.submit("fails")

    events = watch(service, whole(job))

    expected = ["queued", "started", "log", "retrying", "queued", "started", "log", "log", "failed"]
    assert types(events) == expected
    assert "no luck" in events[3]["data"]["error"]["message"]
    assert events[-1]["data"]["error"] == service.job(job["id"])["error"]
    assert [event["data"]["attempt"] for event in events if event["type"] == "started"] == [1, 2]


def test_a_try_that_is_put_off_is_told_as_scheduled(service: Api) -> None:
    job = service.submit("comes_back")

    events = watch(service, whole(job))

    expected = ["queued", "started", "retrying", "scheduled", "queued", "started", "log", "failed"]
    assert types(events) == expected
    assert datetime.fromisoformat(events[3]["data"]["at"]) > datetime.fromisoformat(events[3]["time"])


def test_a_watcher_hears_that_a_running_job_was_stopped(service: Api) -> None:
    job = service.submit("endless")
    service.started(job["id"])

    with watching(service, job["urls"]["events"]) as watcher:
        events = following(watcher)
        next(events)
        service.cancel(job["id"])
        seen = list(events)

    assert types(seen) == ["stopped"]
    assert seen[-1]["data"] == {"mode": "cooperative"}


def test_a_watcher_hears_that_a_queued_job_was_canceled(service: Api) -> None:
    with suspended(service):
        job = service.submit("echo")
        with watching(service, job["urls"]["events"]) as watcher:
            events = following(watcher)
            next(events)
            service.cancel(job["id"])
            seen = list(events)

    assert types(seen) == ["canceled"]
    assert seen[-1]["data"] == {"mode": "dequeued"}


def test_an_output_larger_than_64_kib_is_linked_from_its_event(service: Api) -> None:
    text = "é" * 70_000
    job = service.submit("echo", wait=10, input={"value": text})

    (snapshot,), event = watch(service, job["urls"]["events"]), watch(service, whole(job))[-1]

    assert event["type"] == "finished"
    assert event["data"] == {"result_url": job["urls"]["result"]}
    assert service.http.get(event["data"]["result_url"]).json() == text
    assert (snapshot["data"]["output"], snapshot["data"]["result_url"]) == (None, job["urls"]["result"])


# --- coming back ----------------------------------------------------------------------------------


def test_a_watch_resumed_at_any_event_sees_exactly_the_rest(service: Api) -> None:
    job = service.submit("story", wait=10)
    events = service.log(job["id"])
    assert len(events) > 6

    for seen, event in enumerate(events, start=1):
        assert watch(service, f"{job['urls']['events']}?after={event['id']}") == events[seen:]


@pytest.mark.parametrize("after", ["0", "0-0"])
def test_a_watch_resumed_at_its_snapshot_sees_every_event(service: Api, after: str) -> None:
    job = service.submit("story", wait=10)

    assert watch(service, f"{job['urls']['events']}?after={after}") == service.log(job["id"])


def test_a_watcher_that_comes_back_while_the_job_runs_misses_and_repeats_nothing(service: Api, tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    job = service.submit("gated", input={"gate": str(gate)})
    (before,) = logged(service, job["id"], "output")
    with watching(service, whole(job)) as watcher:
        first = [next(following(watcher)) for _ in range(3)]
    assert first[-1] == before

    with watching(service, f"{job['urls']['events']}?after={before['id']}") as watcher:
        gate.touch()
        second = list(following(watcher))

    assert first + second == service.log(job["id"])


def test_a_requeued_job_can_be_watched_to_its_second_end(service: Api) -> None:
    job = service.submit("fails", wait=10)
    with ExitStack() as open_ones:
        with suspended(service):
            with redis.Redis.from_url(service.redis_url) as connection:  # type: ignore[attr-defined]
                Job.fetch(job["id"], connection=connection, serializer=JSONSerializer).requeue()
            watcher = open_ones.enter_context(watching(service, job["urls"]["events"]))
            events = following(watcher)
            snapshot = next(events)
        seen = list(events)

    assert (snapshot["data"]["status"], snapshot["data"]["done"]) == ("queued", False)
    assert types(seen).count("failed") == 1
    assert [event["data"]["attempt"] for event in seen if event["type"] == "started"] == [3]
    log = service.log(job["id"])
    assert [event for event in log if order(event) > order(snapshot)] == seen
    assert watch(service, whole(job)) == log
    assert types(log).count("failed") == 2


# --- the same as JSON -----------------------------------------------------------------------------


def test_the_events_are_a_page_of_json_for_a_caller_without_websockets(service: Api) -> None:
    job = service.submit("story", wait=10)
    events = watch(service, whole(job))

    everything = service.http.get(job["urls"]["events"]).json()
    rest = service.http.get(job["urls"]["events"], params={"after": events[2]["id"]}).json()
    nothing = service.http.get(job["urls"]["events"], params={"after": everything["cursor"]}).json()

    assert everything == {"events": events, "cursor": events[-1]["id"], "done": True}
    assert rest == {"events": events[3:], "cursor": events[-1]["id"], "done": True}
    assert nothing == {"events": [], "cursor": events[-1]["id"], "done": True}


def test_a_page_of_a_pending_job_says_that_there_will_be_more(service: Api) -> None:
    with suspended(service):
        job = service.submit("echo")

        page = service.http.get(job["urls"]["events"]).json()

        assert (types(page["events"]), page["done"]) == (["queued"], False)
        service.cancel(job["id"])
    page = service.http.get(job["urls"]["events"], params={"after": page["cursor"]}).json()
    assert (types(page["events"]), page["done"]) == (["canceled"], True)


def test_a_long_log_is_read_page_by_page_without_gap_or_repeat(service: Api) -> None:
    job = service.done(service.submit("story", input={"count": 600})["id"])
    events: list[Event] = []
    page = {"cursor": "0", "done": False}

    while not page["done"]:
        page = service.http.get(job["urls"]["events"], params={"after": page["cursor"]}).json()
        assert page["events"]
        events += page["events"]

    assert [event["type"] for event in events].count("output") == 600
    assert events == watch(service, whole(job))


# --- refusals -------------------------------------------------------------------------------------


@pytest.mark.parametrize("job_id", ["unknown", "a%3Ab", "%00", "a" * 2000])
def test_a_watch_of_an_unknown_job_is_closed_with_4404(service: Api, job_id: str) -> None:
    with watching(service, f"/v1/jobs/{job_id}/events") as watcher:
        code, reason = closed(watcher)

    assert (code, reason["type"]) == (4404, "job-not-found")


def test_a_watch_of_an_erased_job_is_closed_with_4410(service: Api) -> None:
    job = service.submit("echo", wait=10)
    service.http.delete(job["urls"]["self"])

    with watching(service, job["urls"]["events"]) as watcher:
        code, reason = closed(watcher)

    assert (code, reason["type"]) == (4410, "job-gone")


@pytest.mark.parametrize("after", ["junk", "", "-1", "1-2-3", "9" * 20, "\u0661", "\uff11-0"])
def test_a_watch_from_a_cursor_that_is_none_is_closed_with_4400(service: Api, after: str) -> None:
    job = service.submit("echo", wait=10)

    with watching(service, f"{job['urls']['events']}?after={quote(after)}") as watcher:
        code, reason = closed(watcher)

    assert (code, reason["type"]) == (4400, "invalid-cursor")


@pytest.mark.parametrize(
    "origin", ["http://evil.example", "null", "http://127.0.0.1.evil.example", "http://127.0.0.1:1"]
)
def test_a_page_of_another_site_is_refused_before_the_handshake(service: Api, origin: str) -> None:
    job = service.submit("echo", wait=10)

    with pytest.raises(websocket.WebSocketBadStatusException) as refused:
        service.socket(job["urls"]["events"], origin=origin)

    assert refused.value.status_code == 403
    assert refused.value.resp_headers["content-type"] == "application/problem+json"


def test_a_page_of_our_own_may_watch(service: Api) -> None:
    job = service.submit("echo", wait=10)

    events = watch(service, whole(job), origin=f"http://127.0.0.1:{service.port}")

    assert events[-1]["type"] == "finished"


def test_allowed_origins_opens_the_socket_to_other_sites(service: Api, tmp_path: Path) -> None:
    job = service.submit("echo", wait=10)
    with deployment(tmp_path, service.redis_url) as each:  # type: ignore[attr-defined]
        other = each.web(ALLOWED_ORIGINS="https://app.example https://b.example:8443")

        for origin in ("https://app.example", "https://b.example:8443"):
            assert watch(other, whole(job), origin=origin)[-1]["type"] == "finished"
        with pytest.raises(websocket.WebSocketBadStatusException):
            other.socket(job["urls"]["events"], origin="https://c.example")


# --- many watchers --------------------------------------------------------------------------------


def test_two_jobs_are_watched_at_once_each_with_its_own_events(service: Api) -> None:
    with ExitStack() as open_ones:
        with suspended(service):
            jobs = [service.submit("story", input={"count": count}) for count in (20, 5)]
            watches = [following(open_ones.enter_context(watching(service, job["urls"]["events"]))) for job in jobs]
            for events in watches:
                next(events)
        seen = [list(events) for events in watches]

    assert seen == [service.log(job["id"])[1:] for job in jobs]
    assert [types(events).count("output") for events in seen] == [20, 5]


def test_two_hundred_watchers_of_one_job_all_see_every_event_in_order(service: Api) -> None:
    connected = threading.Semaphore(0)

    def follow(_: int) -> list[Event]:
        with watching(service, job["urls"]["events"]) as watcher:
            events = following(watcher)
            assert next(events)["type"] == "snapshot"
            connected.release()
            return list(events)

    with ThreadPoolExecutor(WATCHERS) as pool:
        with suspended(service):
            job = service.submit("story", input={"count": 20})
            watches = [pool.submit(follow, number) for number in range(WATCHERS)]
            for _ in range(WATCHERS):
                assert connected.acquire(timeout=20)
        seen = [each.result(timeout=30) for each in watches]

    events = service.log(job["id"])[1:]
    assert len(events) > 40
    assert all(each == events for each in seen)


def test_watchers_on_two_web_processes_see_the_same(service: Api, tmp_path: Path) -> None:
    with deployment(tmp_path, service.redis_url) as each, ExitStack() as open_ones:  # type: ignore[attr-defined]
        other = each.web()
        with suspended(service):
            job = other.submit("story")
            watches = [
                following(open_ones.enter_context(watching(api, job["urls"]["events"]))) for api in (service, other)
            ]
            for events in watches:
                next(events)

        assert list(watches[0]) == list(watches[1]) == other.log(job["id"])[1:]


# --- clients that behave badly --------------------------------------------------------------------


def test_a_client_that_does_not_read_delays_no_other(service: Api) -> None:
    with ExitStack() as open_ones:
        with suspended(service):
            job = service.submit("story", input={"count": 140, "size": 60_000})  # more than the kernel buffers
            narrow = open_ones.enter_context(socket.socket())
            narrow.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            narrow.connect(("127.0.0.1", service.port))
            open_ones.enter_context(watching(service, job["urls"]["events"], socket=narrow))
            events = following(open_ones.enter_context(watching(service, job["urls"]["events"])))
            next(events)
        began = time.monotonic()

        seen = list(events)

        # A server that waited for the one would lose its 10 seconds for each write to it.
        assert time.monotonic() - began < 9
    assert types(seen).count("output") == 140
    assert types(seen)[-1] == "finished"


def test_a_client_that_floods_the_socket_is_closed_with_1008(service: Api) -> None:
    with suspended(service):
        job = service.submit("echo")
        with watching(service, job["urls"]["events"]) as watcher:
            for _ in range(150):
                watcher.send("x")

            code, reason = closed(watcher)

        service.cancel(job["id"])
    assert (code, reason["type"]) == (1008, "too-many-messages")


def test_a_client_that_never_stops_sending_is_cut_off(service: Api) -> None:
    with suspended(service):
        job = service.submit("echo")
        with watching(service, job["urls"]["events"]) as watcher:
            send_until_cut_off(watcher)

        assert service.http.get("/healthz").status_code == 200
        service.cancel(job["id"])


def test_a_client_that_sends_a_large_message_is_closed_with_1009(service: Api) -> None:
    with suspended(service):
        job = service.submit("echo")
        with watching(service, job["urls"]["events"]) as watcher:
            watcher.send("x" * 5_000)

            while True:
                opcode, data = watcher.recv_data()
                if opcode == websocket.ABNF.OPCODE_CLOSE:
                    break
        service.cancel(job["id"])
    assert int.from_bytes(data[:2], "big") == 1009


def test_what_a_client_says_now_and_then_is_passed_over(service: Api) -> None:
    with ExitStack() as open_ones:
        with suspended(service):
            job = service.submit("story")
            watcher = open_ones.enter_context(watching(service, job["urls"]["events"]))
            events = following(watcher)
            next(events)
            watcher.send("hello")
            watcher.send_bytes(b"\x00\xff")
        seen = list(events)

    assert seen == service.log(job["id"])[1:]


def test_a_ping_is_answered(service: Api) -> None:
    with suspended(service):
        job = service.submit("echo")
        with watching(service, job["urls"]["events"]) as watcher:
            watcher.ping("are you there")

            while True:
                opcode, frame = watcher.recv_data_frame(control_frame=True)
                if opcode == websocket.ABNF.OPCODE_PONG:
                    break
        service.cancel(job["id"])
    assert frame.data == b"are you there"


def test_clients_that_keep_their_end_open_after_the_close_hold_up_nobody(service: Api) -> None:
    began = time.monotonic()
    with ExitStack() as open_ones:
        for _ in range(5):
            watcher = open_ones.enter_context(watching(service, "/v1/jobs/unknown/events"))
            assert watcher.recv_frame().opcode == websocket.ABNF.OPCODE_CLOSE  # and no answer to it
            # A connection of its own: the main thread of the web process has to accept it.
            assert httpx.get(f"http://127.0.0.1:{service.port}/healthz", timeout=20, verify=NO_TLS).status_code == 200

    assert time.monotonic() - began < 8


def test_more_watchers_than_a_process_can_hold_are_sent_away_and_requests_are_answered(
    service: Api, tmp_path: Path
) -> None:
    with deployment(tmp_path, service.redis_url) as each, suspended(service):  # type: ignore[attr-defined]
        small = each.web(MAX_WATCHERS="4")
        job = small.submit("echo")
        with ExitStack() as open_ones:
            for _ in range(4):
                next(following(open_ones.enter_context(watching(small, job["urls"]["events"]))))
            one_more = open_ones.enter_context(watching(small, job["urls"]["events"]))

            assert closed(one_more)[0] == 1013
            poll = small.http.get(job["urls"]["self"], params={"wait": 20})
            stream = small.http.get(job["urls"]["events"], headers={"Accept": "text/event-stream"})
            for refused in (poll, stream):
                assert (refused.status_code, refused.json()["type"]) == (503, "/problems/too-many-watchers")
                assert int(refused.headers["Retry-After"]) >= 1
            # What is accepted is said to be, wait or no wait.
            submitted = small.post("echo", wait=20)
            assert (submitted.status_code, submitted.json()["status"]) == (202, "queued")
            assert small.job(job["id"])["status"] == "queued"

        # The others went without a word: their places are free again.
        def watched() -> None:
            with watching(small, job["urls"]["events"]) as watcher:
                assert watcher.recv_data()[0] == websocket.ABNF.OPCODE_TEXT

        eventually(watched)
        small.cancel(job["id"])
        small.cancel(submitted.json()["id"])
