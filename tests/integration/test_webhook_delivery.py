"""The model `webhooks`: what becomes of a delivery, told in words that its caller understands."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from typing import Any

import pytest
from standardwebhooks.webhooks import Webhook

from service.model import Fatal, Retry
from service.webhooks import delivery, sender
from service.webhooks.delivery import DeliveryFailed, Gone, webhooks
from service.webhooks.signature import new_secret
from service.worker.prediction import failure, predict
from tests.deployment import free_port
from tests.receivers import Receiver, Talk, answers, hangs, receiver

BODY = '{"type":"job.finished","text":"größe"}'
SECRETS = (new_secret(), new_secret())


@pytest.fixture(autouse=True)
def settings(monkeypatch: pytest.MonkeyPatch) -> Iterator[pytest.MonkeyPatch]:
    """What the model finds in its environment: it is read anew."""
    monkeypatch.setenv("WEBHOOK_ALLOW", "127.0.0.1")
    monkeypatch.setenv("WEBHOOK_SECRET", " ".join(SECRETS))
    delivery._configured = None
    yield monkeypatch
    delivery._configured = None


def delivered(talk: Talk, tries: int = 1) -> tuple[list[Any], Receiver]:
    """The output, or the exception, of each try."""

    async def run() -> tuple[list[Any], Receiver]:
        async with receiver(talk) as each:
            attempts = [webhooks(id="msg_1", url=each.url, body=BODY) for _ in range(tries)]
            return [(await asyncio.gather(attempt, return_exceptions=True))[0] for attempt in attempts], each

    return asyncio.run(run())


def outcome(head: str, body: str = "") -> Any:
    """What becomes of one try that is answered so."""
    (end,), _ = delivered(answers(f"HTTP/1.1 {head}\r\nContent-Length: {len(body)}\r\n\r\n{body}".encode()))
    return end


@pytest.mark.parametrize("status", [200, 201, 202, 204, 299])
def test_any_2xx_is_a_delivery(status: int) -> None:
    end = outcome(f"{status} Good")

    assert end["status"] == status
    assert set(end) == {"status", "seconds"}


def test_each_try_has_the_same_id_and_a_signature_that_receivers_of_both_secrets_accept() -> None:
    _, each = delivered(answers(b"HTTP/1.1 500 Oh\r\n\r\n"), tries=2)

    ids = set()
    for request in each.requests:
        head, _, body = request.partition(b"\r\n\r\n")
        headers = dict(line.split(": ", 1) for line in head.decode().split("\r\n")[1:])
        ids.add(headers["webhook-id"])
        for secret in SECRETS:
            assert Webhook(secret).verify(body, headers) == json.loads(BODY)
    assert (ids, len(each.requests)) == ({"msg_1"}, 2)


@pytest.mark.parametrize(
    ("head", "body", "message"),
    [
        ("500 Oh", "no database", "the receiver answered 500: no database"),
        ("404 Not Found", "", "the receiver answered 404"),
        ("304 Not Modified", "", "the receiver answered 304"),
        ("302 F\r\nLocation: http://10.0.0.7/", "", "the receiver answered 302: redirects are not followed: "),
        ("999 Odd", "", "the receiver answered 999"),
    ],
)
def test_any_other_answer_is_tried_again_and_told(head: str, body: str, message: str) -> None:
    end = outcome(head, body)

    assert isinstance(end, DeliveryFailed)
    assert str(end).startswith(message)
    assert failure(end)["error"]["message"] == str(end)
    assert failure(end)["again"]


@pytest.mark.parametrize("status", [429, 503, 500])
@pytest.mark.parametrize(
    ("value", "least", "most"),
    [
        ("120", 120, 120),
        (" 7 ", 7, 7),
        ("86401", 86400, 86400),
        ("9" * 5000, 86400, 86400),
        (format_datetime(datetime.now(UTC) + timedelta(hours=1), usegmt=True), 1, 3600),
        ("Fri, 31 Dec 9999 23:59:59 GMT", 86400, 86400),
    ],
    ids=["seconds", "blanks", "more than a day", "endless", "date", "far date"],
)
def test_a_receiver_says_when_to_try_again(status: int, value: str, least: float, most: float) -> None:
    end = outcome(f"{status} Later\r\nRetry-After: {value}")

    assert isinstance(end, Retry)
    assert end.after is not None
    assert least <= end.after <= most


@pytest.mark.parametrize(
    "value",
    [
        "0",
        "",
        "-5",
        "1.5",
        "soon",
        "²",
        "Fri, 31 Dec 1999 23:59:59 GMT",
        "Fri, 31 Dec 1999 23:59:59 -0000",
        "Fri, 99 Foo",
    ],
)
def test_a_retry_after_that_names_no_time_to_come_leaves_it_to_the_back_off(value: str) -> None:
    end = outcome(f"503 Later\r\nRetry-After: {value}")

    assert isinstance(end, DeliveryFailed)
    assert end.after == DeliveryFailed("").after


def test_a_receiver_that_is_gone_is_not_tried_again() -> None:
    end = outcome("410 Gone\r\nRetry-After: 5", "moved away")

    assert isinstance(end, Gone)
    assert isinstance(end, Fatal)
    assert str(end) == "the receiver answered 410: moved away; no more is sent"


@pytest.mark.parametrize(
    ("url", "message"),
    [
        (
            "http://10.0.0.7/hook",
            "10.0.0.7 is not a public address: webhooks go to public addresses only, WEBHOOK_ALLOW",
        ),
        ("http://2130706434/", "2130706434 leads to 127.0.0.2: 127.0.0.2 is not a public address"),
        ("ftp://example.com/", "the URL should start with http:// or https://"),
    ],
)
def test_a_url_that_webhooks_may_not_go_to_is_not_tried_again(url: str, message: str) -> None:
    with pytest.raises(Fatal, match=f"^{message}"):
        asyncio.run(webhooks(id="msg_1", url=url, body=BODY))


def test_a_receiver_that_does_not_answer_is_tried_again() -> None:
    with pytest.raises(DeliveryFailed, match="^connection refused$"):
        asyncio.run(webhooks(id="msg_1", url=f"http://127.0.0.1:{free_port()}/", body=BODY))


def test_a_receiver_that_hangs_is_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sender.post, "__defaults__", (0.3,))

    (end,), _ = delivered(hangs)

    assert isinstance(end, DeliveryFailed)
    assert str(end) == "no answer within 0.3 s"


def test_its_time_limit_as_a_job_leaves_a_try_time_to_say_how_it_ended() -> None:
    described = webhooks.__model__

    assert (described.name, described.kind, described.options.concurrency) == ("webhooks", "async", 50)
    assert described.options.timeout > sender.LONGEST_TRY
    assert set(described.input_schema()["required"]) == {"id", "url", "body"}


def test_as_a_job_it_leaves_json_behind() -> None:
    async def run() -> str:
        async with receiver(answers(b"HTTP/1.1 202 Good\r\n\r\n")) as each:
            value = {"id": "msg_1", "url": each.url, "body": BODY}
            return await asyncio.to_thread(predict, webhooks.__model__, None, value, print, 10_000)

    assert json.loads(asyncio.run(run()))["status"] == 202
