"""The relay: what watchers are told, however they watch, and what becomes of those that behave badly."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
import redis
import websocket
from rq.job import Job
from rq.serializers import JSONSerializer

from service.settings import Settings
from service.web.app import create_app
from tests.deployment import NO_TLS, Api, Deployment, children, deployment, eventually, free_port, until
from tests.suspension import suspended
from tests.watchers import TRANSPORTS, Closed, Event, cut, events_of, over_event_stream, over_websocket

MODELS = """
    import time
    from collections.abc import Iterator
    from pathlib import Path
    from service import model, progress

    @model
    def echo(value: str = "") -> str:
        return value

    @model
    def story(count: int = 5, size: int = 1, pause: float = 0.0) -> Iterator[str]:
        for number in range(count):
            progress.update((number + 1) / count)
            yield chr(ord("a") + number % 26) * size
            time.sleep(pause)

    @model
    def gated(gate: str) -> str:
        progress.update(0.5)
        while not Path(gate).exists():
            time.sleep(0.01)
        return "after"

    @model
    def fails() -> None:
        raise ValueError("no luck")
"""

TOLD_WITHIN = 5.0


@pytest.fixture
def connected(service: Api) -> Iterator[redis.Redis]:
    with redis.Redis.from_url(service.redis_url) as client:  # type: ignore[attr-defined]
        yield client


@pytest.fixture
def other(service: Api, tmp_path: Path) -> Iterator[Deployment]:
    """A deployment of this test's own on the same Redis."""
    with deployment(tmp_path, service.redis_url) as each:  # type: ignore[attr-defined]
        yield each


def types(events: list[Event]) -> list[str]:
    return [event["type"] for event in events]


def stream(job_id: str) -> str:
    return f"service:job:{job_id}:events"


def rq_job(connection: redis.Redis, job_id: str) -> Job:
    return Job.fetch(job_id, connection=connection, serializer=JSONSerializer)


def listened_to(connection: redis.Redis, job_id: str) -> None:
    """Wait until somebody watches this job."""
    until(lambda: bool(connection.pubsub_numsub(stream(job_id))[0][1]))


# --- each transport tells the same ----------------------------------------------------------------


@pytest.mark.parametrize("transport", TRANSPORTS)
def test_each_transport_tells_the_whole_log(service: Api, transport: str) -> None:
    with suspended(service):
        job = service.submit("story")
    with TRANSPORTS[transport](service, job["id"], "?after=0") as events:
        seen = list(events)

    assert seen == service.log(job["id"])
    assert types(seen)[-1] == "finished"


@pytest.mark.parametrize("transport", TRANSPORTS)
def test_each_transport_can_leave_out_types(service: Api, transport: str) -> None:
    job = service.submit("story", wait=10)

    with TRANSPORTS[transport](service, job["id"], "?after=0&types=output,finished") as events:
        seen = list(events)

    assert seen == [event for event in service.log(job["id"]) if event["type"] in ("output", "finished")]
    assert len(seen) == 6


@pytest.mark.parametrize("transport", ["websocket", "event stream"])
def test_a_job_whose_end_is_left_out_ends_the_watch_all_the_same(service: Api, transport: str, tmp_path: Path) -> None:
    job = service.submit("gated", input={"gate": str(tmp_path / "gate")})
    service.started(job["id"])

    with TRANSPORTS[transport](service, job["id"], "?types=output") as events:
        assert next(events)["type"] == "snapshot"
        (tmp_path / "gate").touch()
        assert list(events) == []


@pytest.mark.parametrize("accept", ["application/json", "text/event-stream"])
def test_a_type_that_is_none_is_refused_with_its_name(service: Api, accept: str) -> None:
    job = service.submit("echo", wait=10)

    answer = service.http.get(f"{job['urls']['events']}?types=output,outptu", headers={"Accept": accept})

    assert (answer.status_code, answer.json()["type"]) == (400, "/problems/invalid-request")
    assert answer.json()["errors"] == [{"parameter": "types", "detail": "types: 'outptu' is no type of event"}]


# --- event streams --------------------------------------------------------------------------------


def test_an_event_stream_begins_with_a_snapshot_and_ends_with_the_job(service: Api, tmp_path: Path) -> None:
    job = service.submit("gated", input={"gate": str(tmp_path / "gate")})
    service.started(job["id"])

    with over_event_stream(service, job["id"]) as events:
        snapshot = next(events)
        (tmp_path / "gate").touch()
        rest = list(events)

    assert snapshot["data"]["status"] == "started"
    assert types(rest) == ["finished"]


def test_an_event_stream_has_the_header_fields_that_keep_proxies_from_holding_it(service: Api) -> None:
    job = service.submit("echo", wait=10)

    answer = service.http.get(job["urls"]["events"], headers={"Accept": "text/event-stream"})

    assert answer.headers["Content-Type"].startswith("text/event-stream")
    assert "no-store" in answer.headers["Cache-Control"]
    assert answer.headers["X-Accel-Buffering"] == "no"
    assert answer.headers["X-Request-ID"]
    first, _, rest = answer.text.partition("\n\n")
    assert first.startswith("retry: ")
    assert f"id: {service.log(job['id'])[-1]['id']}\ndata: {{" in rest


def test_an_event_stream_goes_on_after_the_last_event_id(service: Api) -> None:
    job = service.submit("story", wait=10)
    log = service.log(job["id"])

    headers = {"Last-Event-ID": log[2]["id"]}
    with over_event_stream(service, job["id"], "?after=0", headers) as events:
        assert list(events) == log[3:]


def test_an_event_stream_that_has_told_all_is_not_to_be_asked_again(service: Api) -> None:
    job = service.submit("echo", wait=10)
    last = service.log(job["id"])[-1]["id"]

    answer = service.http.get(job["urls"]["events"], headers={"Accept": "text/event-stream", "Last-Event-ID": last})

    assert (answer.status_code, answer.content) == (204, b"")


def test_the_head_of_an_event_stream_has_no_body(service: Api) -> None:
    with suspended(service):
        job = service.submit("echo")
        answer = service.http.head(job["urls"]["events"], headers={"Accept": "text/event-stream"})
        service.cancel(job["id"])

    assert (answer.status_code, answer.content) == (200, b"")
    assert answer.headers["Content-Type"].startswith("text/event-stream")


@pytest.mark.parametrize(
    ("job_id", "query", "status", "kind"),
    [("unknown", "", 404, "job-not-found"), ("echo", "?after=x", 400, "invalid-cursor")],
)
def test_an_event_stream_that_cannot_be_is_a_problem(
    service: Api, job_id: str, query: str, status: int, kind: str
) -> None:
    answer = service.http.get(f"/v1/jobs/{job_id}/events{query}", headers={"Accept": "text/event-stream"})

    assert (answer.status_code, answer.json()["type"]) == (status, f"/problems/{kind}")


@pytest.mark.parametrize("limit", ["0", "501", "x", "-1"])
def test_a_limit_that_is_none_is_refused(service: Api, limit: str) -> None:
    job = service.submit("echo", wait=10)

    answer = service.http.get(job["urls"]["events"], params={"limit": limit})

    assert answer.status_code == 400
    assert answer.json()["errors"][0]["parameter"] == "limit"


# --- what is gone from the log --------------------------------------------------------------------


@pytest.mark.parametrize("transport", TRANSPORTS)
def test_a_cursor_that_was_trimmed_away_gives_a_gap_and_a_snapshot(
    service: Api, connected: redis.Redis, transport: str
) -> None:
    job = service.submit("story", wait=10)
    log = service.log(job["id"])
    connected.xtrim(stream(job["id"]), minid=log[4]["id"], approximate=False)

    for after in ("0", log[1]["id"], log[3]["id"]):
        with TRANSPORTS[transport](service, job["id"], f"?after={after}") as events:
            gap, snapshot = events

        assert gap["type"] == "gap"
        lost = {"after": after if after != "0" else "0-0", "first": log[4]["id"], "last": log[-1]["id"]}
        assert gap["data"] == lost
        assert (snapshot["type"], snapshot["id"]) == ("snapshot", log[-1]["id"])
        assert snapshot["data"]["output"] == "abcde"
    with TRANSPORTS[transport](service, job["id"], f"?after={log[4]['id']}") as events:
        assert list(events) == log[5:]


def test_after_a_gap_a_running_job_is_watched_to_its_end(service: Api, connected: redis.Redis, tmp_path: Path) -> None:
    job = service.submit("gated", input={"gate": str(tmp_path / "gate")})
    until(lambda: "progress" in types(service.log(job["id"])))
    connected.xtrim(stream(job["id"]), minid=service.log(job["id"])[-1]["id"], approximate=False)

    with over_websocket(service, job["id"], "?after=0") as events:
        assert [next(events)["type"] for _ in range(2)] == ["gap", "snapshot"]
        (tmp_path / "gate").touch()
        assert types(list(events)) == ["finished"]


def test_a_cursor_of_a_log_that_redis_no_longer_has_gives_a_gap(service: Api) -> None:
    job = service.submit("echo", wait=10)

    with over_websocket(service, job["id"], "?after=9999999999999-0") as events:
        assert types(list(events)) == ["gap", "snapshot"]


# --- what was set without an event ----------------------------------------------------------------


def test_a_job_that_rq_cancels_is_told_as_canceled_once_by_all_web_processes(
    service: Api, other: Deployment, connected: redis.Redis
) -> None:
    second = other.web()
    with suspended(service), ExitStack() as open_ones:
        job = service.submit("echo")
        watches = [open_ones.enter_context(over_websocket(api, job["id"])) for api in (service, second)]
        for events in watches:
            assert next(events)["type"] == "snapshot"
        rq_job(connected, job["id"]).cancel()
        began = time.monotonic()

        told = [list(events) for events in watches]

        assert time.monotonic() - began < TOLD_WITHIN
    assert types(told[0]) == ["canceled"]
    assert told[0] == told[1] == service.log(job["id"])[1:]


def test_a_job_that_rq_requeues_is_told_as_queued_again(service: Api, connected: redis.Redis) -> None:
    job = service.submit("fails")
    service.done(job["id"])
    with suspended(service):
        rq_job(connected, job["id"]).requeue()

        with over_websocket(service, job["id"]) as events:
            snapshot = next(events)

    assert (snapshot["type"], snapshot["data"]["status"]) == ("snapshot", "queued")
    service.done(job["id"])
    assert types(service.log(job["id"])) == 2 * ["queued", "started", "log", "failed"]


def test_a_job_whose_hash_is_deleted_is_told_as_gone(service: Api, connected: redis.Redis) -> None:
    with suspended(service):
        job = service.submit("echo")
        with over_websocket(service, job["id"]) as events:
            assert next(events)["type"] == "snapshot"
            rq_job(connected, job["id"]).delete()
            began = time.monotonic()

            with pytest.raises(Closed) as closed:
                next(events)

    assert closed.value.code == 4410
    assert time.monotonic() - began < TOLD_WITHIN


def test_an_event_stream_of_a_job_that_is_deleted_says_so_and_its_process_lives(
    service: Api, other: Deployment, connected: redis.Redis
) -> None:
    web = other.web()
    with suspended(service):
        job = service.submit("echo")
        with over_event_stream(web, job["id"]) as events:
            assert next(events)["type"] == "snapshot"
            rq_job(connected, job["id"]).delete()

            (error,) = events

    assert (error["type"], error["job_id"], error["data"]["type"]) == ("error", job["id"], "job-gone")
    assert "the relay has crashed" not in web.process.log.read_text()  # type: ignore[attr-defined]


# --- Redis and the process ------------------------------------------------------------------------


def test_a_watcher_misses_nothing_while_the_relay_is_cut_off_from_redis(
    service: Api, connected: redis.Redis, tmp_path: Path
) -> None:
    job = service.submit("story", input={"count": 60, "pause": 0.02})
    with over_websocket(service, job["id"], "?after=0") as events:
        seen = []
        for event in events:
            seen.append(event)
            if event["type"] == "output":
                connected.client_kill_filter(_type="pubsub")

    assert seen == service.log(job["id"])


@pytest.mark.parametrize("signum", [signal.SIGHUP, signal.SIGTERM])
def test_a_restart_ends_sockets_with_the_restart_code_and_streams_and_long_polls_with_an_answer(
    service: Api, other: Deployment, connected: redis.Redis, signum: signal.Signals
) -> None:
    web = other.web()
    with suspended(service), ThreadPoolExecutor(1) as pool:
        job = service.submit("echo")
        with over_websocket(web, job["id"]) as sock, over_event_stream(web, job["id"]) as lines:
            next(sock), next(lines)
            poll = pool.submit(web.job, job["id"], 20)
            until(lambda: connected.pubsub_numsub(stream(job["id"]))[0][1] >= 1)
            web.process.send_signal(signum)  # type: ignore[attr-defined]

            with pytest.raises(Closed) as closed:
                next(sock)

            assert (closed.value.code, closed.value.reason["type"]) == (1012, "restarting")
            assert list(lines) == []
            assert poll.result(timeout=10)["status"] == "queued"
        if signum == signal.SIGHUP:  # another process serves at the same port
            eventually(lambda: web.job(job["id"]))
        service.cancel(job["id"])


# --- those who wait take no thread ----------------------------------------------------------------


def test_waiters_take_no_threads_and_keep_nobody_from_being_served(
    service: Api, other: Deployment, connected: redis.Redis
) -> None:
    web = other.web(WEB_THREADS="2")
    (pid,) = children(web.process.pid)  # type: ignore[attr-defined]
    with suspended(service), ExitStack() as open_ones, ThreadPoolExecutor(10) as pool:
        job = web.submit("echo")

        def wait_for_it() -> Any:
            return httpx.get(f"{web.http.base_url}/v1/jobs/{job['id']}?wait=20", timeout=30, verify=NO_TLS).json()

        next(open_ones.enter_context(over_websocket(web, job["id"])))
        threads = len(os.listdir(f"/proc/{pid}/task"))
        watches = [
            open_ones.enter_context(watch(web, job["id"]))
            for watch in (over_websocket, over_event_stream)
            for _ in range(20)
        ]
        assert [next(events)["type"] for events in watches] == ["snapshot"] * 40
        polls = [pool.submit(wait_for_it) for _ in range(10)]
        until(lambda: len(os.listdir(f"/proc/{pid}/fd")) >= 51)

        assert web.job(job["id"])["status"] == "queued"
        assert len(os.listdir(f"/proc/{pid}/task")) <= threads + 4  # the reads, which grow to 4 at the first use
        web.cancel(job["id"])
        assert [poll.result(timeout=10)["status"] for poll in polls] == ["canceled"] * 10


def test_a_long_poll_whose_caller_has_gone_gives_its_place_back(
    service: Api, other: Deployment, connected: redis.Redis
) -> None:
    web = other.web(MAX_WATCHERS="1")
    with suspended(service):
        for _ in range(3):
            job = web.submit("echo")
            with socket.create_connection(("127.0.0.1", web.port)) as caller:
                caller.sendall(f"GET /v1/jobs/{job['id']}?wait=20 HTTP/1.1\r\nHost: x\r\n\r\n".encode())
                listened_to(connected, job["id"])
                assert brief_poll(web, job["id"]) == 503
                cut(caller)
            free(web, job["id"])
            web.cancel(job["id"])


def free(api: Api, job_id: str) -> None:
    """Wait until somebody more may wait."""
    until(lambda: brief_poll(api, job_id) == 200)


def brief_poll(api: Api, job_id: str) -> int:
    return api.http.get(f"/v1/jobs/{job_id}?wait=0.01").status_code


# --- servers whose socket cannot be had -----------------------------------------------------------


@pytest.fixture
def development_server(other: Deployment) -> Api:
    """Flask's own server, which lends its sockets to nobody."""
    port = free_port()
    log = other.folder / "flask.log"
    with log.open("wb") as output:
        command = [sys.executable, "-m", "flask", "--app", "service.web.app", "run", "--port", str(port)]
        process = subprocess.Popen(command, env=other.environment, stdout=output, stderr=subprocess.STDOUT)
    other.processes.append(process)
    api = other.api(port)
    eventually(lambda: api.http.get("/healthz"))
    return api


@pytest.mark.parametrize("transport", TRANSPORTS)
def test_a_job_is_watched_alike_on_the_development_server(
    service: Api, development_server: Api, transport: str
) -> None:
    with suspended(service):
        job = service.submit("story")
    with TRANSPORTS[transport](development_server, job["id"], "?after=0") as events:
        assert list(events) == service.log(job["id"])


def test_a_long_poll_is_answered_alike_on_the_development_server(service: Api, development_server: Api) -> None:
    answer = development_server.submit("echo", wait=10, input={"value": "x"})

    assert (answer["status"], answer["output"]) == ("finished", "x")


def test_a_job_is_watched_alike_with_the_test_client(service: Api, tmp_path: Path, pickle_by_default: None) -> None:
    client = create_app(Settings(redis_url=service.redis_url, data_dir=tmp_path)).test_client()  # type: ignore[attr-defined]

    job = client.post("/v1/models/story/jobs", json={"input": {}}, headers={"Prefer": "wait=10"})
    path = job.json["urls"]["events"]
    lines = client.get(f"{path}?after=0", headers={"Accept": "text/event-stream"}).text.splitlines()

    assert (job.status_code, job.json["output"]) == (200, "abcde")
    seen = [json.loads(line[6:]) for line in lines if line.startswith("data: ")]
    assert seen == client.get(path).json["events"]
    assert types(seen)[-1] == "finished"


# --- clients that behave badly --------------------------------------------------------------------


@contextmanager
def narrow(api: Api, path: str) -> Iterator[websocket.WebSocket]:
    """A socket for which little fits into the kernel's buffers."""
    with socket.socket() as plain:
        plain.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        plain.connect(("127.0.0.1", api.port))
        yield api.socket(path, socket=plain)


def test_a_client_that_was_behind_gets_all_but_older_progress(service: Api) -> None:
    with suspended(service):
        job = service.submit("story", input={"count": 200, "size": 40_000, "pause": 0.01})
        watch = narrow(service, f"{job['urls']['events']}?after=0")
        watcher = watch.__enter__()
    service.done(job["id"], 30)  # all the while it reads nothing
    seen = list(events_of(watcher))
    watch.__exit__(None, None, None)

    log = {event["id"]: event for event in full_log(service, job["id"])}
    assert [event for event in seen if event["type"] != "progress"] == [
        event for event in log.values() if event["type"] != "progress"
    ]
    assert all(log[event["id"]] == event for event in seen)
    progress = [event for event in log.values() if event["type"] == "progress"]
    told = [event for event in seen if event["type"] == "progress"]
    assert told[-1] == progress[-1]
    assert len(told) < len(progress)


def collect(events: Iterator[Event], seen: list[Event]) -> None:
    """Append the events as they come: some are there although the last one raises."""
    for event in events:
        seen.append(event)


def full_log(api: Api, job_id: str) -> list[Event]:
    with TRANSPORTS["pages"](api, job_id, "?after=0") as events:
        return list(events)


def test_a_client_that_reads_nothing_is_closed_and_resumes_with_all_it_missed(service: Api) -> None:
    with suspended(service):
        job = service.submit("story", input={"count": 200, "size": 40_000})
        watch = narrow(service, f"{job['urls']['events']}?after=0")
        watcher = watch.__enter__()
    log = full_log(service, job["id"])
    time.sleep(12)  # it is the time for which it reads nothing that counts
    seen: list[Event] = []
    with pytest.raises(Closed) as closed:
        collect(events_of(watcher), seen)
    watch.__exit__(None, None, None)

    assert (closed.value.code, closed.value.reason["type"]) == (4408, "too-slow")
    assert seen == log[: len(seen)]
    assert len(seen) < len(log)
    with over_websocket(service, job["id"], f"?after={seen[-1]['id']}") as events:
        assert list(events) == log[len(seen) :]


def test_a_client_that_answers_no_ping_is_found(service: Api) -> None:
    with suspended(service):
        job = service.submit("echo")
        watcher = service.socket(job["urls"]["events"])
        watcher.settimeout(35)
        began = time.monotonic()
        opcodes = []
        while websocket.ABNF.OPCODE_CLOSE not in opcodes:
            frame = watcher.recv_frame()  # which answers nothing
            opcodes.append(frame.opcode)

        assert time.monotonic() - began < 30
        watcher.shutdown()
        service.cancel(job["id"])
    assert int.from_bytes(frame.data[:2], "big") == 1008
    assert websocket.ABNF.OPCODE_PING in opcodes


def test_what_breaks_the_protocol_is_closed_with_1002(service: Api) -> None:
    with suspended(service):
        job = service.submit("echo")
        watcher = service.socket(job["urls"]["events"])
        watcher.recv()
        watcher.sock.sendall(b"\x81\x05hello")  # a client must mask

        opcode, data = watcher.recv_data()

        watcher.shutdown()
        service.cancel(job["id"])
    assert (opcode, int.from_bytes(data[:2], "big")) == (websocket.ABNF.OPCODE_CLOSE, 1002)


def test_compression_is_not_agreed_to(service: Api) -> None:
    job = service.submit("echo", wait=10)

    watcher = service.socket(
        job["urls"]["events"], header=["Sec-WebSocket-Extensions: permessage-deflate; client_max_window_bits"]
    )
    watcher.shutdown()

    assert "sec-websocket-extensions" not in watcher.headers


def test_a_socket_is_all_that_there_is_for_many_jobs(service: Api) -> None:
    answer = service.http.get("/v1/events")

    assert (answer.status_code, answer.json()["type"]) == (426, "/problems/upgrade-required")
