"""One WebSocket for many jobs: each is watched as if it had a socket of its own."""

from __future__ import annotations

import json
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import redis
import websocket

from tests.deployment import Api, until
from tests.suspension import suspended
from tests.watchers import Event, cut

MODELS = """
    from collections.abc import Iterator
    from service import model, progress

    @model
    def echo(value: str = "") -> str:
        return value

    @model
    def story(count: int = 5) -> Iterator[str]:
        for number in range(count):
            progress.update((number + 1) / count)
            yield str(number)

    @model
    def quiet() -> None:
        pass
"""


class Feed:
    """A socket for many jobs, and what it was sent, by job."""

    def __init__(self, sock: websocket.WebSocket) -> None:
        self._sock = sock
        self.seen: dict[str, list[Event]] = defaultdict(list)

    def say(self, **message: Any) -> None:
        self._sock.send(json.dumps(message))

    def next(self) -> Event:
        opcode, data = self._sock.recv_data()
        assert opcode == websocket.ABNF.OPCODE_TEXT, data
        event: Event = json.loads(data)
        self.seen[event["job_id"]].append(event)
        return event

    def until_over(self, *job_ids: str) -> None:
        """Read until each of these jobs has ended."""
        left = {job_id for job_id in job_ids if not self.over(job_id)}
        while left:
            event = self.next()
            if self.over(event["job_id"]):
                left.discard(event["job_id"])

    def over(self, job_id: str) -> bool:
        last = self.seen[job_id][-1:]
        return bool(last) and (last[0]["type"] == "finished" or last[0]["data"].get("done") is True)

    def is_silent(self) -> bool:
        """Whether nothing comes that is not an answer to a ping."""
        self._sock.ping()
        opcode, _ = self._sock.recv_data(control_frame=True)
        return bool(opcode == websocket.ABNF.OPCODE_PONG)

    def close_code(self) -> int | None:
        """The code with which the server has closed it; None if it answers a ping."""
        self._sock.ping()
        opcode, data = self._sock.recv_data(control_frame=True)
        return int.from_bytes(data[:2], "big") if opcode == websocket.ABNF.OPCODE_CLOSE else None


@contextmanager
def feeding(api: Api, query: str = "") -> Iterator[Feed]:
    sock = api.socket(f"/v1/events{query}")
    try:
        yield Feed(sock)
    finally:
        cut(sock.sock)


def test_each_of_many_jobs_is_told_from_where_it_was_asked(service: Api) -> None:
    jobs = [service.submit("story", wait=10)["id"] for _ in range(3)]
    logs = [service.log(job_id) for job_id in jobs]

    with feeding(service) as feed:
        feed.say(subscribe=[{"job_id": jobs[0], "after": "0"}, {"job_id": jobs[1], "after": logs[1][2]["id"]}])
        feed.say(subscribe=[{"job_id": jobs[2]}])
        feed.until_over(*jobs)

    assert feed.seen[jobs[0]] == logs[0]
    assert feed.seen[jobs[1]] == logs[1][3:]
    assert [event["type"] for event in feed.seen[jobs[2]]] == ["snapshot"]


def test_three_hundred_jobs_that_run_are_told_on_one_socket(service: Api) -> None:
    with feeding(service) as feed:
        with suspended(service):
            jobs = [service.submit("story", input={"count": 3})["id"] for _ in range(300)]
            feed.say(subscribe=[{"job_id": job_id, "after": "0"} for job_id in jobs])
            while len(feed.seen) < 300:
                assert feed.next()["type"] == "queued"
        feed.until_over(*jobs)

    assert all(feed.seen[job_id] == service.log(job_id) for job_id in jobs)


def test_a_job_that_is_unsubscribed_is_told_no_more(service: Api) -> None:
    with feeding(service) as feed:
        with suspended(service):
            kept, dropped = (service.submit("story")["id"] for _ in range(2))
            feed.say(subscribe=[{"job_id": kept}, {"job_id": dropped}])
            while len(feed.seen) < 2:
                feed.next()
            feed.say(unsubscribe=[{"job_id": dropped}])
            assert feed.is_silent()  # so it has taken note
        feed.until_over(kept)
        service.done(dropped)

    assert [event["type"] for event in feed.seen[dropped]] == ["snapshot"]


def test_types_are_left_out_for_all_jobs(service: Api) -> None:
    jobs = [service.submit("story", wait=10)["id"] for _ in range(2)]

    with feeding(service, "?types=finished") as feed:
        feed.say(subscribe=[{"job_id": job_id, "after": "0"} for job_id in jobs])
        feed.until_over(*jobs)

    assert [event["type"] for job_id in jobs for event in feed.seen[job_id]] == ["finished", "finished"]


# --- of a model, and all --------------------------------------------------------------------------


@pytest.mark.parametrize("wish", [{"model": "story"}, {"all": True}])
def test_jobs_of_a_model_are_told_those_that_wait_and_those_that_come(service: Api, wish: dict[str, Any]) -> None:
    over = service.submit("story", wait=10)["id"]
    with feeding(service) as feed:
        with suspended(service):
            waiting = service.submit("story")["id"]
            feed.say(subscribe=[wish])
            assert feed.next()["type"] == "snapshot"
            coming = service.submit("story", priority="high")["id"]
            other = service.submit("echo")["id"]
        feed.until_over(waiting, coming, *([other] if "all" in wish else []))

    assert feed.seen[waiting][1:] == service.log(waiting)[1:]
    assert feed.seen[coming] == service.log(coming)
    assert over not in feed.seen
    assert (other in feed.seen) == ("all" in wish)


def test_a_feed_misses_no_job_that_came_while_redis_was_not_listened_to(service: Api) -> None:
    with feeding(service) as feed, redis.Redis.from_url(service.redis_url) as connection:  # type: ignore[attr-defined]
        feed.say(subscribe=[{"model": "quiet"}])
        until(lambda: bool(connection.pubsub_numsub("service:submitted")[0][1]))
        jobs = []
        for _ in range(20):
            connection.client_kill_filter(_type="pubsub")
            jobs.append(service.submit("quiet", wait=10)["id"])
        feed.until_over(*jobs)

    assert all(feed.seen[job_id] == service.log(job_id) for job_id in jobs)


def test_a_model_that_is_unsubscribed_brings_no_new_jobs(service: Api) -> None:
    with feeding(service) as feed, redis.Redis.from_url(service.redis_url) as connection:  # type: ignore[attr-defined]
        feed.say(subscribe=[{"model": "story"}])
        until(lambda: bool(connection.pubsub_numsub("service:submitted")[0][1]))
        feed.say(unsubscribe=[{"model": "story"}])
        until(lambda: not connection.pubsub_numsub("service:submitted")[0][1])
        service.submit("story", wait=10)

        assert feed.is_silent()


# --- what cannot be had ---------------------------------------------------------------------------


def test_a_job_that_is_not_there_is_told_and_the_others_go_on(service: Api) -> None:
    job_id = service.submit("story", wait=10)["id"]
    gone = service.submit("echo", wait=10)
    service.http.delete(gone["urls"]["self"])

    with feeding(service) as feed:
        feed.say(subscribe=[{"job_id": "unknown"}, {"job_id": gone["id"]}, {"job_id": job_id, "after": "0"}])
        feed.until_over(job_id)
        while "unknown" not in feed.seen or gone["id"] not in feed.seen:
            feed.next()

    (unknown,), (erased,) = feed.seen["unknown"], feed.seen[gone["id"]]
    assert (unknown["type"], unknown["data"]["type"]) == ("error", "job-not-found")
    assert (erased["type"], erased["data"]["type"]) == ("error", "job-gone")
    assert feed.seen[job_id] == service.log(job_id)


def test_a_model_that_is_not_there_is_told(service: Api) -> None:
    with feeding(service) as feed:
        feed.say(subscribe=[{"model": "nonesuch"}])

        event = feed.next()

    assert (event["type"], event["data"]["type"]) == ("error", "model-not-found")
    assert "nonesuch" in event["data"]["title"]


@pytest.mark.parametrize(
    ("message", "said"),
    [
        ("not json", "expected JSON"),
        ("[]", "expected an object"),
        ("{}", "expected an object"),
        ('{"subscrib": []}', "expected an object"),
        ('{"subscribe": {}}', "subscribe: expected a list"),
        ('{"subscribe": [{"job_id": "a"}, {"job_id": 7}]}', "subscribe[1]: expected"),
        ('{"subscribe": [{"job_id": "a", "after": "x"}]}', "subscribe[0]: after is 'x'"),
        ('{"subscribe": [{"job_id": "a", "since": "0"}]}', "subscribe[0]: expected"),
        ('{"unsubscribe": [{"all": false}]}', "unsubscribe[0]: expected"),
    ],
)
def test_a_message_that_cannot_be_understood_is_told_where(service: Api, message: str, said: str) -> None:
    with feeding(service) as feed:
        feed._sock.send(message)

        event = feed.next()

        assert (event["type"], event["data"]["type"]) == ("error", "invalid-message")
        assert event["data"]["title"].startswith(said)
        assert feed.is_silent()


def test_no_more_jobs_than_ten_thousand_are_watched_on_one_socket(service: Api) -> None:
    with feeding(service) as feed:
        for start in range(0, 10_002, 5_001):
            feed.say(subscribe=[{"job_id": f"{number}"} for number in range(start, start + 5_001)])
        kinds = [feed.next()["data"]["type"] for _ in range(10_002)]

    # Those that were found not to be there made room for others.
    assert set(kinds) <= {"job-not-found", "too-many-jobs"}


def test_a_client_that_never_stops_talking_is_closed(service: Api) -> None:
    with feeding(service) as feed:
        code = None
        deadline = time.monotonic() + 30
        while code is None and time.monotonic() < deadline:
            feed.say(unsubscribe=[{"job_id": "x"}])
            code = feed.close_code()

    assert code == 1008
