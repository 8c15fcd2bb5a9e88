"""A running service to do things to: web process and workers, with clocks that can be set, on a Redis of its own."""

from __future__ import annotations

import os
import resource
import signal
import struct
import subprocess
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import redis

from service.embedded import EmbeddedRedis, binary
from tests.deployment import Deployment, children, eventually, until
from tests.hostile.listener import Listener
from tests.hostile.load import Ledger
from tests.hostile.models import LOADED, MODELS, SCHEMAS
from tests.hostile.redis_proxy import RedisProxy
from tests.rude_model import RUDE

SKEW = Path(__file__).parent / "skew"
STARTS_WITHIN = 30.0


class Clock:
    """The time of day of one host, seconds off the true one."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.set(0.0)

    def set(self, offset: float) -> None:
        """Make it so many seconds fast, at once."""
        with self.path.open("r+b" if self.path.exists() else "wb") as file:  # in place: processes have it mapped
            file.write(struct.pack("d", offset))


@dataclass(frozen=True)
class Memory:
    """Of one process: bytes it holds now, the most since they were last counted, and open files."""

    rss: int
    peak: int
    files: int


class Stage:
    """One running service. `redis` goes past the proxy that the service's own connections go through."""

    also_served: tuple[str, ...] = ("victim", "slug", "letters", "unique")

    def __init__(self, folder: Path, workers: int = 2, executable: str | None = None, **environment: str) -> None:
        self.folder = folder
        self.server = EmbeddedRedis(folder / "redis", patient_redis(folder, executable or binary()))
        self.server.start()
        path = self.server.url.removeprefix("unix://")
        self.proxy = RedisProxy(folder / "proxy.sock", path)
        self.redis = redis.Redis.from_url(self.server.url, socket_timeout=30)
        self.redis_pid = int(self.redis.info("server")["process_id"])
        self.listener = Listener()
        self.deployed = Deployment(folder, self.proxy.url, NOBODY=str(self.listener.port), **environment)
        self.deployed.write(MODELS)
        self.deployed.write(SCHEMAS, "schemas.py")
        self.deployed.write(RUDE, "rude.py")
        self.ledger = Ledger()
        self.killed: set[int] = set()
        """Processes that a situation ended on purpose."""
        self.forgotten_until = 0.0
        """When Redis last forgot what was accepted before, as time.monotonic()."""
        self.web_clock = Clock(folder / "web.clock")
        self.clocks = [Clock(folder / f"worker-{number}.clock") for number in range(workers)]
        self.names: dict[int, str] = {}
        """Of the workers."""
        self.workers = [self.start_worker(number) for number in range(workers)]
        self.until_all_work()
        self.api = self.deployed.web(**_with_clock(self.web_clock))
        self.until_ready()
        self.warm_up()

    def close(self) -> None:
        """End all of it."""
        self.deployed.close()
        self.proxy.close()
        self.listener.close()
        self.redis.close()
        os.kill(self.redis_pid, signal.SIGCONT)
        self.server.stop()

    # --- processes ------------------------------------------------------------------------------------

    def start_worker(self, number: int) -> subprocess.Popen[bytes]:
        """Start the worker that lives on the host with this clock."""
        self.names[number] = f"worker-{number}-{os.urandom(3).hex()}"
        return self.deployed.run("worker", "--name", self.names[number], **_with_clock(self.clocks[number]))

    def keep(self) -> None:
        """Start the workers again that a situation has killed, as a process manager does.

        Those, too, that ended because Redis could not be used before they were ready: they are supposed to.
        """
        for number, worker in enumerate(self.workers):
            if worker.poll() is not None and (worker.pid in self.killed or not _has_started(worker)):
                self.killed.add(worker.pid)
                self.workers[number] = self.start_worker(number)

    def until_all_work(self) -> None:
        """Wait until all workers are there."""

        def check() -> bool:
            self.keep()
            return all(each.poll() is not None or _has_started(each) for each in self.workers)

        until(check, STARTS_WITHIN)

    def kill(self, pid: int) -> None:
        """SIGKILL a process of the service."""
        self.killed.add(pid)
        os.kill(pid, signal.SIGKILL)

    def horses(self, worker: int) -> list[int]:
        """The work-horses of a worker."""
        return children(worker)

    @property
    def web_pid(self) -> int:
        """The process that serves: the child of the one that was started."""
        return children(self.api.process.pid)[0]  # type: ignore[attr-defined]

    def processes(self) -> dict[str, int]:
        """All processes of the service that live, by what they are."""
        found = {"web arbiter": self.api.process.pid}  # type: ignore[attr-defined]
        found |= {f"web {number}": pid for number, pid in enumerate(children(found["web arbiter"]))}
        for number, worker in enumerate(self.workers):
            if worker.poll() is None:
                found[f"worker {number}"] = worker.pid
                found |= {f"horse {number}.{each}": pid for each, pid in enumerate(children(worker.pid))}
        return found

    def memory(self) -> dict[str, Memory]:
        """What each of them holds."""
        return {name: memory_of(pid) for name, pid in self.processes().items()}

    def forget_peaks(self) -> None:
        """Count the most that each holds from now on."""
        for pid in self.processes().values():
            Path(f"/proc/{pid}/clear_refs").write_text("5")

    def statuses(self) -> dict[str, str]:
        """The status of each job there is, as Redis has it."""
        ids = [job_id.decode(errors="replace") for job_id in self.redis.zrange("service:jobs", 0, -1)]
        with self.redis.pipeline(transaction=False) as pipeline:
            for job_id in ids:
                pipeline.hget(f"rq:job:{job_id}", "status")
            found = zip(ids, pipeline.execute(), strict=True)
        return {job_id: status.decode() for job_id, status in found if status}

    def logs(self) -> str:
        """What web process and workers have written last."""
        named = {"web": self.api.process, **{f"worker {n}": each for n, each in enumerate(self.workers)}}  # type: ignore[attr-defined]
        return "\n".join(f"--- {name}\n{_last_lines(each)}" for name, each in named.items())

    # --- what a situation uses ------------------------------------------------------------------------

    @contextmanager
    def stopped(self, *pids: int) -> Iterator[None]:
        """Within it these processes are frozen."""
        for pid in pids:
            os.kill(pid, signal.SIGSTOP)
        try:
            yield
        finally:
            for pid in pids:
                os.kill(pid, signal.SIGCONT)

    @contextmanager
    def configured(self, **options: str) -> Iterator[redis.Redis]:
        """Within it Redis has these options; `_` stands for `-`. Gives the client whose connection puts them back."""
        named = {name.replace("_", "-"): value for name, value in options.items()}
        with self.redis.client() as own:  # one connection, which it has though there may be no more
            before = {name: own.config_get(name)[name] for name in named}
            for name, value in named.items():
                own.config_set(name, value)
            try:
                yield own
            finally:
                for name, value in before.items():
                    own.config_set(name, value)

    @contextmanager
    def full_disk(self) -> Iterator[None]:
        """Within it Redis can write no file any further."""
        resource.prlimit(self.redis_pid, resource.RLIMIT_FSIZE, (1, resource.RLIM_INFINITY))
        try:
            yield
        finally:
            resource.prlimit(self.redis_pid, resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))

    def restart_redis(self, away: float = 0.0, meanwhile: Callable[[], None] = lambda: None) -> None:
        """Kill Redis, and start it again after so many seconds."""
        os.kill(self.redis_pid, signal.SIGKILL)
        until(self.server.died)
        meanwhile()
        time.sleep(away)
        self.server.restart()
        self.redis_pid = int(self.redis.info("server")["process_id"])

    @contextmanager
    def long_job(self, model: str = "waits", seconds: float = 60) -> Iterator[str]:
        """A job that runs within it and is over after it, whatever befalls the service meanwhile."""
        key = {"Idempotency-Key": uuid.uuid4().hex}

        def accepted() -> str:
            return str(self.api.submit(model, headers=key, input={"name": "long", "seconds": seconds})["id"])

        def over(job_id: str) -> None:
            answer = self.api.cancel(job_id)
            assert answer.status_code in (200, 202, 404, 409, 410), answer.text

        job_id = ""
        try:
            job_id = accepted()
            yield job_id
        finally:  # as a careful caller: again, until it is heard
            known = job_id or eventually(accepted, within=STARTS_WITHIN)
            eventually(lambda: over(known), within=STARTS_WITHIN)

    def until_ready(self, within: float = STARTS_WITHIN) -> None:
        """Wait until it says that it is ready, and all models are served."""

        def check() -> None:
            ready = self.api.http.get("/readyz")
            assert ready.status_code == 200, ready.text
            models = self.api.http.get("/v1/models")
            assert models.status_code == 200, models.text
            served = {model["name"] for model in models.json()["models"] if model["ready"]}
            assert served >= {*LOADED, *self.also_served}, served

        eventually(check, within)

    def warm_up(self) -> None:
        """Run some of everything, so that all that is loaded late is loaded."""
        for _ in range(3):
            jobs = [self.ledger.submit(self.api, model) for model in LOADED for _ in range(4)]
            for asked in jobs:
                self.api.done(asked.id)
        until(lambda: all(len(children(worker.pid)) == 1 for worker in self.workers))


def patient_redis(folder: Path, executable: str) -> str:
    """A redis-server that a limit on the size of files does not kill: its writes fail, as on a full disk."""
    script = folder / "patient-redis-server"
    script.write_text(f'#!/bin/sh\ntrap \'\' XFSZ\nexec "{executable}" "$@"\n')
    script.chmod(0o700)
    return str(script)


def memory_of(pid: int) -> Memory:
    """What a process holds; its files are counted, too."""
    lines = dict(line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines())
    rss, peak = (int(lines[name].split()[0]) * 1024 for name in ("VmRSS", "VmHWM"))
    return Memory(rss, peak, len(list(Path(f"/proc/{pid}/fd").iterdir())))


def _has_started(worker: subprocess.Popen[bytes]) -> bool:
    log: Path = worker.log  # type: ignore[attr-defined]
    return "worker started" in log.read_text(errors="replace")


def _with_clock(clock: Clock) -> dict[str, str]:
    root = Path(__file__).resolve().parents[2]
    return {"CLOCK": str(clock.path), "PYTHONPATH": f"{SKEW}{os.pathsep}{root}"}


def _last_lines(process: subprocess.Popen[bytes], most: int = 25) -> str:
    """The last lines that tell of more than what is usual."""
    log: Path = process.log  # type: ignore[attr-defined]
    lines = [line for line in log.read_text(errors="replace").splitlines() if "level=info" not in line]
    return "\n".join(line[:1000] for line in lines[-most:])
