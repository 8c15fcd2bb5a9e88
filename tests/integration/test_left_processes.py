"""Processes that a job has started end with it, unless its model has them detached."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.deployment import Api, until
from tests.noting import state

MODELS = """
    import asyncio, multiprocessing, os, subprocess, time
    from service import model

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
