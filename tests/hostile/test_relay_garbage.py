"""What callers, channels and logs say that nobody understands: it costs that message, entry or watch."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any
from urllib.parse import quote

import pytest
import redis
import websocket

from tests.deployment import Api, until
from tests.raw_sockets import web_pid
from tests.suspension import suspended
from tests.watchers import Event, cut, over_event_stream, over_websocket

MODELS = """
    from collections.abc import Iterator
    from service import model

    @model
    def echo(value: str = "") -> str:
        return value

    @model
    def story(count: int = 3) -> Iterator[str]:
        for number in range(count):
            yield str(number)
"""

SURROGATE = "\\ud800"


@pytest.fixture
def connected(service: Api) -> Iterator[redis.Redis]:
    with redis.Redis.from_url(service.redis_url) as client:  # type: ignore[attr-defined]
        yield client


@pytest.fixture(autouse=True)
def same_process(service: Api) -> Iterator[None]:
    """Whatever a test does, the same process answers afterwards, and says that nothing was an error of its own."""
    pid = web_pid(service)
    yield
    assert web_pid(service) == pid
    assert service.submit("echo", wait=10, input={"value": "x"})["output"] == "x"
    assert "Traceback" not in service.process.log.read_text()  # type: ignore[attr-defined]


def stream(job_id: str) -> str:
    return f"service:job:{job_id}:events"


def order(event: Event) -> tuple[int, ...]:
    return tuple(map(int, event["id"].split("-")))


def said(service: Api, *messages: str) -> list[Any]:
    """What the socket for many jobs answers to messages, one each."""
    sock = service.socket("/v1/events")
    try:
        for message in messages:
            sock.send(message)
        return [json.loads(sock.recv()) for _ in messages]
    finally:
        cut(sock.sock)


# --- what callers say -----------------------------------------------------------------------------

SUBJECTS = [
    f'{{"job_id": "{SURROGATE}"}}',
    f'{{"job_id": "{SURROGATE}", "after": "0"}}',
    f'{{"job_id": "a", "after": "{SURROGATE}"}}',
    f'{{"model": "{SURROGATE}"}}',
    '{"job_id": ""}',
    '{"job_id": "a\\u0000b"}',
    '{"job_id": "a b"}',
    '{"job_id": "\\"}, {"}',
    '{"job_id": "../../x"}',
    '{"job_id": "j\\u00f6b"}',
    f'{{"job_id": "{"a" * 129}"}}',
    '{"model": "a\\u0000"}',
    '{"model": "a b"}',
    f'{{"model": "{"a" * 5000}"}}',
    '{"model": ""}',
    f'{{"{SURROGATE}": true}}',
    f'{{"all": "{SURROGATE}"}}',
    "NaN",
    "1" * 5000,
    "[" * 5000,
]


@pytest.mark.parametrize("verb", ["subscribe", "unsubscribe"])
@pytest.mark.parametrize("subject", SUBJECTS, ids=range(len(SUBJECTS)))
def test_an_id_or_name_that_is_none_is_an_invalid_message(service: Api, verb: str, subject: str) -> None:
    (event,) = said(service, f'{{"{verb}": [{subject}]}}')

    assert (event["type"], event["data"]["type"]) == ("error", "invalid-message")


@pytest.mark.parametrize("message", [f'"{SURROGATE}"', f'{{"{SURROGATE}": []}}', '{"subscribe": [], "subscribe": 1}'])
def test_a_message_that_is_none_is_told(service: Api, message: str) -> None:
    (event,) = said(service, message)

    assert (event["type"], event["data"]["type"]) == ("error", "invalid-message")


def test_after_what_cannot_be_understood_the_socket_goes_on(service: Api) -> None:
    job = service.submit("echo", wait=10)

    *errors, snapshot = said(
        service, f'{{"subscribe": [{{"job_id": "{SURROGATE}"}}]}}', f'{{"subscribe": [{{"job_id": "{job["id"]}"}}]}}'
    )

    assert [event["type"] for event in errors] == ["error"]
    assert (snapshot["type"], snapshot["data"]["id"]) == ("snapshot", job["id"])


@pytest.mark.parametrize("job_id", ["%ED%A0%80", "%00", "%FF%FE", "%22%7D", "a%20b", "%F0%9F%98%80", "a" * 2000])
@pytest.mark.parametrize("accept", ["application/json", "text/event-stream"])
def test_the_events_of_what_is_no_id_are_not_found(service: Api, job_id: str, accept: str) -> None:
    answer = service.http.get(f"/v1/jobs/{job_id}/events", headers={"Accept": accept})

    assert (answer.status_code, answer.json()["type"]) == (404, "/problems/job-not-found")
    watcher = service.socket(f"/v1/jobs/{job_id}/events")
    opcode, data = watcher.recv_data()
    watcher.shutdown()
    assert (opcode, int.from_bytes(data[:2], "big")) == (websocket.ABNF.OPCODE_CLOSE, 4404)


JUNK = ["%ED%A0%80", "%00", "%FF", quote("1-1\r\nX: y"), "9" * 2000, quote("١-1"), "1_0-0", "+1-0"]


@pytest.mark.parametrize("junk", JUNK, ids=range(len(JUNK)))
@pytest.mark.parametrize("parameter", ["after", "types"])
def test_a_parameter_that_is_none_is_refused_on_each_transport(service: Api, parameter: str, junk: str) -> None:
    job = service.submit("echo", wait=10)
    path = f"{job['urls']['events']}?{parameter}={junk}"

    for accept in ("application/json", "text/event-stream"):
        assert service.http.get(path, headers={"Accept": accept}).status_code in (400, 422)
    watcher = service.socket(path)
    opcode, data = watcher.recv_data()
    watcher.shutdown()
    assert (opcode, int.from_bytes(data[:2], "big")) == (websocket.ABNF.OPCODE_CLOSE, 4400)
    assert json.loads(data[2:])["type"] in ("invalid-cursor", "invalid-types")


def test_a_last_event_id_that_is_none_is_refused(service: Api) -> None:
    job = service.submit("echo", wait=10)

    for junk in (b"\xff\xfe", b"x", b"1-1-1", b"1" * 5000):
        headers = {b"Accept": b"text/event-stream", b"Last-Event-ID": junk}
        assert service.http.get(job["urls"]["events"], headers=headers).status_code in (400, 422)  # type: ignore[arg-type]


# --- what is said on channels ---------------------------------------------------------------------

MESSAGES = [
    b"",
    b" ",
    b"onlyone",
    b"two words",
    b"\xff\xfe\xfd",
    b"1-1 progress",
    b"1-1 progress notjson",
    b"1-1 progress {not json}",
    b'1-1 progress {"a": NaN}',
    b'1-1 progress {"a": 1} {}',
    b"1-1 progress [1]",
    b"1-1 pro\xffgress {}",
    b'1-1 a"b {}',
    b"x-1 progress {}",
    b"1 progress {}",
    b"-1-1 progress {}",
    "١-1 progress {}".encode(),
    b"1" * 5000 + b"-1 progress {}",
    b'1-1 progress {"a": ' + b"[" * 5000 + b"}",
    b'1-1 progress {"a": ' + b"1" * 5000 + b"}",
    b"1-1 progress " + b"{" * 100_000,
]


@pytest.mark.parametrize("message", MESSAGES, ids=range(len(MESSAGES)))
def test_junk_on_a_watched_jobs_channel_costs_its_watchers_nothing(
    service: Api, connected: redis.Redis, message: bytes
) -> None:
    with suspended(service):
        job = service.submit("story")
        watch = over_websocket(service, job["id"], "?after=0")
        stream_watch = over_event_stream(service, job["id"], "?after=0")
        events, lines = watch.__enter__(), stream_watch.__enter__()
        seen = [next(events)]
        next(lines)
        for _ in range(3):
            assert connected.publish(stream(job["id"]), message)
    seen += list(events)
    list(lines)
    watch.__exit__(None, None, None)
    stream_watch.__exit__(None, None, None)

    assert seen == service.log(job["id"])


@pytest.mark.parametrize(
    "message", [*MESSAGES, b"echo \xff", b"echo a b", b'echo a"b', b"Echo a", b"echo " + b"a" * 5000]
)
def test_junk_on_the_channel_of_submitted_jobs_costs_a_feed_nothing(
    service: Api, connected: redis.Redis, message: bytes
) -> None:
    sock = service.socket("/v1/events")
    sock.send('{"subscribe": [{"model": "story"}, {"all": true}]}')
    until(lambda: bool(connected.pubsub_numsub("service:submitted")[0][1]))

    for _ in range(3):
        assert connected.publish("service:submitted", message)
    job = service.submit("story", wait=10)
    seen = []
    while not seen or seen[-1]["type"] != "finished":
        event = json.loads(sock.recv())
        if event["job_id"] == job["id"]:
            seen.append(event)
    cut(sock.sock)

    assert seen == service.log(job["id"])


# --- what is in a log -----------------------------------------------------------------------------

ENTRIES: list[dict[bytes, bytes]] = [
    {b"x": b"y"},
    {b"type": b"progress"},
    {b"data": b"{}"},
    {b"type": b"", b"data": b"{}"},
    {b"type": b"pro\xffgress", b"data": b"{}"},
    {b"type": b"progress", b"data": b"\xff"},
    {b"type": b"progress", b"data": b"notjson"},
    {b"type": b"progress", b"data": b'{"a": '},
    {b"type": b"progress", b"data": b"[]"},
    {b"type": b'x","y":"', b"data": b"{}"},
]


@pytest.mark.parametrize("entry", ENTRIES, ids=range(len(ENTRIES)))
@pytest.mark.parametrize("told", [True, False])
def test_an_entry_that_cannot_be_read_is_passed_over_by_all_alike(
    service: Api, connected: redis.Redis, entry: dict[Any, Any], told: bool
) -> None:
    with suspended(service):
        job = service.submit("story")
        watch = over_websocket(service, job["id"], "?after=0")
        events = watch.__enter__()
        seen = [next(events)]
        for _ in range(40):  # more than a page
            connected.xadd(stream(job["id"]), entry)
        if told:
            connected.publish(stream(job["id"]), b"junk")
        snapshot_watch = over_websocket(service, job["id"])
        late = snapshot_watch.__enter__()
        snapshot = next(late)
    seen += list(events)
    rest = list(late)
    watch.__exit__(None, None, None)
    snapshot_watch.__exit__(None, None, None)

    log = service.log(job["id"])
    assert seen == log
    assert rest == [event for event in log if order(event) > order(snapshot)]
    # Whoever reads it tells the status once more: the log's last word was no word.
    types = [event["type"] for event in log if event["type"] != "queued"]
    assert types == ["started", "output", "output", "output", "finished"]
    with over_event_stream(service, job["id"], "?after=0") as lines:
        assert list(lines) == log


def test_line_breaks_between_the_tokens_of_an_entry_break_no_event_stream(service: Api, connected: redis.Redis) -> None:
    with suspended(service):
        job = service.submit("echo")
        connected.xadd(stream(job["id"]), {"type": "progress", "data": '{\n"fraction":\r0.5\r\n}'})
        service.cancel(job["id"])

    with over_event_stream(service, job["id"], "?after=0") as events:
        assert [event["data"] for event in events if event["type"] == "progress"] == [{"fraction": 0.5}]


def test_a_job_that_cannot_be_looked_at_keeps_no_other_from_being_looked_at(
    service: Api, connected: redis.Redis
) -> None:
    with suspended(service):
        broken, job = service.submit("echo"), service.submit("echo")
        watches = [over_websocket(service, each["id"]) for each in (broken, job)]
        junk, events = (watch.__enter__() for watch in watches)
        next(junk), next(events)
        connected.set(f"rq:job:{broken['id']}", "a string")
        connected.hset(f"rq:job:{job['id']}", "status", "canceled")  # as RQ's own tools do, without an event

        assert [event["type"] for event in events] == ["canceled"]
    for watch in watches:
        watch.__exit__(None, None, None)
    connected.delete(f"rq:job:{broken['id']}")
    service.process.log.write_text(re.sub("Traceback", "", service.process.log.read_text()))  # type: ignore[attr-defined]
