"""However `up` ends: Redis is the last to go, nothing is left behind, and the running job is given back."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.deployment import Api, Deployment, children, deployment, eventually, free_port, until

MODELS = """
    import os, time
    from service import model

    @model(timeout=120)
    def once(file: str) -> str:
        if os.path.exists(file):
            return "second run"
        open(file, "x").close()
        time.sleep(100)
        return "first run"
"""
# What stands in the command line of each.
COMMANDS = {
    "guardian": b"guardian.py",
    "redis": b"unixsocket",
    "web": b"service\0web",
    "worker": b"service\0worker",
    "horse": b"service.worker.horse",
}


@dataclass
class Tree:
    """`up` and all that it has started."""

    up: subprocess.Popen[bytes]
    pids: dict[str, list[int]]

    @property
    def everything(self) -> list[int]:
        """All pids, the one of `up` first."""
        return [self.up.pid, *(pid for pids in self.pids.values() for pid in pids)]

    def kill(self, signum: signal.Signals, *names: str) -> None:
        """Send a signal to some of them, or to all."""
        pids = [self.up.pid] if names == ("up",) else [pid for name in names for pid in self.pids[name]]
        for pid in pids if names else self.everything:
            with suppress(ProcessLookupError):  # it has ended by what others were told
                os.kill(pid, signum)

    def alive(self) -> set[str]:
        """The names of those that have not ended."""
        self.up.poll()
        return {name for name, pids in self.pids.items() if any(map(_runs, pids))}


def _runs(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except (FileNotFoundError, ProcessLookupError):
        return False


def descendants(pid: int) -> list[int]:
    direct = children(pid)
    return direct + [each for child in direct for each in descendants(child)]


def tree_of(up: subprocess.Popen[bytes]) -> Tree:
    pids: dict[str, list[int]] = {name: [] for name in COMMANDS}
    for pid in descendants(up.pid):
        line = Path(f"/proc/{pid}/cmdline").read_bytes()
        pids[next(name for name, part in COMMANDS.items() if part in line)].append(pid)
    assert all(pids.values()), pids
    return Tree(up, pids)


@pytest.fixture
def laptop(tmp_path: Path) -> Iterator[Deployment]:
    """A machine without REDIS_URL."""
    with deployment(tmp_path, "", PORT=str(free_port()), LOG_LEVEL="warning", GRACE_PERIOD="2") as each:
        each.write(MODELS)
        yield each


def start(laptop: Deployment, *options: str) -> tuple[subprocess.Popen[bytes], Api]:
    up = laptop.run("up", *options)

    def check() -> None:
        assert up.poll() is None, said(up)
        assert "ready " in said(up)

    eventually(check, 60)
    return up, laptop.api(int(laptop.environment["PORT"]))


def said(up: subprocess.Popen[bytes]) -> str:
    return str(up.log.read_text())  # type: ignore[attr-defined]


def up_and_web(tree: Tree) -> None:
    tree.kill(signal.SIGKILL, "up")
    tree.kill(signal.SIGKILL, "web")


def twice(tree: Tree) -> None:
    tree.kill(signal.SIGINT, "up")
    until(lambda: "Ctrl-C again" in said(tree.up))
    tree.kill(signal.SIGINT, "up")


def without_redis(tree: Tree) -> None:
    tree.kill(signal.SIGKILL, "redis")
    tree.kill(signal.SIGTERM, "up")


def redis_while_ending(tree: Tree) -> None:
    tree.kill(signal.SIGTERM, "up")
    until(lambda: "waiting for" in said(tree.up))
    tree.kill(signal.SIGKILL, "redis")


SITUATIONS: dict[str, Callable[[Tree], None]] = {
    "up is killed": lambda tree: tree.kill(signal.SIGKILL, "up"),
    "up and its web server are killed": up_and_web,
    "the terminal is closed": lambda tree: os.killpg(tree.up.pid, signal.SIGHUP),
    "SIGHUP to all": lambda tree: tree.kill(signal.SIGHUP),
    "SIGTERM to all": lambda tree: tree.kill(signal.SIGTERM),
    "Ctrl-C, twice": twice,
    "Redis is killed, then SIGTERM": without_redis,
    "Redis is killed while the others end": redis_while_ending,
}


@pytest.mark.parametrize("situation", SITUATIONS)
def test_redis_ends_last_and_the_running_job_is_given_back(laptop: Deployment, situation: str, tmp_path: Path) -> None:
    up, api = start(laptop)
    job = api.submit("once", input={"file": str(tmp_path / "ran")})
    until((tmp_path / "ran").exists)
    tree = tree_of(up)

    SITUATIONS[situation](tree)

    orders = []
    deadline = time.monotonic() + 30
    while (alive := tree.alive()) and time.monotonic() < deadline:
        orders.append(alive)
        time.sleep(0.005)
    assert not alive
    if "Redis is killed" not in situation:
        early = [each for each in orders if "redis" not in each and each & {"web", "worker", "horse"}]
        assert not early
    up.wait(10)
    again, api = start(laptop)
    done = api.done(job["id"], within=30)
    assert (done["output"], [attempt["error"] for attempt in done["attempts"]]) == ("second run", [None])
    again.send_signal(signal.SIGTERM)
    assert again.wait(30) == 0
    assert "Traceback" not in said(up) + said(again)


def test_the_running_job_is_given_back_when_up_is_killed_beside_a_redis_of_its_own(
    deployed: Deployment, notes: Path
) -> None:
    deployed.write(MODELS)
    deployed.environment["PORT"] = str(free_port())
    up, api = start(deployed)
    job = api.submit("once", input={"file": str(notes.with_name("ran"))})
    until(notes.with_name("ran").exists)

    up.kill()

    until(lambda: not of(deployed.folder), within=15)
    api = deployed.web()
    assert (api.job(job["id"])["status"], api.job(job["id"])["attempts"]) == ("queued", [])


def test_nothing_is_left_behind_when_up_and_redis_are_killed_together(laptop: Deployment, tmp_path: Path) -> None:
    up, api = start(laptop)
    job = api.submit("once", input={"file": str(tmp_path / "ran")}, retries=1)
    until((tmp_path / "ran").exists)
    tree = tree_of(up)

    tree.kill(signal.SIGKILL, "redis")
    tree.kill(signal.SIGKILL, "up")

    until(lambda: not of(laptop.folder), within=20)
    again, api = start(laptop)
    assert api.done(job["id"], within=30)["output"] == "second run"
    again.terminate()
    assert again.wait(30) == 0


@pytest.mark.parametrize("after", [0.2, 0.7, 1.2, 2.0])
def test_up_that_is_killed_while_it_starts_leaves_nothing(laptop: Deployment, after: float) -> None:
    up = laptop.run("up")
    time.sleep(after)  # the moment itself is what is tried

    up.kill()
    up.wait()

    until(lambda: not of(laptop.folder), within=20)
    again, _ = start(laptop)
    again.terminate()
    assert again.wait(30) == 0


def test_a_web_server_that_is_killed_comes_back_though_its_processes_hold_the_port(laptop: Deployment) -> None:
    up, api = start(laptop)
    arbiter, worker = tree_of(up).pids["web"]

    os.kill(arbiter, signal.SIGKILL)

    until(lambda: not _runs(worker))
    eventually(lambda: ready(api))
    assert said(up).count("starting it again") == 1
    up.terminate()
    assert up.wait(30) == 0


def test_a_redis_that_cannot_be_started_again_is_tried_until_it_can(laptop: Deployment, tmp_path: Path) -> None:
    up, api = start(laptop)
    (tmp_path / "ran").touch()
    tree = tree_of(up)
    tree.kill(signal.SIGSTOP, "up")
    tree.kill(signal.SIGKILL, "redis")
    until(lambda: "guardian" not in tree.alive())
    sock = laptop.folder / "data/redis.sock"
    sock.unlink()
    sock.mkdir()

    tree.kill(signal.SIGCONT, "up")

    until(lambda: "which cannot be used" in said(up))
    sock.rmdir()
    eventually(lambda: ready(api))
    assert api.submit("once", wait=20, input={"file": str(tmp_path / "ran")})["output"] == "second run"
    assert tree.alive() >= {"web", "worker", "horse"}
    up.terminate()
    assert up.wait(30) == 0


def ready(api: Api) -> None:
    assert api.http.get("/readyz").status_code == 200


def of(folder: Path) -> list[int]:
    """All processes that were started for a deployment in this folder: its paths are in their environment."""
    found = []
    for each in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            if f"JOBS_DIR={folder}/".encode() in (each / "environ").read_bytes() and _runs(int(each.name)):
                found.append(int(each.name))
    return found
