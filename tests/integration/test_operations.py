"""What operators do over HTTP: pause, resume, purge, requeue, retry, drain; and what they look at."""

from __future__ import annotations

import json
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import redis
from rq import Worker
from rq.serializers import JSONSerializer

from service.store import keys
from tests.deployment import Api, Deployment, eventually, until
from tests.watchers import events_of

MODELS = """
    import os, time
    from service import Retry, model

    @model(timeout=60)
    def held(file: str) -> str:
        while not os.path.exists(file):
            time.sleep(0.02)
        return "let go"

    @model(timeout=60)
    def unmeasured(file: str) -> str:
        return held(file)

    @model
    def quick() -> str:
        return "quick"

    @model
    def mends(file: str) -> str:
        if not os.path.exists(file):
            raise RuntimeError("it is broken")
        return "mended"

    @model(retries=1)
    def later() -> None:
        raise Retry("not yet", after=600)
"""


@pytest.fixture
def service(service: Api) -> Iterator[Api]:
    """The service of all tests here, with what they have paused resumed."""
    yield service
    with redis.Redis.from_url(service.redis_url) as client:  # type: ignore[attr-defined]
        client.delete(keys.PAUSED)


@pytest.fixture
def gate(tmp_path: Path) -> Iterator[Path]:
    """The file for which jobs of `held` wait; it is there when the test is over."""
    path = tmp_path / "gate"
    yield path
    path.touch()


def operate(api: Api, path: str, **body: Any) -> httpx.Response:
    """POST an operation, confirmed."""
    name = path.split("/")[1]
    return api.http.post(f"/v1/{path}", json={"confirm": name, **body})


def done(response: httpx.Response) -> Any:
    assert response.is_success, response.text
    return response.json()


def queue_named(api: Api, name: str) -> Any:
    (queue,) = [each for each in api.http.get("/v1/queues").json()["queues"] if each["name"] == name]
    return queue


def workers(api: Api) -> Any:
    return {each["name"]: each for each in api.http.get("/v1/workers").json()["workers"]}


def failed(api: Api, gate: Path) -> str:
    """The id of a job that has failed since there was no gate."""
    job = api.done(api.submit("mends", input={"file": str(gate)})["id"])
    assert job["status"] == "failed"
    return str(job["id"])


# --- pause, resume


def test_a_paused_model_keeps_its_jobs_while_others_go_on_until_it_is_resumed(service: Api) -> None:
    assert done(operate(service, "models/quick/pause")) == {
        "queues": ["quick-high", "quick", "quick-low"],
        "paused": True,
    }

    waiting = [service.submit("quick", priority=priority)["id"] for priority in ("high", "default", "low")]
    other = service.done(service.submit("mends", input={"file": "/"})["id"])

    assert other["status"] == "finished"
    assert [service.job(job_id)["status"] for job_id in waiting] == ["queued"] * 3
    assert done(operate(service, "models/quick/resume"))["paused"] is False
    assert [service.done(job_id)["output"] for job_id in waiting] == ["quick"] * 3


def test_a_paused_queue_is_that_queue_only(service: Api) -> None:
    assert done(operate(service, "queues/quick/pause")) == {"queues": ["quick"], "paused": True}

    waiting = service.submit("quick")
    assert service.done(service.submit("quick", priority="low")["id"])["status"] == "finished"
    assert service.job(waiting["id"])["status"] == "queued"
    shown = service.http.get("/v1/models/quick").json()["queues"]
    assert [queue["paused"] for queue in shown] == [False, True, False]

    done(operate(service, "queues/quick/resume"))
    assert service.done(waiting["id"])["status"] == "finished"


def test_what_runs_when_its_queue_is_paused_goes_on(service: Api, gate: Path) -> None:
    running = service.submit("held", input={"file": str(gate)})
    service.started(running["id"])

    done(operate(service, "models/held/pause"))
    gate.touch()

    assert service.done(running["id"])["output"] == "let go"


def test_queues_show_what_is_in_them(service: Api, gate: Path) -> None:
    before = queue_named(service, "mends")["failed"]
    failed(service, gate)
    running = service.submit("held", input={"file": str(gate)})
    service.started(running["id"])
    done(operate(service, "queues/held/pause"))
    waiting = service.submit("held", input={"file": str(gate)})

    assert queue_named(service, "mends")["failed"] == before + 1
    assert queue_named(service, "held") == {
        **{"name": "held", "model": "held", "priority": "default"},
        **{"depth": 1, "scheduled": 0, "running": 1, "failed": 0, "paused": True},
    }
    service.cancel(waiting["id"])


# --- purge


def test_a_purge_cancels_all_that_waits_tells_its_watchers_and_leaves_what_runs(service: Api, gate: Path) -> None:
    # A model that has never run: of one whose jobs were short a worker takes the next job ahead.
    running = service.submit("unmeasured", input={"file": str(gate)})
    service.started(running["id"])
    priorities = ("high", "default", "low")
    waiting = [service.submit("unmeasured", input={"file": ""}, priority=each)["id"] for each in priorities]
    watcher = service.socket(f"/v1/jobs/{waiting[0]}/events?after=0")
    events = events_of(watcher)
    assert next(events)["type"] == "queued"

    answer = done(operate(service, "models/unmeasured/purge"))

    assert answer == {"queues": ["unmeasured-high", "unmeasured", "unmeasured-low"], "canceled": 3}
    (last,) = list(events)
    watcher.shutdown()
    assert (last["type"], last["data"]) == ("canceled", {"mode": "purged"})
    for job_id in waiting:
        job = service.job(job_id)
        assert (job["status"], job["cancellation"]["mode"]) == ("canceled", "purged")
        assert [event["type"] for event in service.log(job_id)] == ["queued", "canceled"]
    gate.touch()
    assert service.done(running["id"])["output"] == "let go"


def test_a_purge_cancels_jobs_that_wait_for_their_next_try(service: Api) -> None:
    job = service.submit("later")
    until(lambda: bool(service.job(job["id"])["status"] == "scheduled"))
    assert queue_named(service, "later")["scheduled"] == 1

    assert done(operate(service, "queues/later/purge")) == {"queues": ["later"], "canceled": 1}

    assert service.job(job["id"])["status"] == "canceled"
    assert queue_named(service, "later")["scheduled"] == 0


# --- requeue, retry


def test_all_that_failed_of_a_model_is_run_again(service: Api, gate: Path) -> None:
    done(operate(service, "models/mends/requeue"))  # what other tests have left
    until(lambda: not service.http.get("/v1/jobs?model=mends&status=queued,started").json()["jobs"])
    old = queue_named(service, "mends")["failed"]
    job_ids = [failed(service, gate) for _ in range(3)]
    gate.touch()

    answer = done(operate(service, "models/mends/requeue"))

    assert answer == {"queues": ["mends-high", "mends", "mends-low"], "requeued": old + 3}
    for job_id in job_ids:
        job = service.done(job_id)
        assert (job["output"], job["error"], len(job["attempts"])) == ("mended", None, 2)
        kinds = [event["type"] for event in service.log(job_id)]
        assert kinds == ["queued", "started", "log", "failed", "queued", "started", "finished"]


def test_a_requeue_leaves_what_was_stopped_unless_it_is_asked_for(service: Api, gate: Path) -> None:
    job = service.submit("held", input={"file": str(gate)})
    service.started(job["id"])
    service.cancel(job["id"])
    assert service.done(job["id"])["status"] == "stopped"
    gate.touch()

    assert done(operate(service, "models/held/requeue"))["requeued"] == 0
    assert service.job(job["id"])["status"] == "stopped"

    assert done(operate(service, "models/held/requeue", stopped=True))["requeued"] == 1
    assert service.done(job["id"])["output"] == "let go"


def test_a_failed_job_is_run_again_where_its_urls_say(service: Api, gate: Path) -> None:
    job_id = failed(service, gate)
    seen = service.log(job_id)[-1]["id"]
    gate.touch()

    response = service.http.post(service.job(job_id)["urls"]["retry"])

    assert response.status_code == 202, response.text
    assert response.json()["id"] == job_id
    assert response.json()["status"] in ("queued", "started", "finished")
    job = service.done(job_id)
    assert (job["output"], job["error"], len(job["attempts"])) == ("mended", None, 2)
    events, code, _ = service.watch(f"/v1/jobs/{job_id}/events?after={seen}")
    assert ([event["type"] for event in events], code) == (["queued", "started", "finished"], 1000)


def test_a_job_that_has_not_failed_is_not_run_again(service: Api, gate: Path) -> None:
    finished = service.done(service.submit("quick")["id"])["id"]
    erased = service.done(service.submit("quick")["id"])["id"]
    service.http.delete(f"/v1/jobs/{erased}")

    for job_id, status, kind in (
        *((finished, 409, "job-not-failed"), (erased, 410, "job-gone"), ("none", 404, "job-not-found")),
    ):
        response = service.http.post(f"/v1/jobs/{job_id}/retry")
        assert (response.status_code, response.json()["type"]) == (status, f"/problems/{kind}")
    assert service.job(finished)["status"] == "finished"


# --- drain


def drain(api: Api, name: str) -> Any:
    """Have a worker drain; one that has just started may not listen yet."""

    def told() -> Any:
        response = operate(api, f"workers/{name}/drain")
        assert response.status_code == 202, response.text
        return response.json()

    return eventually(told)


@pytest.fixture
def api(deployed: Deployment) -> Api:
    deployed.write(MODELS)
    return deployed.web()


def test_a_worker_that_drains_lets_its_job_end_and_takes_no_other(
    deployed: Deployment, api: Api, gate: Path, connection: redis.Redis
) -> None:
    first = deployed.worker("--name", "first", GRACE_PERIOD="0")
    running = api.submit("held", input={"file": str(gate)})
    api.started(running["id"])
    waiting = api.submit("quick")

    assert drain(api, "first") == {"worker": "first", "state": "draining"}

    until(lambda: workers(api)["first"]["state"] == "draining")
    worker = Worker.find_by_key(keys.worker("first"), connection=connection, serializer=JSONSerializer)
    assert worker is not None
    assert worker.get_state() == "busy"
    deployed.worker("--name", "second")
    assert api.done(waiting["id"])["attempts"][0]["worker"] == "second"
    assert first.poll() is None
    gate.touch()
    job = api.done(running["id"])
    assert (job["output"], [each["worker"] for each in job["attempts"]]) == ("let go", ["first"])
    assert first.wait(20) == 0
    assert list(workers(api)) == ["second"]


def test_an_idle_worker_that_drains_ends(deployed: Deployment, api: Api) -> None:
    worker = deployed.worker("--name", "idle")

    drain(api, "idle")

    assert worker.wait(20) == 0


def test_a_worker_that_drains_still_ends_when_it_is_asked_to(deployed: Deployment, api: Api, gate: Path) -> None:
    worker = deployed.worker("--name", "hurried", GRACE_PERIOD="0")
    running = api.submit("held", input={"file": str(gate)})
    api.started(running["id"])
    drain(api, "hurried")
    until(lambda: workers(api)["hurried"]["state"] == "draining")

    worker.send_signal(signal.SIGTERM)

    assert worker.wait(20) == 0
    assert api.job(running["id"])["status"] == "queued"


def test_a_worker_that_lost_its_connection_when_it_was_told_to_drain_drains_all_the_same(
    deployed: Deployment, api: Api, connection: redis.Redis
) -> None:
    worker = deployed.worker("--name", "deaf")
    until(lambda: "deaf" in workers(api))

    connection.client_kill_filter(_type="pubsub")
    response = operate(api, "workers/deaf/drain")

    assert response.status_code == 202, response.text
    assert workers(api)["deaf"]["state"] == "draining"
    assert worker.wait(20) == 0


def test_what_is_in_the_books_and_is_no_worker_cannot_be_drained(api: Api, connection: redis.Redis) -> None:
    connection.sadd("rq:workers", "rq:worker:foreign")
    connection.set("rq:worker:foreign", "x")
    assert operate(api, "workers/foreign/drain").status_code == 404

    connection.set("rq:workers", "x")
    assert operate(api, "workers/foreign/drain").status_code == 404


def test_a_worker_that_does_not_listen_or_is_of_rq_itself_cannot_be_drained(
    deployed: Deployment, api: Api, connection: redis.Redis
) -> None:
    stock = Worker(["add"], connection=connection, name="stock", serializer=JSONSerializer)
    stock.register_birth()

    response = operate(api, "workers/stock/drain")
    assert (response.status_code, response.json()["type"]) == (503, "/problems/worker-not-listening")
    assert response.headers["Retry-After"]

    with connection.pubsub(ignore_subscribe_messages=True) as pubsub:
        pubsub.subscribe(keys.rq_commands("stock"))
        pubsub.get_message(timeout=5)
        response = operate(api, "workers/stock/drain")
    assert (response.status_code, response.json()["type"]) == (409, "/problems/worker-cannot-drain")


def test_workers_show_what_they_do(service: Api, gate: Path, connection: redis.Redis) -> None:
    job = service.submit("held", input={"file": str(gate)})
    name = service.started(job["id"])["attempts"][0]["worker"]

    worker = workers(service)[name]
    assert (worker["state"], worker["jobs"]) == ("busy", [job["id"]])
    assert {"held-high", "held", "held-low", "quick"} <= set(worker["queues"])
    assert worker["pid"] > 0
    assert worker["hostname"]
    assert worker["birth"] <= worker["last_heartbeat"]

    gate.touch()
    service.done(job["id"])
    after = workers(service)[name]
    assert (after["state"], after["jobs"]) == ("idle", [])
    assert after["successful_job_count"] == worker["successful_job_count"] + 1


def test_a_worker_that_rq_suspends_is_shown_so(service: Api) -> None:
    with redis.Redis.from_url(service.redis_url) as client:  # type: ignore[attr-defined]
        until(lambda: {each["state"] for each in workers(service).values()} == {"idle"})
        client.set(keys.SUSPENDED, 1)
        try:
            assert {each["state"] for each in workers(service).values()} == {"suspended"}
        finally:
            client.delete(keys.SUSPENDED)


# --- what is asked for before, and told after

OPERATIONS = [
    *("queues/quick/pause", "queues/quick/resume", "queues/quick/purge"),
    *("models/quick/pause", "models/quick/resume", "models/quick/purge", "models/quick/requeue"),
]


@pytest.mark.parametrize("path", [*OPERATIONS, "workers/{worker}/drain"])
@pytest.mark.parametrize("body", [None, {}, {"confirm": "quic"}, {"confirm": True}, ["quick"]])
def test_what_is_not_confirmed_is_not_done_and_says_what_to_send(service: Api, path: str, body: Any) -> None:
    name = next(iter(workers(service)))
    url = f"/v1/{path.format(worker=name)}"

    response = service.http.post(url) if body is None else service.http.post(url, json=body)

    assert response.status_code == 422, response.text
    problem = response.json()
    assert (problem["type"], problem["errors"][0]["pointer"]) == ("/problems/not-confirmed", "#/confirm")
    assert json.dumps({"confirm": url.split("/")[3]}) in problem["detail"]
    assert not queue_named(service, "quick")["paused"]
    assert workers(service)[name]["state"] != "draining"


@pytest.mark.parametrize(
    ("path", "kind"),
    [
        *[(f"queues/none/{operation}", "queue-not-found") for operation in ("pause", "resume", "purge")],
        *[(f"models/none/{each}", "model-not-found") for each in ("pause", "resume", "purge", "requeue")],
        ("workers/none/drain", "worker-not-found"),
        ("queues/quick/requeue", "not-found"),
    ],
)
def test_what_is_not_there_is_404(service: Api, path: str, kind: str) -> None:
    response = operate(service, path)

    assert (response.status_code, response.json()["type"]) == (404, f"/problems/{kind}")


@pytest.mark.parametrize("body", [{"stoped": True}, {"stopped": "yes"}])
def test_a_field_that_an_operation_does_not_take_is_422(service: Api, body: dict[str, Any]) -> None:
    response = operate(service, "models/quick/requeue", **body)

    assert (response.status_code, response.json()["type"]) == (422, "/problems/invalid-request")
    assert [error["pointer"] for error in response.json()["errors"]] == [f"#/{next(iter(body))}"]


def test_what_was_done_is_logged_by_default_with_who_asked_for_it(deployed: Deployment, api: Api) -> None:
    api = deployed.web(LOG_LEVEL="warning", LOG_FORMAT="json")
    deployed.worker("--name", "drained")
    done(operate(api, "models/quick/pause"))
    api.submit("quick")
    headers = {"X-Request-ID": "by-me"}
    api.http.post("/v1/models/quick/purge", json={"confirm": "quick"}, headers=headers)
    done(operate(api, "models/mends/requeue"))
    drain(api, "drained")

    def told() -> list[Any]:
        lines: str = api.process.log.read_text()  # type: ignore[attr-defined]
        found = [json.loads(line) for line in lines.splitlines() if '"operation"' in line]
        assert len(found) == 4
        return found

    paused, purged, requeued, drained = eventually(told)
    assert (paused["operation"], paused["on"], paused["paused"]) == ("pause", "quick", True)
    assert (purged["operation"], purged["canceled"], purged["request_id"]) == ("purge", 1, "by-me")
    assert (purged["level"], purged["remote_address"]) == ("warning", "127.0.0.1")
    assert purged["queues"] == "quick-high,quick,quick-low"
    assert (requeued["operation"], requeued["requeued"]) == ("requeue", 0)
    assert (drained["operation"], drained["on"]) == ("drain", "drained")
