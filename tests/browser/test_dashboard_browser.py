"""The dashboard in a real browser: what a caller wrote is shown, and never runs."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from html import unescape
from pathlib import Path
from urllib.parse import quote

import pytest
import redis
from flask import Flask, Response
from rq import Queue, SimpleWorker
from rq.job import Job
from rq.serializers import JSONSerializer
from werkzeug.serving import make_server

from service.web.dashboard import mount

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
ATTACK = "<img src=x onerror=document.title='pwned'>"
SUBMIT = "<form method=post action='{}'></form><script>document.forms[0].submit()</script>"

pytestmark = pytest.mark.skipif(
    CHROMIUM is None and "CI" not in os.environ, reason="chromium is not installed (CI must have it)"
)


class Browser:
    """Headless Chromium: a fresh one for every page."""

    def __init__(self, profile: Path) -> None:
        self._command = [
            CHROMIUM or "chromium",
            *("--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-sync"),
            *("--disable-background-networking", "--disable-component-update", "--disable-dev-shm-usage"),
            *("--enable-logging=stderr", "--virtual-time-budget=8000", f"--user-data-dir={profile}"),
        ]

    def open(self, url: str) -> tuple[str, str]:
        """The page's HTML once its scripts have polled a few times, and what they wrote to the console."""
        run = subprocess.run([*self._command, "--dump-dom", url], capture_output=True, text=True, timeout=60)
        return run.stdout, "\n".join(re.findall(r".*:CONSOLE.*", run.stderr))


@pytest.fixture
def browser(tmp_path: Path) -> Browser:
    return Browser(tmp_path / "profile")


@pytest.fixture
def queue(connection: redis.Redis) -> Queue:
    return Queue("embed", connection=connection, serializer=JSONSerializer)


@contextmanager
def serve(app: Flask) -> Iterator[int]:
    """The app on a port of this machine, which is given."""
    server = make_server("127.0.0.1", 0, app, threaded=True)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield server.port
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def dashboard(connection: redis.Redis, policy: bool = True) -> Flask:
    """An app with the dashboard; without the policy that would keep a value from running unescaped."""
    app = Flask("test")
    mount(app, connection)

    @app.after_request
    def without_policy(response: Response) -> Response:
        if not policy:
            del response.headers["Content-Security-Policy"]
        return response

    return app


def occupy(queue: Queue, job: Job) -> SimpleWorker:
    # A worker changes its pool's time-outs: it must not be the dashboard's pool.
    pool = queue.connection.connection_pool
    own = redis.Redis.from_pool(redis.ConnectionPool(pool.connection_class, **pool.connection_kwargs))
    worker = SimpleWorker([queue], connection=own, serializer=JSONSerializer)
    worker.register_birth()
    queue.remove(job)
    worker.prepare_execution(job)
    return worker


def run(queue: Queue, job: Job) -> Job:
    worker = occupy(queue, job)
    worker.perform_job(job, queue, worker.executions.popitem()[1])
    worker.register_death()
    return job


def hostile_jobs(queue: Queue) -> None:
    """Jobs `done`, `failed` and `busy`, and a queue: whatever has a name or a value is markup."""
    written = {"description": ATTACK, "meta": {"log": ATTACK}}
    run(queue, queue.enqueue("copy.copy", ATTACK, job_id="done", **written))
    run(queue, queue.enqueue("builtins.int", ATTACK, job_id="failed", **written))
    busy = queue.enqueue("copy.copy", ATTACK, job_id="busy", **written)
    occupy(queue, busy).prepare_job_execution(busy)
    Queue(ATTACK, connection=queue.connection, serializer=JSONSerializer).enqueue("copy.copy", 1)


def text(page: str) -> str:
    """What is to be seen of a page, on one line: no scripts (its templates are such), no tags."""
    body = re.sub(r"<script.*?</script>", "", page, flags=re.DOTALL)
    return " ".join(unescape(re.sub(r"<[^>]*>", " ", body)).split())


def title(page: str) -> str:
    return re.findall(r"<title>(.*?)</title>", page)[0]


INVALID = f'ValueError: invalid literal for int() with base 10: "{ATTACK}"'
PAGES = {
    "done": (
        "/0/view/job/done",
        f"Description : {ATTACK} Origin queue : embed Status : finished "
        f'Result : "{ATTACK}" Metadata : {{"log": "{ATTACK}"}}',
    ),
    "failed": ("/0/view/job/failed", INVALID),
    "jobs": ("/0/view/jobs/embed/failed/8/asc/1", INVALID),
    "described": ("/0/view/jobs/embed/started/8/asc/1", f"{ATTACK} busy"),
    "workers": ("/0/view/workers", f'copy.copy("{ATTACK}")'),
    "queues": ("/", f"{ATTACK} 1 0 0 0 0 0 0"),
    "queue": (
        f"/0/view/jobs/{quote(ATTACK)}/queued/8/asc/1",
        f"on queue {ATTACK} . Name Age Actions copy.copy(1)",
    ),
}


@pytest.mark.parametrize("policy", [True, False], ids=["policy", "no-policy"])
@pytest.mark.parametrize(("path", "seen"), PAGES.values(), ids=PAGES)
def test_what_a_caller_wrote_is_shown_and_does_not_run(
    browser: Browser, queue: Queue, path: str, seen: str, policy: bool
) -> None:
    hostile_jobs(queue)

    with serve(dashboard(queue.connection, policy)) as port:
        page, console = browser.open(f"http://127.0.0.1:{port}/dashboard{path}")

    assert seen in text(page)
    assert title(page) == "RQ dashboard"
    assert "Content Security Policy" not in console
    assert "Uncaught" not in console


@pytest.mark.parametrize(("host", "requeued"), [("127.0.0.1", True), ("localhost", False)])
def test_only_our_own_page_can_requeue(browser: Browser, queue: Queue, host: str, requeued: bool) -> None:
    run(queue, queue.enqueue("operator.truediv", 1, 0, job_id="failed"))
    app = dashboard(queue.connection)

    with serve(app) as port:
        target = f"http://127.0.0.1:{port}/dashboard/job/failed/requeue"
        app.add_url_rule("/page", view_func=lambda: SUBMIT.format(target))
        page, _ = browser.open(f"http://{host}:{port}/page")

    assert ('"status":"OK"' in page) == requeued
    assert (queue.job_ids == ["failed"]) == requeued
