"""rq-dashboard in our app: every route of it, on JSON jobs, on a real Redis."""

from __future__ import annotations

import json
import pickle
import re
import zlib
from base64 import b64encode
from datetime import timedelta
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
import redis
from flask import Flask, request
from flask.testing import FlaskClient
from redis.backoff import NoBackoff
from redis.retry import Retry
from rq import Queue, SimpleWorker
from rq.job import Job, JobStatus
from rq.registry import FailedJobRegistry
from rq.serializers import JSONSerializer
from werkzeug.test import TestResponse

from service.web.dashboard import mount

REGISTRIES = ["queued", "scheduled", "deferred", "started", "finished", "failed", "canceled"]
# A path may say {job}: the test puts a job's id there.
PAGES = [
    "/",
    "/0/view/workers",
    "/0/view/jobs",
    "/0/view/jobs/embed/failed/8/dsc/1",
    "/0/view/job/{job}",
]
ALIASES = ["/0/", "/0/view", "/0/view/queues"]  # of the first page
DOCUMENTS = [
    "/0/data/queues.json",
    "/0/data/workers.json",
    "/0/data/job/{job}.json",
    *(f"/0/data/jobs/embed/{name}/8/{order}/1.json" for name in REGISTRIES for order in ("asc", "dsc")),
]
FILES = ["/favicon.ico", "/static/favicon.ico", "/static/js/jquery-3.5.1.min.js"]
ACTIONS = [
    "/requeue/embed",
    "/job/{job}/requeue",
    "/queue/embed/compact",
    *(f"/queue/embed/{name}/empty" for name in REGISTRIES),
    "/job/{job}/delete",
]
SECRET = "secret"  # noqa: S105 - of nobody
MARKUP = "<img/src=x/onerror=alert(1)>'\"</script>"


class Dashboard:
    """The dashboard of a small app, as a browser or curl sees it."""

    def __init__(self, connection: redis.Redis) -> None:
        self.app = Flask("test")
        mount(self.app, connection)
        self._client: FlaskClient = self.app.test_client()

    def open(self, method: str, path: str, **options: Any) -> TestResponse:
        # Flask sends /0/ and the like on to /; buffered: it closes the files that it sends.
        return self._client.open(
            f"/dashboard{path}", method=method, follow_redirects=method == "GET", buffered=True, **options
        )

    def get(self, path: str, **options: Any) -> TestResponse:
        return self.open("GET", path, **options)

    def post(self, path: str, **options: Any) -> TestResponse:
        return self.open("POST", path, **options)

    def job(self, job: Job) -> Any:
        return self.get(f"/0/data/job/{job.id}.json").json

    def jobs(self, registry: str, queue: str = "embed") -> list[str]:
        document = self.get(f"/0/data/jobs/{queue}/{registry}/8/asc/1.json").json
        return [job["id"] for job in document["jobs"]]


@pytest.fixture
def dashboard(connection: redis.Redis) -> Dashboard:
    return Dashboard(connection)


@pytest.fixture
def queue(connection: redis.Redis) -> Queue:
    return Queue("embed", connection=connection, serializer=JSONSerializer)


@pytest.fixture
def away() -> Dashboard:
    """A dashboard whose Redis does not run."""
    return Dashboard(redis.Redis(unix_socket_path="/nonexistent", retry=Retry(NoBackoff(), 0)))


def occupy(queue: Queue, job: Job, name: str = "busy") -> SimpleWorker:
    """A worker that has taken `job` and not ended it."""
    # A worker changes its pool's time-outs: it must not be the dashboard's pool.
    pool = queue.connection.connection_pool
    own = redis.Redis.from_pool(redis.ConnectionPool(pool.connection_class, **pool.connection_kwargs))
    worker = SimpleWorker([queue], name=name, connection=own, serializer=JSONSerializer)
    worker.register_birth()
    queue.remove(job)
    worker.prepare_execution(job)
    worker.prepare_job_execution(job)
    return worker


def run(queue: Queue, job: Job) -> Job:
    """Take `job` to its end. Not by `work(burst=True)`: its pubsub thread takes a second to end."""
    worker = occupy(queue, job, name="passing")
    worker.perform_job(job, queue, worker.executions.popitem()[1])
    worker.register_death()
    return job


def fail(queue: Queue) -> Job:
    return run(queue, queue.enqueue("operator.truediv", 1, 0))


def one_job_per_registry(queue: Queue) -> dict[str, Job]:
    finished = run(queue, queue.enqueue("operator.add", 1, 2))
    failed = fail(queue)
    started = queue.enqueue("operator.add", 1, 2)
    occupy(queue, started)
    canceled = queue.enqueue("operator.add", 1, 2)
    canceled.cancel()
    queued = queue.enqueue("operator.add", 1, 2)
    return {
        "queued": queued,
        "scheduled": queue.enqueue_in(timedelta(hours=1), "operator.add", 1, 2),
        "deferred": queue.enqueue("operator.add", 1, 2, depends_on=queued),
        "started": started,
        "finished": finished,
        "failed": failed,
        "canceled": canceled,
    }


def headers_of(kind: str) -> dict[str, str]:
    return {
        "cross-site": {"Sec-Fetch-Site": "cross-site"},
        "same-site": {"Sec-Fetch-Site": "same-site"},
        "origin": {"Origin": "http://evil.example"},
        "null": {"Origin": "null"},
    }[kind]


# --- every route


def test_the_tables_above_hold_every_route_of_the_dashboard(dashboard: Dashboard) -> None:
    seen = set()
    dashboard.app.after_request(lambda response: seen.add(request.endpoint) or response)

    for method, paths in (("GET", PAGES + DOCUMENTS + FILES), ("POST", ACTIONS)):
        for path in paths:
            dashboard.open(method, path.format(job="j"))

    theirs = {name for name in dashboard.app.view_functions if name.startswith("rq_dashboard.")}
    assert seen - {None} == theirs


@pytest.mark.parametrize("path", PAGES + ALIASES + DOCUMENTS + FILES)
def test_a_route_answers_with_jobs_in_every_registry_and_a_busy_worker(
    dashboard: Dashboard, queue: Queue, path: str
) -> None:
    job = one_job_per_registry(queue)["finished"]

    assert dashboard.get(path.format(job=job.id)).status_code == 200


@pytest.mark.parametrize("path", PAGES + DOCUMENTS + FILES)
def test_a_route_that_needs_no_job_answers_on_an_empty_redis(dashboard: Dashboard, path: str) -> None:
    status = dashboard.get(path.format(job="none")).status_code

    assert status == (404 if "{job}" in path else 200)


@pytest.mark.parametrize("path", ACTIONS)
def test_an_action_succeeds_on_a_failed_job(dashboard: Dashboard, queue: Queue, path: str) -> None:
    job = one_job_per_registry(queue)["failed"]

    response = dashboard.post(path.format(job=job.id))

    assert (response.status_code, response.json["status"]) == (200, "OK")


@pytest.mark.parametrize("registry", REGISTRIES)
def test_a_list_shows_the_job_of_its_registry(dashboard: Dashboard, queue: Queue, registry: str) -> None:
    jobs = one_job_per_registry(queue)

    assert dashboard.jobs(registry) == [jobs[registry].id]


@pytest.mark.parametrize("order", ["asc", "dsc"])
@pytest.mark.parametrize("registry", ["queued", "failed"])
def test_the_pages_of_a_list_hold_each_job_once(dashboard: Dashboard, queue: Queue, registry: str, order: str) -> None:
    ids = [queue.enqueue("tests.no_such").id for _ in range(11)]
    if registry == "failed":
        for number, job_id in enumerate(ids):
            queue.connection.zadd(queue.failed_job_registry.key, {job_id: 10**10 + number})

    pages = [
        [job["id"] for job in dashboard.get(f"/0/data/jobs/embed/{registry}/4/{order}/{page}.json").json["jobs"]]
        for page in (1, 2, 3, 4)
    ]

    assert [len(page) for page in pages] == [4, 4, 3, 0]
    assert [job_id for page in pages for job_id in page] == (ids if order == "asc" else ids[::-1])


def test_an_app_can_be_made_twice_in_one_process(connection: redis.Redis, queue: Queue) -> None:
    queue.enqueue("operator.add", 1, 2)
    away = redis.Redis(unix_socket_path="/nonexistent", retry=Retry(NoBackoff(), 0))

    first, second = Dashboard(connection), Dashboard(away)

    assert first.get("/0/data/queues.json").status_code == 200
    assert second.get("/0/data/queues.json").status_code == 503


# --- jobs and workers as they are shown


def test_a_finished_job_shows_its_result_and_its_metadata(dashboard: Dashboard, queue: Queue) -> None:
    job = run(queue, queue.enqueue("copy.copy", {"vector": [0.5, "é"]}, meta={"progress": 0.75}))

    shown = dashboard.job(job)

    assert shown["status"] == "finished"
    assert shown["result"] == {"vector": [0.5, "é"]}
    assert json.loads(shown["metadata"]) == {"progress": 0.75}


def test_a_job_with_dependencies_can_be_opened(dashboard: Dashboard, queue: Queue) -> None:
    parent = queue.enqueue("operator.add", 1, 2)
    expired = queue.enqueue("operator.add", 1, 2)
    child = queue.enqueue("operator.add", 3, 4, depends_on=[parent, expired])
    queue.connection.delete(expired.key)

    shown = dashboard.job(child)

    assert dict(zip(shown["depends_on"], shown["depends_on_status"], strict=True)) == {
        parent.id: "active",
        expired.id: "expired",
    }


def test_a_stopped_job_shows_among_the_failed(dashboard: Dashboard, queue: Queue) -> None:
    job = queue.enqueue("operator.add", 1, 2)
    queue.remove(job)
    job.set_status(JobStatus.STOPPED)
    FailedJobRegistry(queue=queue).add(job, ttl=500, exc_string="Job stopped by user")

    assert dashboard.jobs("failed") == [job.id]
    assert dashboard.job(job)["status"] == "stopped"


def test_a_result_that_is_nan_is_valid_json_for_a_browser(dashboard: Dashboard, queue: Queue) -> None:
    job = run(queue, queue.enqueue("builtins.float", "nan"))

    body = dashboard.get(f"/0/data/job/{job.id}.json").text

    assert json.loads(body, parse_constant=pytest.fail)["result"] == "NaN"


def test_a_busy_worker_shows_the_call_that_it_runs(dashboard: Dashboard, queue: Queue) -> None:
    job = queue.enqueue("operator.add", 1, 2)
    occupy(queue, job, "w1")

    [worker] = dashboard.get("/0/data/workers.json").json["workers"]

    assert (worker["name"], worker["state"], worker["queues"]) == ("w1", "busy", ["embed"])
    assert worker["current_job"]["job_id"] == job.id
    assert worker["current_job"]["call_string"] == "operator.add(1, 2)"


def test_workers_are_shown_when_a_running_job_has_been_deleted(dashboard: Dashboard, queue: Queue) -> None:
    job = queue.enqueue("operator.add", 1, 2)
    occupy(queue, job)
    queue.connection.delete(job.key)

    [worker] = dashboard.get("/0/data/workers.json").json["workers"]

    assert worker["current_job"] == "idle"


def test_showing_workers_leaves_our_time_outs_alone(dashboard: Dashboard, queue: Queue) -> None:
    occupy(queue, queue.enqueue("operator.add", 1, 2))
    before = dict(queue.connection.get_connection_kwargs())

    dashboard.get("/0/data/workers.json")
    dashboard.get("/0/view/workers")

    assert queue.connection.get_connection_kwargs() == before


def test_all_requests_use_the_connection_that_was_mounted(redis_url: str) -> None:
    with redis.Redis.from_url(redis_url, client_name="mounted") as ours:
        dashboard = Dashboard(ours)
        connected = ours.info("stats")["total_connections_received"]

        for path in ("/", "/0/data/queues.json", "/0/data/workers.json", "/0/view/jobs"):
            dashboard.get(path)

        assert ours.info("stats")["total_connections_received"] == connected


@pytest.mark.parametrize(
    ("client", "shown"),
    [
        (redis.Redis.from_url("redis://user:secret@redis.example:7000/3"), "redis://redis.example:7000/3"),
        (redis.Redis.from_url("redis://redis.example/?password=secret"), "redis://redis.example:6379/0"),
        (redis.Redis(unix_socket_path="/run/redis.sock", password=SECRET), "unix:///run/redis.sock"),
        (
            redis.Sentinel([("s1.example", 26379)], password=SECRET).master_for("main"),
            "redis+sentinel://main",
        ),
    ],
    ids=["url", "query", "socket", "sentinel"],
)
def test_the_address_of_redis_is_shown_without_its_password(client: redis.Redis, shown: str) -> None:
    dashboard = Dashboard(client)

    assert dashboard.app.config["RQ_DASHBOARD_REDIS_URL"] == (shown,)


# --- requeue, delete, empty, compact


def test_requeue_brings_a_failed_job_back_to_its_queue(dashboard: Dashboard, queue: Queue) -> None:
    job = fail(queue)

    dashboard.post(f"/job/{job.id}/requeue")

    assert queue.job_ids == [job.id]
    assert dashboard.jobs("failed") == []


def test_requeue_of_a_job_that_has_not_failed_is_a_conflict(dashboard: Dashboard, queue: Queue) -> None:
    job = queue.enqueue("operator.add", 1, 2)

    response = dashboard.post(f"/job/{job.id}/requeue")

    assert (response.status_code, response.json["status"]) == (409, "ERROR")
    assert queue.job_ids == [job.id]


def test_requeue_all_goes_on_past_a_job_that_has_expired(dashboard: Dashboard, queue: Queue) -> None:
    expired, *others = [fail(queue) for _ in range(3)]
    queue.connection.delete(expired.key)

    response = dashboard.post("/requeue/embed")

    assert response.status_code == 200
    assert sorted(queue.job_ids) == sorted(job.id for job in others)


@pytest.mark.parametrize("method", ["GET", "HEAD"])
def test_requeue_all_cannot_be_had_by_a_link(dashboard: Dashboard, queue: Queue, method: str) -> None:
    job = fail(queue)

    response = dashboard.open(method, "/requeue/embed")

    assert (response.status_code, response.allow.as_set()) == (405, {"post", "options"})
    assert dashboard.jobs("failed") == [job.id]


def test_compact_takes_out_only_ids_whose_job_is_gone(dashboard: Dashboard, queue: Queue) -> None:
    first, gone, last = (queue.enqueue("operator.add", 1, 2) for _ in range(3))
    queue.push_job_id(gone.id)
    queue.connection.delete(gone.key)

    dashboard.post("/queue/embed/compact")

    assert queue.job_ids == [first.id, last.id]


def test_compact_of_an_empty_queue_has_nothing_to_do(dashboard: Dashboard) -> None:
    response = dashboard.post("/queue/embed/compact")

    assert (response.status_code, response.json["status"]) == (200, "OK")


def test_delete_removes_the_job(dashboard: Dashboard, queue: Queue) -> None:
    job = queue.enqueue("operator.add", 1, 2)

    dashboard.post(f"/job/{job.id}/delete")

    assert dashboard.get(f"/0/data/job/{job.id}.json").status_code == 404


# --- what is not there


@pytest.mark.parametrize("job_id", ["missing", "a:b", "a b", "..", "%3Cimg%3E", "é", "a.json"])
@pytest.mark.parametrize("path", [path for path in PAGES + DOCUMENTS + ACTIONS if "{job}" in path])
def test_a_missing_job_or_a_malformed_id_is_not_found(dashboard: Dashboard, path: str, job_id: str) -> None:
    method = "POST" if path in ACTIONS else "GET"

    assert dashboard.open(method, path.format(job=job_id)).status_code == 404


@pytest.mark.parametrize("job_id", ["{job}:", "{job}:dependents", "{job}%20", "{job}%0A"])
def test_what_only_begins_like_an_id_is_not_found(dashboard: Dashboard, queue: Queue, job_id: str) -> None:
    job = queue.enqueue("operator.add", 1, 2)
    queue.enqueue("operator.add", 1, 2, depends_on=job)

    response = dashboard.get(f"/0/data/job/{job_id.format(job=job.id)}.json")

    assert response.status_code == 404


@pytest.mark.parametrize(
    "part",
    [
        "unknown/8/asc/1",
        "BaseRegistry/8/asc/1",
        "queued/8/up/1",
        "queued/0/asc/1",
        "queued/-1/asc/1",
        "queued/1000/asc/1",
        "queued/x/asc/1",
        "queued/8/asc/0",
        "queued/8/asc/-1",
        "queued/8/asc/x",
        f"queued/8/asc/{10**30}",
    ],
)
@pytest.mark.parametrize("path", ["/0/view/jobs/embed/{}", "/0/data/jobs/embed/{}.json"])
def test_a_list_that_cannot_be_is_not_found(dashboard: Dashboard, path: str, part: str) -> None:
    assert dashboard.get(path.format(part)).status_code == 404


@pytest.mark.parametrize("path", [path for path in PAGES + DOCUMENTS if path.startswith("/0")])
@pytest.mark.parametrize("number", ["1", "99999999999999999999"])
def test_another_instance_than_the_one_there_is_is_not_found(
    dashboard: Dashboard, queue: Queue, path: str, number: str
) -> None:
    job = queue.enqueue("operator.add", 1, 2)

    response = dashboard.get(path.replace("/0", f"/{number}", 1).format(job=job.id))

    assert response.status_code == 404


def test_an_unknown_registry_cannot_be_emptied(dashboard: Dashboard) -> None:
    assert dashboard.post("/queue/embed/unknown/empty").status_code == 404


def test_what_is_not_there_is_said_in_json_where_json_was_asked_for(dashboard: Dashboard) -> None:
    document, page = dashboard.get("/0/data/job/none.json"), dashboard.get("/0/view/job/none")

    assert document.json["status"] == "ERROR"
    assert page.mimetype == "text/plain"


# --- pickles


def each_job(paths: list[str]) -> list[tuple[str, str]]:
    """A path that names a job, once for the job of each registry; other paths once."""
    return [(path, name) for path in paths for name in (REGISTRIES if "{job}" in path else ["queued"])]


class Bomb:
    """Unpickled, it makes a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return open, (str(self.path), "w")


@pytest.fixture
def exploded(tmp_path: Path) -> Path:
    return tmp_path / "exploded"


@pytest.fixture
def bomb(exploded: Path) -> bytes:
    """A pickle that makes the file `exploded`: it has been tried."""
    pickled = pickle.dumps(Bomb(exploded))
    pickle.loads(pickled).close()  # noqa: S301 - the one place where it may
    exploded.unlink()
    return pickled


@pytest.fixture
def bombs(queue: Queue, bomb: bytes) -> dict[str, Job]:
    """A job in every registry, one of them with a worker, whose data, meta and result are that pickle."""
    jobs = one_job_per_registry(queue)
    for job in jobs.values():
        queue.connection.hset(job.key, mapping={"data": zlib.compress(bomb), "meta": bomb, "result": bomb})
        queue.connection.xadd(f"rq:results:{job.id}", {"type": 1, "return_value": b64encode(bomb)})
    return jobs


@pytest.mark.parametrize(("path", "registry"), each_job(PAGES + DOCUMENTS))
def test_showing_a_job_never_unpickles_it(
    dashboard: Dashboard, bombs: dict[str, Job], exploded: Path, path: str, registry: str
) -> None:
    response = dashboard.get(path.format(job=bombs[registry].id))

    assert response.status_code == 200
    assert not exploded.exists()


@pytest.mark.parametrize(("path", "registry"), each_job(ACTIONS))
def test_no_action_unpickles_a_job(
    dashboard: Dashboard, bombs: dict[str, Job], exploded: Path, path: str, registry: str
) -> None:
    response = dashboard.post(path.format(job=bombs[registry].id))

    expected = 409 if path == "/job/{job}/requeue" and registry != "failed" else 200
    assert response.status_code == expected
    assert not exploded.exists()


def test_a_job_that_is_not_json_is_shown_as_far_as_it_can_be(
    dashboard: Dashboard, bombs: dict[str, Job], bomb: bytes
) -> None:
    shown = dashboard.job(bombs["finished"])

    assert shown["result"] == f"({len(bomb)} bytes that are not JSON)"
    assert shown["status"] == "finished"
    assert shown["description"] == "operator.add(1, 2)"


def test_requeue_keeps_what_it_cannot_read(
    dashboard: Dashboard, queue: Queue, bombs: dict[str, Job], bomb: bytes
) -> None:
    job = bombs["failed"]

    dashboard.post(f"/job/{job.id}/requeue")

    data, meta = queue.connection.hmget(job.key, "data", "meta")
    assert (zlib.decompress(data), meta) == (bomb, bomb)


# --- markup


@pytest.mark.parametrize("path", PAGES)
def test_a_page_prints_nothing_raw_from_its_templates(dashboard: Dashboard, queue: Queue, path: str) -> None:
    job = queue.enqueue("operator.add", 1, 2)

    page = dashboard.get(path.format(job=job.id)).text

    assert "<%=" not in page
    assert ".html() %>" not in page  # escaped by hand: now escaped once, not twice


@pytest.mark.parametrize("path", PAGES)
def test_a_page_still_escapes_what_it_escaped(dashboard: Dashboard, queue: Queue, path: str) -> None:
    job = queue.enqueue("operator.add", 1, 2)

    assert "<%-" in dashboard.get(path.format(job=job.id)).text


@pytest.mark.parametrize("name", ["');alert(1);('", "<img src=x onerror=alert(1)>", "\\', alert(1), '"])
def test_a_queue_name_cannot_leave_the_script_that_it_stands_in(dashboard: Dashboard, name: str) -> None:
    page = dashboard.get(f"/0/view/jobs/{quote(name)}/queued/8/asc/1").text

    [argument] = re.findall(r"== ''\) {\s+\$\(this\)\.val\((.+)\);", page)
    assert json.loads(argument) == name
    assert "<img" not in page


@pytest.mark.parametrize("path", PAGES)
def test_no_page_holds_markup_of_a_job_or_a_queue(dashboard: Dashboard, queue: Queue, path: str) -> None:
    Queue(MARKUP, connection=queue.connection, serializer=JSONSerializer).enqueue("operator.add", 1, 2)
    job = queue.enqueue("copy.copy", MARKUP, description=MARKUP, meta={MARKUP: MARKUP})
    occupy(queue, job, name="<img>")

    assert "<img" not in dashboard.get(path.format(job=job.id)).text


# --- other sites


@pytest.mark.parametrize("kind", ["cross-site", "same-site", "origin", "null"])
@pytest.mark.parametrize("path", ACTIONS)
def test_an_action_that_another_site_asks_for_is_refused(
    dashboard: Dashboard, queue: Queue, path: str, kind: str
) -> None:
    job = fail(queue)

    response = dashboard.post(path.format(job=job.id), headers=headers_of(kind))

    assert (response.status_code, response.json["status"]) == (403, "ERROR")
    assert dashboard.jobs("failed") == [job.id]


@pytest.mark.parametrize(
    "headers",
    [{}, {"Sec-Fetch-Site": "same-origin"}, {"Sec-Fetch-Site": "none"}, {"Origin": "http://localhost"}],
    ids=["curl", "same-origin", "none", "origin"],
)
def test_an_action_of_our_own_page_or_of_curl_is_accepted(
    dashboard: Dashboard, queue: Queue, headers: dict[str, str]
) -> None:
    job = fail(queue)

    assert dashboard.post(f"/job/{job.id}/requeue", headers=headers).status_code == 200
    assert queue.job_ids == [job.id]


@pytest.mark.parametrize("path", PAGES)
def test_a_link_on_another_site_may_lead_to_a_page(dashboard: Dashboard, queue: Queue, path: str) -> None:
    job = queue.enqueue("operator.add", 1, 2)

    response = dashboard.get(path.format(job=job.id), headers=headers_of("cross-site"))

    assert response.status_code == 200


# --- headers


def policy(response: TestResponse) -> dict[str, list[str]]:
    directives = response.headers["Content-Security-Policy"].split(";")
    return {name: sources for name, *sources in (directive.split() for directive in directives)}


@pytest.mark.parametrize("path", PAGES + DOCUMENTS + FILES + ["/0/view/job/none", "/requeue/embed"])
def test_every_answer_says_what_a_browser_may_do(dashboard: Dashboard, queue: Queue, path: str) -> None:
    job = queue.enqueue("operator.add", 1, 2)

    response = dashboard.get(path.format(job=job.id))

    assert response.headers["X-Content-Type-Options"] == "nosniff"
    assert response.headers["X-Frame-Options"] == "DENY"
    directives = policy(response)
    assert directives["default-src"] == directives["base-uri"] == directives["connect-src"] == ["'self'"]
    assert directives["frame-ancestors"] == directives["object-src"] == ["'none'"]
    assert "'unsafe-inline'" not in directives["script-src"] + directives["style-src"]


@pytest.mark.parametrize("path", PAGES)
def test_every_script_that_a_browser_is_to_run_has_the_nonce_of_its_page(
    dashboard: Dashboard, queue: Queue, path: str
) -> None:
    job = queue.enqueue("operator.add", 1, 2)

    response = dashboard.get(path.format(job=job.id))

    nonce = policy(response)["script-src"][0].strip("'").removeprefix("nonce-")
    scripts = [tag for tag in re.findall(r"<script[^>]*>", response.text) if "text/template" not in tag]
    assert len(scripts) == 5
    assert all(f'nonce="{nonce}"' in tag for tag in scripts)


def test_a_nonce_is_used_for_one_answer_only(dashboard: Dashboard) -> None:
    first, second = dashboard.get("/"), dashboard.get("/")

    assert policy(first)["script-src"] != policy(second)["script-src"]


# --- Redis away


@pytest.mark.parametrize(
    ("method", "path"),
    [("GET", path) for path in PAGES + DOCUMENTS] + [("POST", path) for path in ACTIONS],
)
def test_a_route_says_in_a_line_that_redis_is_away(away: Dashboard, method: str, path: str) -> None:
    response = away.open(method, path.format(job="j"))

    assert response.status_code == 503
    line = response.json["message"] if response.is_json else response.text.strip()
    assert line == "Redis cannot be reached."


def test_the_pages_need_no_file_of_the_app_that_they_are_mounted_in(connection: redis.Redis) -> None:
    app = Flask("test", static_folder=None)
    mount(app, connection)

    page = app.test_client().get("/dashboard/").text

    assert set(re.findall(r"(?:src|href)=\"([^\"]*)/(?:css/|js/|favicon)", page)) == {"/dashboard/static"}


@pytest.mark.parametrize("path", FILES)
def test_files_need_no_redis(away: Dashboard, path: str) -> None:
    assert away.get(path).status_code == 200
