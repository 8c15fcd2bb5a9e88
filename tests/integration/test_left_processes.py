"""Processes that a job has started end with it, unless its model has them detached."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.deployment import Api, until
from tests.noting import state

MODELS = """
    import asyncio, gc, multiprocessing, os, subprocess, time
    from concurrent.futures import ProcessPoolExecutor
    from service import model

    imported = ProcessPoolExecutor(1)
    kept = []

    SLEEP = ["sleep", "1000"]

    def daemon():
        reader, writer = os.pipe()
        if os.fork() == 0:
            os.setsid()
            child = subprocess.Popen(SLEEP)
            os.write(writer, str(child.pid).encode())
            os._exit(0)
        return int(os.read(reader, 100))

    def process(method):
        child = multiprocessing.get_context(method).Process(target=time.sleep, args=(1000,))
        child.start()
        return child.pid

    def start(how):
        if how == "subprocess":
            return subprocess.Popen(SLEEP).pid
        if how == "session":
            return subprocess.Popen(SLEEP, start_new_session=True).pid
        if how == "shell":
            shell = subprocess.Popen("sleep 1000 & echo $!", shell=True, stdout=subprocess.PIPE)
            return int(shell.stdout.readline())
        return daemon() if how == "daemon" else process(how)

    @model
    class Mine:
        def setup(self):
            self.child = subprocess.Popen(SLEEP)

        def predict(self) -> list[int | None]:
            return [self.child.pid, self.child.poll()]

    @model(timeout=60)
    def starts(how: str, seconds: float = 0) -> int:
        pid = start(how)
        print(pid, flush=True)
        time.sleep(seconds)
        return pid

    @model(detached=True)
    def detaches(how: str) -> int:
        return start(how)

    @model(concurrency=2)
    async def starts_asynchronously(seconds: float = 0) -> int:
        child = await asyncio.create_subprocess_exec(*SLEEP)
        await asyncio.sleep(seconds)
        return child.pid

    @model
    def pools() -> int:
        with multiprocessing.get_context("fork").Pool(2) as pool:
            return sum(pool.map(abs, [-1, 2]))

    @model
    class Pooled:
        def setup(self):
            self.pools = {
                "import": imported,
                "setup": ProcessPoolExecutor(1),
                "renewed": multiprocessing.get_context("fork").Pool(2, maxtasksperchild=1),
            }

        def predict(self, which: str) -> list[int]:
            return list(self.pools[which].map(abs, [-1, -2]))

    @model(timeout=20)
    def keeps_a_pool(kind: str) -> list[int]:
        if not kept:
            made = multiprocessing.get_context("fork").Pool(2) if kind == "pool" else ProcessPoolExecutor(2)
            kept.append([made, kept])
        return list(kept[0][0].map(abs, [-1, -2]))

    @model(timeout=20)
    def forgets() -> None:
        kept.clear()
        gc.collect()

    @model
    def horse() -> int:
        return os.getpid()
"""


def runs(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


@pytest.mark.parametrize("how", ["subprocess", "session", "shell", "daemon", "fork", "spawn", "forkserver"])
def test_a_process_that_a_job_has_left_ends_with_it(service: Api, how: str) -> None:
    before = service.submit("horse", wait=20)["output"]

    pid = service.submit("starts", wait=30, input={"how": how})["output"]

    until(lambda: not runs(pid))
    assert service.submit("horse", wait=20)["output"] == before


def test_the_process_of_an_async_job_ends_when_no_other_runs(service: Api) -> None:
    slow = service.submit("starts_asynchronously", input={"seconds": 3})["id"]
    service.started(slow)
    quick = service.submit("starts_asynchronously", wait=20)["output"]
    service.submit("horse", wait=20)
    assert runs(quick)

    other = service.done(slow)["output"]
    until(lambda: not runs(quick) and not runs(other))


def test_processes_of_setup_and_of_a_model_that_detaches_them_go_on(service: Api) -> None:
    until(lambda: bool(state(service, "mine")["state"] == "ready"))

    pid = service.submit("detaches", wait=20, input={"how": "session"})["output"]
    service.submit("starts", wait=20, input={"how": "subprocess"})

    child, code = service.submit("mine", wait=20)["output"]
    assert code is None
    assert runs(child)
    assert runs(pid)
    os.kill(pid, 9)


@pytest.mark.parametrize("how", ["subprocess", "session"])
def test_a_job_that_is_killed_takes_its_processes_with_it(service: Api, how: str) -> None:
    job = service.submit("starts", input={"how": how, "seconds": 50})["id"]
    until(lambda: any(event["type"] == "log" for event in service.log(job)))
    pid = int(next(event["data"]["message"] for event in service.log(job) if event["type"] == "log"))

    service.cancel(job)

    assert service.done(job)["status"] == "stopped"
    until(lambda: not runs(pid))


def test_a_pool_that_was_closed_is_no_trouble(service: Api) -> None:
    for _ in range(3):
        assert service.submit("pools", wait=20)["output"] == 3


@pytest.mark.parametrize("which", ["import", "setup", "renewed"])
def test_a_pool_of_import_or_setup_serves_all_jobs_whenever_it_starts_its_processes(service: Api, which: str) -> None:
    until(lambda: bool(state(service, "pooled")["state"] == "ready"), within=30)

    for _ in range(3):
        job = service.submit("pooled", wait=30, input={"which": which})
        assert (job["status"], job["output"]) == ("finished", [1, 2]), job


@pytest.mark.parametrize(("kind", "why"), [("pool", "Pool not running"), ("executor", "BrokenProcessPool")])
def test_a_pool_that_a_job_has_kept_is_over_and_keeps_nobody_waiting(service: Api, kind: str, why: str) -> None:
    assert service.submit("keeps_a_pool", wait=30, input={"kind": kind})["output"] == [1, 2]

    job = service.submit("keeps_a_pool", wait=30, input={"kind": kind})

    assert (job["status"], job["error"]["type"]) == ("failed", "model_error"), job
    assert why in job["error"]["message"]
    assert service.submit("forgets", wait=30)["status"] == "finished"
