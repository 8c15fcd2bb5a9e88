"""A job watched in a real browser: its WebSocket, and the rule about other sites."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx
import pytest
import websocket

from tests.deployment import NO_TLS, ROOT, Deployment, eventually

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
PAGE = """<script>
const seen = [];
const socket = new WebSocket(location.hash.slice(1));
socket.onmessage = message => seen.push(JSON.parse(message.data));
socket.onclose = close => document.title = JSON.stringify({seen, code: close.code});
</script>"""

pytestmark = pytest.mark.skipif(
    CHROMIUM is None and "CI" not in os.environ, reason="chromium is not installed (CI must have it)"
)


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: Any) -> None: ...


@pytest.fixture
def site(tmp_path: Path) -> Iterator[str]:
    """The origin of a web page of somebody's."""
    folder = tmp_path / "site"
    folder.mkdir()
    (folder / "index.html").write_text(PAGE)
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(folder))) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()


@contextmanager
def browser(profile: Path, url: str) -> Iterator[str]:
    """Headless Chromium on a page; gives the address of the page's debugger."""
    process = subprocess.Popen(
        [
            CHROMIUM or "chromium",
            *("--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-sync"),
            *("--disable-background-networking", "--disable-component-update", "--disable-dev-shm-usage"),
            *(f"--user-data-dir={profile}", "--remote-debugging-port=0", url),
        ],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stderr is not None
        port = next(match[1] for line in process.stderr if (match := re.search(r"ws://127\.0\.0\.1:(\d+)/", line)))
        threading.Thread(target=process.stderr.read, daemon=True).start()  # it must not fill the pipe
        yield port
    finally:
        process.kill()
        process.communicate()


def title(port: str, url: str) -> Any:
    """The page's title, once its script has set it."""

    def check() -> Any:
        pages = httpx.get(f"http://127.0.0.1:{port}/json", verify=NO_TLS).json()
        (page,) = (page for page in pages if page["type"] == "page" and page["url"].startswith(url))
        debugger = websocket.create_connection(page["webSocketDebuggerUrl"], timeout=10, suppress_origin=True)
        debugger.send(json.dumps({"id": 1, "method": "Runtime.evaluate", "params": {"expression": "document.title"}}))
        answer = json.loads(debugger.recv())
        debugger.close()
        shown = answer["result"]["result"]["value"]
        assert shown.startswith("{"), shown
        return json.loads(shown)

    return eventually(check, 30)


def watched(deployed: Deployment, profile: Path, site: str, **environment: str) -> Any:
    """What a page of `site` sees of a countdown."""
    shutil.copy(ROOT / "jobs" / "countdown.py", deployed.jobs_dir)
    deployed.worker()
    api = deployed.web(**environment)
    job = api.submit("countdown", input={"start": 10, "interval": 0.1})
    with browser(profile, f"{site}/#ws://127.0.0.1:{api.port}{job['urls']['events']}?after=0") as port:
        return title(port, site)


def test_a_page_sees_every_event_of_a_job_and_its_end(deployed: Deployment, tmp_path: Path, site: str) -> None:
    result = watched(deployed, tmp_path / "profile", site, ALLOWED_ORIGINS=site)

    types = [event["type"] for event in result["seen"]]
    assert types[:2] == ["queued", "started"]
    assert types[-1] == "finished"
    assert types.count("progress") == 10
    assert [event["data"]["output"] for event in result["seen"] if event["type"] == "output"] == list(range(10, 0, -1))
    assert result["code"] == 1000


def test_a_page_of_another_site_sees_nothing(deployed: Deployment, tmp_path: Path, site: str) -> None:
    result = watched(deployed, tmp_path / "profile", site)

    assert result["seen"] == []
    assert result["code"] == 1006  # the handshake was refused
