"""`worker`: one worker, or several under one parent that restarts those that die and shares the GPUs out."""

from __future__ import annotations

import argparse
import math
import os
import signal
import subprocess
import sys
import time

from service import logs
from service.cli.devices import share, visible
from service.cli.terminal import SECOND_ASK, Asked, say
from service.failure import Failure
from service.process import ending_with_us
from service.settings import Settings
from service.store.connection import check, check_permissions, connect
from service.worker.registration import NameTaken
from service.worker.stable import CannotImport
from service.worker.supervisor import NothingToServe, Supervisor

RESTART_PAUSE = 1.0
LOOK_INTERVAL = 0.2


def run(options: argparse.Namespace, settings: Settings) -> int:
    """Work until asked to stop. Raises Failure."""
    logs.set_up(settings)
    # A worker tries again by itself, and looks after its jobs' limits in between.
    connection = connect(settings, tries=1)
    check(connection, settings)
    check_permissions(connection, settings)
    if options.count > 1:
        return _Pool(options, settings).run()
    try:
        Supervisor(settings, connection, options.models, options.queues, options.name, options.burst).run()
    except (NothingToServe, CannotImport, NameTaken) as error:
        raise Failure(str(error)) from None
    return 0


class _Pool:
    """Runs `--count` workers as processes of their own."""

    def __init__(self, options: argparse.Namespace, settings: Settings) -> None:
        self._command = [sys.executable, "-m", "service", "worker"]
        for name in ("models", "queues"):
            if values := getattr(options, name):
                self._command += [f"--{name}", ",".join(sorted(values))]
        self._burst = options.burst
        self._command += ["--burst"] if options.burst else []
        self._count: int = options.count
        self._gpus = visible(os.environ)
        self._workers: list[subprocess.Popen[bytes]] = []
        self._asked = Asked()

    def run(self) -> int:
        """Keep them running; when asked to stop, pass it on and wait for them."""
        self._workers = [self._start(place) for place in range(self._count)]
        told, told_at = 0, -math.inf
        while any(worker.poll() is None for worker in self._workers) or not (self._asked.times or self._burst):
            # Not in the signal's handler: it may come while one is being started.
            if self._asked.times > told and time.monotonic() > told_at + SECOND_ASK:
                told, told_at = told + 1, time.monotonic()
                self._pass_on()
            self._replace_the_dead()
            time.sleep(LOOK_INTERVAL)
        # One that was asked to end while it still started ends by the signal itself.
        fine = (0, -signal.SIGTERM) if self._asked.times else (0,)
        return int(any(worker.returncode not in fine for worker in self._workers))

    def _start(self, place: int) -> subprocess.Popen[bytes]:
        gpus = {"CUDA_VISIBLE_DEVICES": ",".join(share(self._gpus, place, self._count))} if self._gpus else {}
        return subprocess.Popen(
            self._command,
            env={**os.environ, **gpus},
            start_new_session=True,  # Ctrl-C reaches it once, through us
            preexec_fn=ending_with_us(),
        )

    def _replace_the_dead(self) -> None:
        for place, worker in enumerate(self._workers):
            code = worker.poll()
            if code is None or self._asked.times or (self._burst and code == 0):
                continue
            say(f"worker {worker.pid} ended with code {code}: starting another")
            time.sleep(RESTART_PAUSE)
            if not self._asked.times:
                self._workers[place] = self._start(place)

    def _pass_on(self) -> None:
        for worker in self._workers:
            if worker.poll() is None:
                worker.send_signal(signal.SIGTERM)
