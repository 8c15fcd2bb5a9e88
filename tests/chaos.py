"""Chaos: at random, each process of a deployment is killed, frozen or deployed, and Redis is killed."""

from __future__ import annotations

import os
import random
import shutil
import signal
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from service.embedded import EmbeddedRedis, binary
from tests.deployment import Deployment, children, until
from tests.site import Kept, Site

PAUSE = 0.9  # seconds between two faults, on average
LONGEST_FREEZE = 20.0
LONGEST_ABSENCE = 2.0


def durable_redis(folder: Path, *options: str) -> EmbeddedRedis:
    """A Redis that answers a write only when it is on disk, so that its death loses none; with further options."""
    executable = shutil.which(os.environ.get("TEST_REDIS_SERVER", "")) or binary()
    script = folder / "durable-redis-server"
    script.write_text(f'#!/bin/sh\nexec "{executable}" "$@" --appendfsync always {" ".join(options)}\n')
    script.chmod(0o700)
    return EmbeddedRedis(folder / "redis", str(script))


@dataclass
class Fault:
    """What befell a worker or its work-horse, from when to when (time.monotonic())."""

    kind: str
    worker: int
    horses: frozenset[int]
    began: float
    ended: float

    def explains(self, worker: int, horse: int, after: float, before: float) -> bool:
        """Whether it may be why a run that began at `after` was not the last, the next having begun at `before`."""
        struck = horse in self.horses if self.kind == "horse" else worker == self.worker
        # A work-horse lives a moment longer than its supervisor, and may begin a run in it.
        return struck and self.began < before and self.ended + 1.0 > after


class Chaos:
    """A deployment in which anything may happen at any time; `run` makes it happen, `end` heals all."""

    def __init__(
        self, deployed: Deployment, server: EmbeddedRedis, rng: random.Random, workers: int, webs: int
    ) -> None:
        self.site = Site(deployed, webs)
        self.workers = Kept(lambda number: deployed.run("worker"), workers)
        self.faults: list[Fault] = []
        self.counts: Counter[str] = Counter()
        self._server = server
        self._rng = rng
        self._frozen: dict[int, Fault] = {}
        self._redis_back_at: float | None = None
        self._strikes: dict[Callable[[], None], int] = {
            self._kill_horse: 4,
            self._kill_worker: 2,
            self._kill_worker_with_all: 2,
            self._freeze_worker: 3,
            self._deploy_worker: 2,
            self._kill_web: 2,
            self._deploy_web: 2,
            self._kill_redis: 2,
        }

    def run(self, goes_on: Callable[[], bool]) -> None:
        """Strike again and again for as long as it is to go on."""
        due = time.monotonic()
        while goes_on():
            time.sleep(0.05)
            self._heal(time.monotonic())
            if time.monotonic() >= due:
                self._rng.choices(list(self._strikes), list(self._strikes.values()))[0]()
                due = time.monotonic() + self._rng.uniform(0, 2 * PAUSE)

    def end(self) -> None:
        """Thaw what is frozen, and wait until all are there again."""
        self._heal(float("inf"))
        for number in range(len(self.site.apis)):
            self.site.answers(number)

        def work() -> bool:
            self.workers.keep()
            return all("worker started" in _log(worker) for worker in self.workers.processes)

        until(work, within=60)

    def _heal(self, moment: float) -> None:
        for pid, fault in list(self._frozen.items()):
            if moment >= fault.ended:
                self._thaw(pid)
        if self._redis_back_at is not None and moment >= self._redis_back_at:
            self._redis_back_at = None
            self._server.restart()
        self.site.kept.keep()
        self.workers.keep()

    # --- strikes ------------------------------------------------------------------------------------

    def _kill_horse(self) -> None:
        worker = self._any_worker()
        horses = _horses(worker)
        self._note("horse", worker, horses)
        self._kill(*horses)

    def _kill_worker(self) -> None:
        worker = self._any_worker()
        self._note("worker alone", worker)
        self._kill(worker)

    def _kill_worker_with_all(self) -> None:
        worker = self._any_worker()
        self._note("worker with all", worker)
        self._kill(*_horses(worker), worker)

    def _freeze_worker(self) -> None:
        worker = self._any_worker()
        if worker not in self._frozen:
            self._frozen[worker] = self._note("freeze", worker, seconds=self._rng.uniform(2, LONGEST_FREEZE))
            os.kill(worker, signal.SIGSTOP)

    def _thaw(self, worker: int) -> None:
        self._frozen.pop(worker).ended = time.monotonic()
        if any(worker == process.pid and process.poll() is None for process in self.workers.processes):
            os.kill(worker, signal.SIGCONT)

    def _deploy_worker(self) -> None:
        self.counts["deploy of a worker"] += 1
        os.kill(self._any_worker(), signal.SIGTERM)  # it is started again when it has ended

    def _kill_web(self) -> None:
        self.counts["web"] += 1
        self.site.kept.end(self._rng.randrange(len(self.site.apis)), signal.SIGKILL)

    def _deploy_web(self) -> None:
        self.counts["deploy of a web process"] += 1
        self.site.kept.end(self._rng.randrange(len(self.site.apis)), signal.SIGTERM)

    def _kill_redis(self) -> None:
        if self._redis_back_at is None:
            self.counts["Redis"] += 1
            self._server.kill()
            self._redis_back_at = time.monotonic() + self._rng.uniform(0, LONGEST_ABSENCE)

    def _any_worker(self) -> int:
        self.workers.keep()  # all that it names are then children of ours, and none a process that took a pid over
        return self._rng.choice(self.workers.processes).pid

    def _note(self, kind: str, worker: int, horses: list[int] | None = None, seconds: float = 0) -> Fault:
        self.counts[kind] += 1
        began = time.monotonic()
        self.faults.append(Fault(kind, worker, frozenset(horses or ()), began, began + seconds))
        return self.faults[-1]

    @staticmethod
    def _kill(*pids: int) -> None:
        for pid in pids:
            with suppress(ProcessLookupError):  # it has just ended
                os.kill(pid, signal.SIGKILL)


def _horses(worker: int) -> list[int]:
    try:
        return children(worker)
    except FileNotFoundError:  # it has just ended
        return []


def _log(process: object) -> str:
    return str(process.log.read_text())  # type: ignore[attr-defined]
