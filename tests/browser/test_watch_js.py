"""static/watch.js in a real browser: every event once, in order, to the end, whatever happens in between."""

from __future__ import annotations

import json
import os
import random
import shutil
import socket
import threading
from base64 import b64decode
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import httpx
import pytest
import websocket

from tests.browser.test_watching_browser import CHROMIUM, browser
from tests.deployment import NO_TLS, ROOT, Api, Deployment, eventually, free_port, until
from tests.integration.test_client import CUT, MODELS, Event, Web, after, event_of, scripted, whole_log

pytestmark = pytest.mark.skipif(
    CHROMIUM is None and "CI" not in os.environ, reason="chromium is not installed (CI must have it)"
)

# What a page of somebody's does with watch.js: a list for each watch, which shows its state and its events.
PAGE = """(async () => {
  const { watch } = await import("/static/watch.js");
  document.body.style = "display: flex; font: 12px monospace";
  document.body.replaceChildren();
  window.watches = {};
  window.follow = (jobId, options) => {
    const [section, title, list] = ["section", "h3", "ol"].map(name => document.createElement(name));
    section.append(title, list);
    document.body.append(section);
    const it = watches[jobId] = { seen: [], states: [], outcome: null };
    it.watching = watch(jobId, {
      ...options,
      onEvent(event) {
        it.seen.push(event);
        const line = document.createElement("li");
        line.textContent = `${event.type} ${JSON.stringify(event.data)}`.slice(0, 60);
        list.append(line);
      },
      onState(state, why) {
        it.states.push({ state, ...why });
        title.textContent = `${jobId}: ${state} ${JSON.stringify(why ?? {})}`;
      },
    });
    it.watching.done.then(last => it.outcome = { last }, error => it.outcome = { name: error.name, ...error });
  };
})()"""


class Page:
    """A page of the service's origin that watches jobs."""

    def __init__(self, debugger: websocket.WebSocket) -> None:
        self._debugger = debugger
        self._calls = 0
        until(lambda: self.evaluate("location.protocol + document.readyState") == "http:complete")
        self.evaluate(PAGE)

    def call(self, method: str, **params: Any) -> Any:
        """One call of the browser's debugger."""
        self._calls += 1
        self._debugger.send(json.dumps({"id": self._calls, "method": method, "params": params}))
        answer = json.loads(self._debugger.recv())
        assert "exceptionDetails" not in answer["result"], answer
        return answer["result"]

    def evaluate(self, expression: str) -> Any:
        """The value of an expression, of a promise its result."""
        result = self.call("Runtime.evaluate", expression=expression, awaitPromise=True, returnByValue=True)
        return result["result"].get("value")

    def follow(self, job_id: str, **options: Any) -> None:
        """Watch a job."""
        self.evaluate(f"follow({json.dumps(job_id)}, {json.dumps(options)})")

    def seen(self, job_id: str) -> list[Event]:
        events: list[Event] = self.evaluate(f"watches[{json.dumps(job_id)}].seen")
        return events

    def count(self, job_id: str) -> int:
        return int(self.evaluate(f"watches[{json.dumps(job_id)}].seen.length"))

    def states(self, job_id: str) -> list[dict[str, Any]]:
        states: list[dict[str, Any]] = self.evaluate(f"watches[{json.dumps(job_id)}].states")
        return states

    def picture(self, file: Path) -> None:
        """A screenshot, as PNG."""
        file.write_bytes(b64decode(self.call("Page.captureScreenshot")["data"]))

    def outcome(self, job_id: str, within: float = 30) -> Any:
        """What `done` came to."""

        def check() -> Any:
            outcome = self.evaluate(f"watches[{json.dumps(job_id)}].outcome")
            assert outcome is not None, self.states(job_id)[-3:]
            return outcome

        return eventually(check, within)


@contextmanager
def page(profile: Path, port: int) -> Iterator[Page]:
    """Chromium on a page that comes from a port."""
    url = f"http://127.0.0.1:{port}/healthz"  # whatever it shows: its origin is what counts
    with browser(profile, url) as debugger_port:

        def check() -> str:
            pages = httpx.get(f"http://127.0.0.1:{debugger_port}/json", verify=NO_TLS).json()
            found = [each["webSocketDebuggerUrl"] for each in pages if each["url"] == url]
            assert found
            return str(found[0])

        debugger = websocket.create_connection(eventually(check, 30), timeout=30, suppress_origin=True)
        try:
            yield Page(debugger)
        finally:
            debugger.shutdown()


class Network:
    """The network between a browser and a port: a proxy, which can be cut and restored."""

    def __init__(self, to: int) -> None:
        self.port = free_port()
        self._to = to
        self._lock = threading.Lock()
        self._sockets: list[socket.socket] = []
        self.restore()

    def restore(self) -> None:
        """Let connections through."""
        listener = socket.create_server(("127.0.0.1", self.port))
        with self._lock:
            self._sockets = [listener]
        threading.Thread(target=self._accept, args=[listener], daemon=True).start()

    def cut(self) -> None:
        """Drop every connection and refuse new ones."""
        with self._lock:
            for each in self._sockets:
                with suppress(OSError):
                    each.shutdown(socket.SHUT_RDWR)
                each.close()
            self._sockets = []

    def _accept(self, listener: socket.socket) -> None:
        with suppress(OSError):
            while True:
                near, _ = listener.accept()
                far = socket.create_connection(("127.0.0.1", self._to))
                with self._lock:
                    here = listener in self._sockets
                    self._sockets += [near, far] if here else []
                for one, other in ((near, far), (far, near)) if here else ():
                    threading.Thread(target=self._pump, args=[one, other], daemon=True).start()
                if not here:
                    near.close()
                    far.close()

    def _pump(self, one: socket.socket, other: socket.socket) -> None:
        with suppress(OSError):
            while data := one.recv(65536):
                other.sendall(data)
            other.shutdown(socket.SHUT_WR)


@contextmanager
def network(to: int) -> Iterator[Network]:
    each = Network(to)
    try:
        yield each
    finally:
        each.cut()


def seeded() -> random.Random:
    seed = random.randrange(2**32)
    print(f"seed {seed}")
    return random.Random(seed)


# --- what goes wrong on the way -------------------------------------------------------------------


def test_a_page_sees_every_event_of_each_example_though_the_network_is_cut_again_and_again(
    deployed: Deployment, tmp_path: Path
) -> None:
    points = seeded()
    for name in ("add", "countdown", "train_digits"):
        shutil.copy(ROOT / "jobs" / f"{name}.py", deployed.jobs_dir)
    for _ in range(3):  # so all three jobs run at once
        deployed.worker()
    api = deployed.web()

    with network(api.port) as between, page(tmp_path / "profile", between.port) as watching:
        jobs = [
            api.submit("add", input={"x": 1, "y": 2, "seconds": 16})["id"],
            api.submit("countdown", input={"start": 60, "interval": 0.26})["id"],
            api.submit("train_digits", input={"epochs": 100, "pause": 0.15})["id"],
        ]
        for job_id in jobs:
            watching.follow(job_id, after=0)
            api.started(job_id)
        for _ in range(3):
            seen = {job_id: watching.count(job_id) + 1 for job_id in jobs}
            seen[jobs[1]] += points.randint(0, 5)
            until(lambda seen=seen: all(watching.count(job_id) >= n for job_id, n in seen.items()))  # type: ignore[misc]
            between.cut()
            missed = {job_id: len(api.log(job_id)) + 1 for job_id in jobs}
            until(lambda missed=missed: all(len(api.log(job_id)) >= n for job_id, n in missed.items()))  # type: ignore[misc]
            assert all(api.job(job_id)["status"] == "started" for job_id in jobs)
            between.restore()

        outcomes = [watching.outcome(job_id) for job_id in jobs]
        watching.picture(tmp_path / "page.png")  # for whoever wants to look
        events = [watching.seen(job_id) for job_id in jobs]
        states = [[state["state"] for state in watching.states(job_id)] for job_id in jobs]

    logs = [whole_log(api, job_id) for job_id in jobs]
    assert events == logs
    assert outcomes == [{"last": log[-1]} for log in logs]
    assert [log[-1]["type"] for log in logs] == ["finished"] * 3
    assert all(each.count("open") == 4 and each[-1] == "closed" for each in states)


def test_a_page_sees_every_event_though_the_web_process_is_killed_and_started_again(
    deployed: Deployment, tmp_path: Path
) -> None:
    points = seeded()
    gate = tmp_path / "gate"
    deployed.write(MODELS)
    deployed.worker()
    web = Web(deployed)
    job_id = web.api.submit("stream", input={"gate": str(gate)})["id"]

    with page(tmp_path / "profile", web.api.port) as watching:
        watching.follow(job_id)
        for end in (web.kill, web.stop, web.kill):
            enough = watching.count(job_id) + points.randint(1, 60)
            until(lambda enough=enough: watching.count(job_id) >= enough, within=30)  # type: ignore[misc]
            end()
            web.start()
        gate.touch()
        outcome = watching.outcome(job_id)
        snapshot, *seen = watching.seen(job_id)
        codes = {state["code"] for state in watching.states(job_id) if state["state"] == "waiting"}

    log = whole_log(web.api, job_id)
    assert snapshot["type"] == "snapshot"
    assert seen == after(snapshot, log)
    assert outcome == {"last": log[-1]}
    assert {1006, 1012} <= codes


def test_all_that_may_pass_is_tried_again_from_the_last_event(service: Api, tmp_path: Path) -> None:
    gap, snapshot = event_of("12-0", "gap"), event_of("30-0", "snapshot", done=False)
    log = [event_of(id) for id in ("9-9", "9-10", "11-0")]
    end = event_of("31-0", "finished")
    parts = [[log[0], CUT], [*log[:2], 4408], [log[2], 1008], [gap, 1011], [gap, snapshot, 1013], [end, CUT], [4410]]

    with page(tmp_path / "profile", service.port) as watching, scripted(503, 429, *parts) as server:
        watching.follow("j", url=server.url, types=["output", "finished"])
        outcome = watching.outcome("j")
        seen = watching.seen("j")

    assert seen == [*log, gap, gap, snapshot, end]
    assert outcome == {"last": end}
    cursors = [target.partition("after=")[2] for target in server.asked]
    assert cursors == ["", "", "", "9-9", "9-10", "11-0", "11-0", "30-0", "31-0"]
    assert all("types=output%2Cfinished" in target for target in server.asked)


def test_a_browser_that_is_online_again_tries_at_once(service: Api, tmp_path: Path) -> None:
    job = service.submit("echo", wait=10)

    with network(service.port) as between, page(tmp_path / "profile", between.port) as watching:
        between.cut()
        watching.evaluate("Math.random = () => 3_600_000")  # of a quarter of a second: for ever
        watching.follow(job["id"])
        until(lambda: watching.states(job["id"])[-1]["state"] == "waiting")
        between.restore()
        watching.evaluate("dispatchEvent(new Event('online'))")

        assert "last" in watching.outcome(job["id"], within=10)


# --- what cannot be watched -----------------------------------------------------------------------


def test_a_page_is_told_why_a_job_cannot_be_watched(service: Api, tmp_path: Path) -> None:
    job = service.submit("echo", wait=10)

    with page(tmp_path / "profile", service.port) as watching:
        watching.follow("unknown")
        watching.follow(job["id"], after="junk")

        unknown, bad_cursor = watching.outcome("unknown"), watching.outcome(job["id"])

    assert (unknown["name"], unknown["code"], unknown["type"]) == ("WatchError", 4404, "job-not-found")
    assert (bad_cursor["name"], bad_cursor["code"], bad_cursor["type"]) == ("WatchError", 4400, "invalid-cursor")


def test_a_page_gives_up_on_a_server_that_never_answers_it(service: Api, tmp_path: Path) -> None:
    with page(tmp_path / "profile", service.port) as watching:
        watching.follow("j", url=f"http://127.0.0.1:{free_port()}", triesBeforeOpen=3)

        outcome = watching.outcome("j")
        states = [state["state"] for state in watching.states("j")]

    assert (outcome["name"], outcome["code"], outcome["type"]) == ("WatchError", 1006, "unreachable")
    assert states == ["connecting", "waiting"] * 2 + ["connecting", "closed"]


def test_a_page_that_closes_its_watch_hears_no_more(service: Api, tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    job = service.submit("stream", input={"gate": str(gate)})

    with page(tmp_path / "profile", service.port) as watching:
        watching.follow(job["id"])
        until(lambda: watching.count(job["id"]) > 3)
        watching.evaluate(f"watches['{job['id']}'].watching.close()")
        seen = watching.count(job["id"])
        outcome = watching.outcome(job["id"])
        gate.touch()
        service.done(job["id"])

        assert watching.count(job["id"]) == seen
    assert outcome == {}  # JSON for {last: undefined}
