"""Webhooks, from the submit to the receiver: what is sent, when it is sent again, and what becomes of it."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import hmac
import json
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from tests.deployment import Api, Deployment, eventually, until

MODELS = """
    import time
    from service import model

    @model
    def double(x: int, padding: int = 0) -> list[str]:
        return [str(2 * x), "x" * padding]

    @model(retries=1, backoff=0)
    def fails() -> None:
        raise RuntimeError("no luck")

    @model
    def sleeps() -> None:
        time.sleep(60)
"""

KEY = b"k" * 32
SECRET = "whsec_" + base64.b64encode(KEY).decode()


STATUSES = {"down": 500, "gone": 410, "redirects": 307, "endless": 200}


class Receiver:
    """A receiver of webhooks on this machine: the first part of the path says how it answers."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, dict[str, str], bytes]] = []
        self.released = threading.Event()
        self.endless = 0
        """Bytes that were taken of an endless answer."""
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                receiver.calls.append((self.path, {k.lower(): v for k, v in self.headers.items()}, body))
                receiver.answer(self)

            def log_message(self, *_: Any) -> None: ...

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()

    def answer(self, request: BaseHTTPRequestHandler) -> None:
        how, times = request.path.split("/")[1], len(self.to(request.path))
        status, headers = STATUSES.get(how, 204), {}
        if how == "fails-twice" and times <= 2:
            status = 500
        elif how == "busy-once" and times == 1:
            status, headers = 503, {"Retry-After": "2"}
        elif how == "redirects":
            headers = {"Location": f"{self.url}/ok/target"}
        elif how == "hangs":
            self.released.wait(60)
        request.send_response(status)
        for name, value in headers.items():
            request.send_header(name, value)
        request.end_headers()
        with contextlib.suppress(OSError):
            for _ in range(10**5 if how == "endless" else 0):
                request.wfile.write(b"x" * 10**5)  # 10 GB
                self.endless += 10**5

    def to(self, path: str) -> list[tuple[dict[str, str], Any]]:
        """Headers and body of the calls to a path."""
        return [(headers, json.loads(body)) for at, headers, body in self.calls if at == path]

    def close(self) -> None:
        self.released.set()
        self._server.shutdown()
        self._server.server_close()


@pytest.fixture(scope="module")
def receiver() -> Iterator[Receiver]:
    each = Receiver()
    yield each
    each.close()


ENVIRONMENT = {"WEBHOOK_SECRET": SECRET, "WEBHOOK_ALLOW": "127.0.0.1", "WEBHOOK_BACKOFF": "0 0 0"}


@pytest.fixture
def api(service: Api) -> Iterator[Api]:
    yield service
    for job in service.http.get("/v1/jobs", params={"status": "queued,started", "limit": 100}).json()["jobs"]:
        service.cancel(job["id"])
        service.done(job["id"])


def deliveries(api: Api, job: Any, count: int = 1, done: bool = True) -> list[Any]:
    """The deliveries of a job once there are so many and all are over."""

    def check() -> list[Any]:
        found: list[Any] = api.http.get(job["urls"]["deliveries"]).json()["deliveries"]
        assert len(found) == count, found
        assert all(each["done"] for each in found) or not done, found
        return found

    return eventually(check)


def signature(headers: dict[str, str], body: bytes) -> str:
    signed = f"{headers['webhook-id']}.{headers['webhook-timestamp']}.".encode() + body
    return "v1," + base64.b64encode(hmac.new(KEY, signed, hashlib.sha256).digest()).decode()


def test_the_end_of_a_job_is_told_signed_and_once(api: Api, receiver: Receiver) -> None:
    webhook = {"url": f"{receiver.url}/ok/1"}
    job = api.submit("double", input={"x": 21}, webhook=webhook, metadata={"order": 7})
    api.done(job["id"])

    (delivery,) = deliveries(api, job)

    ((_, headers, body),) = [call for call in receiver.calls if call[0] == "/ok/1"]
    sent = json.loads(body)
    assert sent["type"] == "job.finished"
    event = api.log(job["id"])[-1]
    assert sent["timestamp"] == event["time"]
    assert sent["data"]["event_id"] == event["id"]
    assert sent["data"]["job_id"] == job["id"]
    assert (sent["data"]["model"], sent["data"]["output"]) == ("double", ["42", ""])
    assert sent["data"]["metadata"] == {"order": 7}
    assert sent["data"]["url"] == job["urls"]["self"]
    assert headers["content-type"] == "application/json"
    assert headers["webhook-id"] == delivery["id"]
    assert abs(int(headers["webhook-timestamp"]) - time.time()) < 60
    assert headers["webhook-signature"] == signature(headers, body)
    assert (delivery["event"], delivery["status"], delivery["delivered"]) == ("finished", "finished", True)
    assert delivery["response"]["status"] == 204
    assert delivery["body"] == sent
    assert len(delivery["attempts"]) == 1
    assert job["webhook"] == {**webhook, "events": ["canceled", "failed", "finished", "stopped"]}


def test_only_the_events_that_were_asked_for_are_told(api: Api, receiver: Receiver) -> None:
    webhook = {"url": f"{receiver.url}/ok/2", "events": ["started", "retrying", "failed"]}
    job = api.submit("fails", webhook=webhook)
    api.done(job["id"])

    found = deliveries(api, job, 4)

    assert [each["event"] for each in found] == ["started", "retrying", "started", "failed"]
    assert sorted(body["type"] for _, body in receiver.to("/ok/2")) == [
        "job.failed",
        "job.retrying",
        "job.started",
        "job.started",
    ]
    assert found[-1]["body"]["data"]["error"] == {"type": "model_error", "message": "RuntimeError: no luck"}


@pytest.mark.parametrize(("state", "kind"), [("queued", "canceled"), ("started", "stopped"), ("late", "failed")])
def test_an_end_that_no_run_of_the_model_brought_is_told(api: Api, receiver: Receiver, state: str, kind: str) -> None:
    running = api.submit("sleeps", webhook={"url": f"{receiver.url}/ok/{state}"})
    api.started(running["id"])
    job = running
    if state != "started":
        late = {"start_timeout": 1} if state == "late" else {}
        job = api.submit("sleeps", webhook={"url": f"{receiver.url}/ok/{state}"}, **late)
    if state != "late":
        api.cancel(job["id"])

    (delivery,) = deliveries(api, job)

    assert delivery["event"] == kind
    assert [body["type"] for _, body in receiver.to(f"/ok/{state}")] == [f"job.{kind}"]


def test_a_delivery_that_fails_is_tried_again_under_one_id(api: Api, receiver: Receiver) -> None:
    job = api.submit("double", input={"x": 1}, webhook={"url": f"{receiver.url}/fails-twice/1"})

    (delivery,) = deliveries(api, job)

    assert delivery["delivered"]
    errors = [attempt["error"] and attempt["error"]["message"] for attempt in delivery["attempts"]]
    assert errors == 2 * ["the receiver answered 500"] + [None]
    calls = receiver.to("/fails-twice/1")
    assert len({headers["webhook-id"] for headers, _ in calls}) == 1
    assert len({json.dumps(body) for _, body in calls}) == 1


def test_retry_after_is_obeyed(api: Api, receiver: Receiver) -> None:
    job = api.submit("double", input={"x": 1}, webhook={"url": f"{receiver.url}/busy-once/1"})

    (waiting,) = eventually(lambda: [each for each in [_scheduled(api, job)] if each])
    (delivery,) = deliveries(api, job)

    assert waiting["next_attempt_at"] > waiting["attempts"][0]["ended_at"]
    assert delivery["delivered"]
    first, second = (int(headers["webhook-timestamp"]) for headers, _ in receiver.to("/busy-once/1"))
    assert second - first >= 2


def _scheduled(api: Api, job: Any) -> Any:
    (found,) = deliveries(api, job, done=False)
    assert found["status"] == "scheduled", found
    return found


def test_a_receiver_that_is_down_is_given_up_after_the_last_try_and_told_again_on_demand(
    api: Api, receiver: Receiver
) -> None:
    job = api.submit("double", input={"x": 1}, webhook={"url": f"{receiver.url}/down/1"})
    (given_up,) = deliveries(api, job)
    assert (given_up["status"], len(given_up["attempts"])) == ("failed", 4)

    response = api.http.post(given_up["urls"]["redeliver"])

    assert response.status_code == 202
    assert not response.json()["done"]
    until(lambda: len(receiver.to("/down/1")) == 8)
    assert len({headers["webhook-id"] for headers, _ in receiver.to("/down/1")}) == 1


def test_a_delivery_that_waits_for_its_next_try_is_sent_at_once_on_demand(
    deployed: Deployment, receiver: Receiver
) -> None:
    deployed.environment.update({**ENVIRONMENT, "WEBHOOK_BACKOFF": "3600"})
    deployed.write(MODELS)
    deployed.worker()
    api = deployed.web()
    job = api.submit("double", input={"x": 1}, webhook={"url": f"{receiver.url}/down/2"})
    waiting = eventually(lambda: _scheduled(api, job))

    assert api.http.post(waiting["urls"]["redeliver"]).status_code == 202

    until(lambda: len(receiver.to("/down/2")) == 2)


def test_410_ends_all_calls_for_a_job(api: Api, receiver: Receiver) -> None:
    webhook = {"url": f"{receiver.url}/gone/1", "events": ["started", "canceled", "stopped"]}
    job = api.submit("sleeps", webhook=webhook)
    (delivery,) = deliveries(api, job)
    assert delivery["error"] == {"type": "gone", "message": "the receiver answered 410; no more is sent"}
    assert len(delivery["attempts"]) == 1

    api.cancel(job["id"])

    assert api.done(job["id"])["status"] == "stopped"
    assert len(deliveries(api, job)) == 1
    assert len(receiver.to("/gone/1")) == 1


def test_a_redirect_is_not_followed(api: Api, receiver: Receiver) -> None:
    job = api.submit("double", input={"x": 1}, webhook={"url": f"{receiver.url}/redirects/1"})

    (delivery,) = deliveries(api, job)

    assert delivery["status"] == "failed"
    assert "redirects are not followed" in delivery["error"]["message"]
    assert receiver.to("/ok/target") == []


def test_an_answer_of_10_gb_is_not_read(api: Api, receiver: Receiver) -> None:
    job = api.submit("double", input={"x": 1}, webhook={"url": f"{receiver.url}/endless/1"})

    (delivery,) = deliveries(api, job)

    assert delivery["delivered"]
    assert receiver.endless < 50 * 10**6  # what the kernel's buffers hold


def test_receivers_that_hang_delay_no_job_and_no_other_delivery(api: Api, receiver: Receiver) -> None:
    stuck = [api.submit("double", input={"x": 1}, webhook={"url": f"{receiver.url}/hangs/1"}) for _ in range(10)]
    until(lambda: len(receiver.to("/hangs/1")) == 10)

    job = api.submit("double", input={"x": 2}, webhook={"url": f"{receiver.url}/ok/3"})

    (delivery,) = deliveries(api, job)
    assert delivery["delivered"]
    for each in stuck:
        assert api.job(each["id"])["status"] == "finished"
        assert [each["status"] for each in deliveries(api, each, done=False)] == ["started"]


def test_a_body_is_under_20_kb_and_then_says_where_the_output_is(api: Api, receiver: Receiver) -> None:
    job = api.submit(
        "double",
        input={"x": 1, "padding": 30_000},
        webhook={"url": f"{receiver.url}/ok/4"},
        metadata="é" * 2_500,
    )

    deliveries(api, job)

    ((_, _, body),) = [call for call in receiver.calls if call[0] == "/ok/4"]
    assert len(body) < 20_000
    sent = json.loads(body)["data"]
    assert "output" not in sent
    assert sent["result_url"] == job["urls"]["result"]
    assert sent["metadata"] == "é" * 2_500
    assert len(api.http.get(sent["result_url"]).json()[1]) == 30_000


def test_what_is_too_large_even_so_is_left_out(api: Api, receiver: Receiver) -> None:
    webhook = {"url": f"{receiver.url}/ok/5"}
    job = api.submit("double", input={"x": 1, "padding": 15_000}, webhook=webhook, metadata="é" * 4_000)

    deliveries(api, job)

    ((_, _, body),) = [call for call in receiver.calls if call[0] == "/ok/5"]
    assert len(body) < 20_000
    assert "metadata" not in json.loads(body)["data"]


def test_deliveries_wait_for_a_worker_that_sends_them(deployed: Deployment, receiver: Receiver) -> None:
    deployed.environment.update(ENVIRONMENT)
    deployed.write(MODELS)
    deployed.worker("--models", "double")
    api = deployed.web()
    job = api.submit("double", input={"x": 1}, webhook={"url": f"{receiver.url}/ok/6"})
    assert api.done(job["id"])["status"] == "finished"
    (waiting,) = deliveries(api, job, done=False)
    assert waiting["status"] == "queued"

    deployed.worker("--models", "webhooks")

    (delivery,) = deliveries(api, job)
    assert delivery["delivered"]


def test_an_erased_job_takes_its_deliveries_with_it(deployed: Deployment, receiver: Receiver) -> None:
    deployed.environment.update(ENVIRONMENT)
    deployed.write(MODELS)
    deployed.worker("--models", "double")
    api = deployed.web()
    job = api.submit("double", input={"x": 1}, webhook={"url": f"{receiver.url}/ok/7"})
    api.done(job["id"])
    (delivery,) = deliveries(api, job, done=False)

    assert api.http.delete(job["urls"]["self"]).status_code == 204

    assert api.http.get(job["urls"]["deliveries"]).status_code == 410
    assert api.http.get(f"/v1/jobs/{delivery['id']}").status_code == 404
    other = api.submit("double", input={"x": 1}, webhook={"url": f"{receiver.url}/ok/8"})
    deployed.worker("--models", "webhooks")
    deliveries(api, other)
    assert receiver.to("/ok/7") == []


def test_deliveries_are_no_jobs_of_callers(api: Api, receiver: Receiver) -> None:
    job = api.submit("double", input={"x": 1}, webhook={"url": f"{receiver.url}/ok/9"})
    (delivery,) = deliveries(api, job)

    assert api.http.get("/v1/jobs").json()["jobs"][0]["id"] == job["id"]
    assert all(not each["id"].startswith("webhook_") for each in api.http.get("/v1/jobs").json()["jobs"])
    assert "webhooks" not in [model["name"] for model in api.http.get("/v1/models").json()["models"]]
    assert api.http.get("/v1/models/webhooks").status_code == 404
    assert api.post("webhooks", input={"id": "1", "url": receiver.url, "body": "{}"}).status_code == 404
    own = api.http.put("/v1/jobs/webhook_1", json={"model": "double", "input": {"x": 1}})
    assert own.status_code == 400
    assert api.http.post(f"/v1/jobs/{job['id']}/deliveries/{job['id']}/redeliver").status_code == 404
    other = api.submit("double", input={"x": 1})
    assert api.http.post(f"/v1/jobs/{other['id']}/deliveries/{delivery['id']}/redeliver").status_code == 404
    assert api.http.get(other["urls"]["deliveries"]).json() == {"deliveries": [], "next": None}


@pytest.mark.parametrize(
    ("webhook", "pointer"),
    [
        ("http://example.com", "#/webhook"),
        ({}, "#/webhook/url"),
        ({"url": "ftp://example.com"}, "#/webhook/url"),
        ({"url": "http://10.0.0.1/hook"}, "#/webhook/url"),
        ({"url": "http://[::1]/hook"}, "#/webhook/url"),
        ({"url": "http://2130706434/hook"}, "#/webhook/url"),
        ({"url": "http://user:secret@example.com/"}, "#/webhook/url"),
        ({"url": "https://example.com", "events": []}, "#/webhook/events"),
        ({"url": "https://example.com", "events": ["done"]}, "#/webhook/events/0"),
        ({"url": "https://example.com", "secret": "x"}, "#/webhook/secret"),
    ],
)
def test_a_webhook_that_cannot_be_is_refused_and_pointed_at(api: Api, webhook: Any, pointer: str) -> None:
    response = api.post("double", input={"x": 1}, webhook=webhook)

    assert response.status_code == 422, response.text
    assert pointer in [error["pointer"] for error in response.json()["errors"]]


def test_without_a_secret_no_webhook_is_taken(deployed: Deployment) -> None:
    deployed.write(MODELS)
    deployed.worker()
    api = deployed.web()

    response = api.post("double", input={"x": 1}, webhook={"url": "https://example.com"})

    assert response.status_code == 422
    assert "WEBHOOK_SECRET" in response.json()["detail"]


def test_no_model_file_may_take_the_name_of_the_built_in_model(deployed: Deployment) -> None:
    deployed.environment.update(ENVIRONMENT)
    deployed.write("from service import model\n\n@model\ndef webhooks() -> None: ...\n", "hooks.py")
    deployed.worker()

    assert "the name webhooks is the service's own" in deployed.web().http.get("/v1/models/hooks").json()["error"]
