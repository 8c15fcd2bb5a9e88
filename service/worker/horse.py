"""The work-horse: a child of the supervisor that imports the models, loads them and runs the jobs.

It never speaks to Redis: whatever a model does to it, the supervisor's books stay right. It ends when
the link closes, and the kernel ends it when the supervisor dies.
"""

from __future__ import annotations

import gc
import json
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from types import FrameType
from typing import Any

from service.process import die_with_parent
from service.registry import find_models
from service.worker.link import INTERRUPT, Link, LinkClosed, Message
from service.worker.prediction import Interrupted, failure, predict
from service.worker.reporter import JobReporter, reporting


class Horse:
    """Answers the supervisor's messages, one after another."""

    def __init__(self, link: Link, jobs_dir: Path, max_output_bytes: int, max_log_lines: int) -> None:
        self._link = link
        self._max_output_bytes = max_output_bytes
        self._max_log_lines = max_log_lines
        self._interruptible = False
        self._sending = False
        self._interrupt_after_sending = False
        self._instances: dict[str, Any] = {}
        self._found, self._broken = find_models(jobs_dir)

    def work(self) -> None:
        """Introduce the models, then answer until the supervisor is gone."""
        signal.signal(INTERRUPT, self._interrupt)
        self._link.send(
            {
                "models": [
                    {**asdict(found.description), "has_setup": found.model.has_setup} for found in self._found.values()
                ],
                "broken": [asdict(broken) for broken in self._broken],
            }
        )
        while True:
            message = self._link.receive()
            self._link.send(self._set_up(message["setup"]) if "setup" in message else self._run(message))

    def _set_up(self, name: str) -> Message:
        started = time.monotonic()
        model = self._found[name].model
        try:
            instance = model.target()
            if hasattr(instance, "setup"):
                instance.setup()
        except BaseException as error:  # noqa: B902 -- whatever it raises is the answer; the horse lives on
            return {"failed": name, **failure(error)}
        self._instances[name] = instance
        gc.freeze()  # what is loaded stays: the collector need not look at it between jobs
        return {"ready": name, "seconds": time.monotonic() - started}

    def _run(self, message: Message) -> Message:
        model = self._found[message["model"]].model
        job = JobReporter(self._send, self._max_log_lines)
        self._send({"begun": message["run"]})
        try:
            with reporting(job), self._interruptions():
                output = predict(
                    model,
                    self._instances.get(message["model"]),
                    message["input"],
                    job.output,
                    self._max_output_bytes,
                )
            return {"finished": output}
        except Interrupted:
            return {"interrupted": True}
        except LinkClosed:
            raise
        except BaseException as error:  # noqa: B902 -- sys.exit in a model fails its job, not the horse
            return failure(error)
        finally:
            job.close()

    @contextmanager
    def _interruptions(self) -> Iterator[None]:
        self._interruptible = True
        try:
            yield
        finally:
            self._interruptible = False

    def _interrupt(self, signum: int, frame: FrameType | None) -> None:
        # One that comes when the job is over already is answered by its outcome.
        if not self._interruptible:
            return
        if self._sending:  # half a message would make the link unreadable
            self._interrupt_after_sending = True
            return
        self._interruptible = False
        raise Interrupted

    def _send(self, message: Message) -> None:
        if threading.current_thread() is not threading.main_thread():  # signals never interrupt it
            self._link.send(message)
            return
        self._sending = True
        try:
            self._link.send(message)
        finally:
            self._sending = False
        if self._interrupt_after_sending:
            self._interrupt_after_sending = self._interruptible = False
            raise Interrupted


def main() -> None:
    """`python -m service.worker.horse FD OPTIONS`, started by the supervisor."""
    die_with_parent()
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    options = json.loads(sys.argv[2])
    sys.path.insert(0, str(Path.cwd()))
    link = Link(int(sys.argv[1]))
    os.register_at_fork(after_in_child=link.mute)
    try:
        Horse(link, Path(options.pop("jobs_dir")), **options).work()
    except LinkClosed:
        os._exit(0)  # at once: a model's threads and exit handlers must not keep the memory


if __name__ == "__main__":
    main()
