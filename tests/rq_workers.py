"""Workers of any RQ application under test: real `rq worker` processes, which surely end."""

from __future__ import annotations

import os
import signal
import subprocess
import textwrap
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import redis
from rq import Queue
from rq.job import Job
from rq.results import Result

from tests.deployment import ROOT, children, python, until

WARM = "service.worker.WarmWorker"
STOCK = "rq.worker.Worker"

TASKS = """
    import ctypes, os, signal, sys, time
    from rq import get_current_job
    from rq.job import Retry
    from rq.worker import Worker

    COUNT = 0

    def note(text):
        with open(os.environ["NOTES"], "a") as file:
            file.write(f"{text}\\n")

    def add(a, b):
        return a + b

    def nothing():
        return None

    def says(text):
        note(text)
        return text

    def counts():
        global COUNT
        COUNT += 1
        return [os.getpid(), COUNT]

    def fails():
        raise ValueError("it cannot be")

    def fails_until(attempts):
        note("attempt")
        if open(os.environ["NOTES"]).read().count("attempt") < attempts:
            raise ValueError("not yet")
        return "at last"

    def returns_retry(maximum, interval):
        note("attempt")
        attempts = open(os.environ["NOTES"]).read().count("attempt")
        return Retry(max=maximum, interval=interval) if attempts < 3 else "done"

    def unserialisable():
        return lambda: None

    def exits():
        sys.exit(3)

    def leaves():
        os._exit(0)

    def forks():
        if os.fork() == 0:
            return "child"
        os.wait()
        return "parent"

    def waits(file="go"):
        note("start")
        while not os.path.exists(file):
            time.sleep(0.01)
        note("end")
        return "waited"

    def waits_and_fails():
        waits()
        raise ValueError("it cannot be")

    def says_and_fails(text):
        note(text)
        raise ValueError("it cannot be")

    def will_not_hear():
        note("start")
        while True:
            try:
                time.sleep(0.05)
            except Exception:
                note("ignored")

    def in_c():
        note("start")
        signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGALRM])
        ctypes.PyDLL(None).pause()  # keeps the GIL: no Python code runs again

    def sets_meta():
        job = get_current_job()
        job.meta["seen"] = True
        job.save_meta()
        note("start")
        time.sleep(60)

    def changes_its_process():
        os.chdir("/")
        os.umask(0o777)
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        sys.stdout = None

    def surroundings():
        umask = os.umask(0)
        os.umask(umask)
        return [os.getcwd(), umask, signal.getsignal(signal.SIGTERM) is signal.SIG_DFL, sys.stdout is None]

    def changes_itself():
        get_current_job().description = "changed"
        return get_current_job().id

    def deletes_itself():
        get_current_job().delete()
        return "gone"

    def succeeded(job, connection, result):
        note(f"success {job.id} {result}")

    def failed(job, connection, kind, error, trace):
        note(f"failure {job.id} {kind.__name__}")

    def stopped(job, connection):
        note(f"stopped {job.id}")

    def handler(job, kind, error, trace):
        note(f"handled {job.id} {kind.__name__}")
"""


class RqWorkers:
    """Starts `rq worker` processes over one Redis, with the functions of TASKS as module `tasks`."""

    def __init__(self, folder: Path, redis_url: str) -> None:
        self.folder = folder
        self.redis_url = redis_url
        self.connection = redis.Redis.from_url(redis_url)
        self.queue = Queue("low", connection=self.connection)
        self.processes: list[subprocess.Popen[bytes]] = []
        self.environment: dict[str, str] = {}
        self.write("tasks.py", TASKS)
        (folder / "notes").touch()

    def write(self, name: str, text: str) -> None:
        (self.folder / name).write_text(textwrap.dedent(text))

    def start(self, *options: str, kind: str = WARM, queues: tuple[str, ...] = ("low",)) -> subprocess.Popen[bytes]:
        """Start a worker; what it logs goes to worker-<number>.log."""
        return self._run("-m", "rq.cli", "worker", "-w", kind, "--url", self.redis_url, *options, *queues)

    def run(self, *command: str) -> None:
        """Run a Python program to its end."""
        process = self._run(*command)
        assert process.wait(20) == 0, self.log(process)

    def _run(self, *command: str) -> subprocess.Popen[bytes]:
        log = self.folder / f"worker-{len(self.processes)}.log"
        environment = {
            **os.environ,
            "PYTHONPATH": os.pathsep.join([str(self.folder), str(ROOT)]),
            "NOTES": str(self.folder / "notes"),
            **self.environment,
        }
        process = python(*command, log=log, environment=environment)
        self.processes.append(process)
        return process

    def burst(self, *options: str, **also: Any) -> str:
        """Let a worker run all that is queued. Returns what it logged."""
        process = self.start("--burst", *options, **also)
        assert process.wait(20) == 0, self.log(process)
        return self.log(process)

    def log(self, process: subprocess.Popen[bytes]) -> str:
        text: str = process.log.read_text()  # type: ignore[attr-defined]
        return text

    def ready(self, *options: str, **also: Any) -> subprocess.Popen[bytes]:
        """Start a worker and wait until it listens."""
        process = self.start(*options, **also)
        until(lambda: "Listening on" in self.log(process))
        return process

    @property
    def notes(self) -> list[str]:
        return (self.folder / "notes").read_text().splitlines()

    def noted(self, text: str, times: int = 1, within: float = 15.0) -> None:
        """Wait until a job has noted something."""
        until(lambda: self.notes.count(text) >= times, within)

    def go(self) -> None:
        """Let `waits` end."""
        (self.folder / "go").touch()

    def horse(self, process: subprocess.Popen[bytes]) -> int:
        """The process id of a worker's horse."""
        until(lambda: bool(children(process.pid)))
        return children(process.pid)[-1]

    def status(self, job: Job) -> str:
        return (self.connection.hget(job.key, "status") or b"gone").decode()

    def becomes(self, job: Job, status: str, within: float = 15.0) -> None:
        """Wait for a job's status."""
        until(lambda: self.status(job) == status, within)

    def failure(self, job: Job) -> str:
        """The error of a job that failed."""
        result = job.latest_result()
        assert result is not None
        assert result.type == Result.Type.FAILED
        return str(result.exc_string)

    def close(self) -> None:
        for process in self.processes:
            self.kill(process)
        self.connection.close()

    def kill(self, process: subprocess.Popen[bytes]) -> None:
        """SIGKILL a worker; its horse first, since one of RQ's own outlives it."""
        if process.poll() is None:
            for pid in children(process.pid):
                os.kill(pid, signal.SIGKILL)
            process.kill()
        process.wait()


@contextmanager
def rq_workers(folder: Path, redis_url: str) -> Iterator[RqWorkers]:
    """Workers that are ended at the end."""
    workers = RqWorkers(folder, redis_url)
    try:
        yield workers
    finally:
        workers.close()
