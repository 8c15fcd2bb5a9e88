"""The work-horse: a child of the supervisor that imports the models, loads them and runs the jobs.

It never speaks to Redis: whatever a model does to it, the supervisor's books stay right. It ends when
its links close, and the kernel ends it when the supervisor dies. Its main thread runs one unit after
another; async models run on an event loop in a thread of its own (event_loop.py).
"""

from __future__ import annotations

import faulthandler
import gc
import json
import os
import signal
import socket
import sys
import threading
import time
from collections import deque
from contextvars import copy_context
from dataclasses import asdict
from functools import partial
from pathlib import Path
from types import FrameType
from typing import Any

from pydantic import BaseModel

from service.job import Attempt, together
from service.model import Model
from service.process import adopt_orphans, die_with_parent
from service.registry import Found, find_models
from service.tracebacks import traceback_of
from service.webhooks import delivery
from service.worker.carried import carry_contexts
from service.worker.event_loop import EventLoop
from service.worker.forks import silence_children
from service.worker.left_calls import count_calls
from service.worker.leftovers import LOOK_AGAIN, Leftovers
from service.worker.link import INTERRUPT, Link, LinkClosed, Message, Numbers
from service.worker.prediction import (
    Interrupted,
    Refused,
    checked_input,
    failure,
    predict,
    predict_batch,
    set_up,
    within,
)
from service.worker.reporter import BatchReporter, JobReporter, Reporting
from service.worker.stop_page import Stops

Parcel = tuple[int, dict[str, Any], str]
"""A job: its number, its input, and what its model may know of it."""


class Horse:
    """Answers the supervisor's units, one after another."""

    def __init__(
        self,
        link: Link,
        tokens: Numbers,
        interruptions: Numbers,
        async_link: Link,
        stops: Stops,
        jobs_dir: Path,
        max_output_bytes: int,
        max_log_lines: int,
        with_webhooks: bool,
        passed_over: dict[str, str],
        descriptors: list[int],
    ) -> None:
        self._link = link
        self._tokens = tokens
        self._interruptions = interruptions
        self._stops = stops
        self._max_output_bytes = max_output_bytes
        self._max_log_lines = max_log_lines
        self._unit = 0
        self._attempts: dict[int, Attempt] = {}  # those of the unit's jobs
        self._interruptible = False
        self._sending = False
        self._unsent: deque[Message] = deque()
        self._interrupt_after_sending = False
        self._instances: dict[str, Any] = {}
        self._reporting = Reporting(descriptors)
        with self._reporting.of(None):
            self._found, self._broken = find_models(jobs_dir, with_webhooks, passed_over, self._import_begins)
        loop = EventLoop(
            async_link, stops, self._found, self._instances, self._reporting, max_output_bytes, max_log_lines
        )
        self._leftovers = Leftovers(jobs_dir, lambda: loop.busy, link.send, self._reporting.share_descriptors)
        loop.on_idle, loop.on_left = self._leftovers.loop_is_idle, self._leftovers.tasks.add
        if any(found.model.runs_on_event_loop for found in self._found.values()):
            threading.Thread(target=loop.run, name="event loop", daemon=True).start()

    def work(self) -> None:
        """Introduce the models, then answer until the supervisor is gone."""
        signal.signal(INTERRUPT, self._interrupt)
        self._leftovers.remember()
        self._link.send(
            {
                "models": [
                    {**asdict(found.description), "has_setup": found.model.has_setup} for found in self._found.values()
                ],
                "broken": [asdict(broken) for broken in self._broken],
            }
        )
        while True:
            unit = self._next()
            if "setup" in unit:
                with self._reporting.of(None):
                    answer = self._set_up(unit["setup"])
                self._link.send(answer)
            elif "unload" in unit:
                self._link.send(self._unload(unit["unload"]))
            else:
                found = self._found[unit["model"]]
                self._leftovers.unit_begins()
                copy_context().run(self._run, found, unit["jobs"])
                self._leftovers.unit_is_over(found.model.options.detached)

    def _import_begins(self, file: str) -> None:
        """Said before each: whoever finds this process dead knows which file ended it."""
        self._link.send({"imports": file})

    def _next(self) -> Message:
        while self._leftovers and not self._tokens.wait(LOOK_AGAIN):
            self._leftovers.unit_is_over()
        self._unit = self._tokens.get()
        while (message := self._link.receive())["unit"] != self._unit:
            pass  # the supervisor has taken this one back
        return message

    def _set_up(self, name: str) -> Message:
        started = time.monotonic()
        try:
            instance = set_up(self._found[name].model)
        except BaseException as error:  # noqa: B902 -- whatever it raises is the answer; the horse lives on
            return {"failed": name, **failure(error)}
        self._instances[name] = instance
        self._leftovers.remember()
        gc.freeze()  # what is loaded stays: the collector need not look at it between jobs
        return {"ready": name, "seconds": time.monotonic() - started}

    def _unload(self, name: str) -> Message:
        self._instances.pop(name, None)
        gc.unfreeze()
        gc.collect()
        gc.freeze()
        return {"unloaded": name}

    def _run(self, found: Found, jobs: list[Parcel]) -> None:
        """Run a unit and answer for each of its jobs, in their order."""
        model, version, asked, unit = found.model, found.description.version, self._stops.asked, self._unit
        self._attempts = {number: Attempt(facts, model.name, version, asked, unit) for number, _, facts in jobs}
        reporters = {
            number: JobReporter(number, self._send, self._max_log_lines, model.mask(value)) for number, value, _ in jobs
        }
        try:
            self._interruptible = True
            try:
                if model.batches:
                    self._run_batch(model, jobs, reporters)
                else:
                    ((number, value, _),) = jobs
                    self._run_one(model, number, value, reporters)
            finally:
                self._interruptible = False
        except Interrupted as error:
            where = traceback_of(error)
            for reporter in reporters.values():
                reporter.close()
            # All at once: the supervisor gives a batch back in its order.
            self._link.send(*({"job": number, "interrupted": True, "traceback": where} for number in reporters))

    def _run_one(self, model: Model, number: int, value: dict[str, Any], reporters: dict[int, JobReporter]) -> None:
        reporter = reporters[number]
        instance = self._instances.get(model.name)
        try:
            with self._reporting.of(reporter), self._attempts[number]:
                output = predict(model, instance, value, reporter.output, self._max_output_bytes)
        except BaseException as error:  # noqa: B902 -- sys.exit in a model fails its job, not the horse
            self._over(reporters, number, error)
        else:
            self._over(reporters, number, output)

    def _run_batch(self, model: Model, jobs: list[Parcel], reporters: dict[int, JobReporter]) -> None:
        inputs: dict[int, BaseModel] = {}
        for number, value, _ in jobs:
            try:
                inputs[number] = checked_input(model, value)
            except Refused as error:
                self._over(reporters, number, error)
        if not inputs:
            return
        try:
            outputs = self._predict(model, inputs, reporters)
        except BaseException as error:  # noqa: B902 -- as above
            if len(inputs) > 1 and not _asked_to_leave(error):
                self._run_alone(model, inputs, reporters)
                return
            outputs = {number: error for number in inputs}
        for number, output in outputs.items():
            self._over(reporters, number, output)

    def _run_alone(self, model: Model, inputs: dict[int, BaseModel], reporters: dict[int, JobReporter]) -> None:
        """After a batch that raised: each of its jobs by itself, so that only the guilty one fails."""
        for number, checked in inputs.items():
            self._send({"job": number, "begun": True})
            output: str | BaseException
            try:
                output = self._predict(model, {number: checked}, reporters)[number]
            except BaseException as error:  # noqa: B902 -- as above
                output = error
            self._over(reporters, number, output)

    def _predict(
        self, model: Model, inputs: dict[int, BaseModel], reporters: dict[int, JobReporter]
    ) -> dict[int, str | BaseException]:
        told = BatchReporter([reporters[number] for number in inputs])
        with self._reporting.of(told), together([self._attempts[number] for number in inputs]):
            outputs = predict_batch(
                model, self._instances.get(model.name), list(inputs.values()), self._max_output_bytes
            )
        return dict(zip(inputs, outputs, strict=True))

    def _over(self, reporters: dict[int, JobReporter], number: int, output: str | BaseException) -> None:
        for leaving in [] if isinstance(output, str) else _asked_to_leave(output):
            raise leaving
        answer: Message = {"finished": output} if isinstance(output, str) else failure(output)
        reporters[number].close()
        self._send({"job": number, **answer})
        del reporters[number]  # last: an interruption before would leave the job without an answer

    def _interrupt(self, signum: int, frame: FrameType | None) -> None:
        # One that is meant for a unit that is over already is answered by its outcome.
        asked = False
        while (number := self._interruptions.take()) is not None:
            asked = asked or number == self._unit
        if not asked or not self._interruptible:
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
        self._unsent.append(message)
        if self._sending:  # a model's handler of a signal speaks in the middle of another message: after that
            return
        self._sending = True
        try:
            while self._unsent:
                self._link.send(self._unsent.popleft())
        finally:
            self._sending = False
        if self._interrupt_after_sending:
            self._interrupt_after_sending = False
            if self._interruptible:
                self._interruptible = False
                raise Interrupted


def _asked_to_leave(error: BaseException) -> list[BaseException]:
    """What asked a job to leave: a task group that was asked raises it within a group."""
    return [each for each in within(error) if isinstance(each, (Interrupted, LinkClosed))]


def _leave_ending_to_the_supervisor() -> None:
    """Signals that are sent to all processes at once must not take the job from it that it lets end."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    passed_over = (signal.SIGTERM, signal.SIGHUP)
    for signum in passed_over:
        signal.signal(signum, lambda *_: None)

    def as_always() -> None:
        for signum in passed_over:
            signal.signal(signum, signal.SIG_DFL)
        allow()

    # A model's own processes end by them as always, also by one that comes before a fork has returned.
    allow = partial(signal.pthread_sigmask, signal.SIG_UNBLOCK, passed_over)
    hold = partial(signal.pthread_sigmask, signal.SIG_BLOCK, passed_over)
    os.register_at_fork(before=hold, after_in_parent=allow, after_in_child=as_always)


def main() -> None:
    """`python -m service.worker.horse FDS OPTIONS`, started by the supervisor."""
    die_with_parent()
    adopt_orphans()
    _leave_ending_to_the_supervisor()
    signal.signal(INTERRUPT, signal.SIG_IGN)
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    given = main_lane, tokens, interruptions, async_lane, stops = [int(fd) for fd in sys.argv[1].split(",")]
    options = json.loads(sys.argv[2])
    sys.path.insert(0, str(Path.cwd()))
    for fd in (*given, *options["descriptors"]):
        os.set_inheritable(fd, False)  # they are nobody's but ours: not of what a model starts
    links = [Link(socket.socket(fileno=fd)) for fd in (main_lane, async_lane)]
    pipes = Numbers(tokens), Numbers(interruptions)
    silence_children(*(link.mute for link in links), *(pipe.close for pipe in pipes))
    carry_contexts()
    count_calls()
    faulthandler.enable(2, all_threads=False)  # where a model crashed is among the last words of this process
    try:
        delivery.configure(*links[0].receive()["webhooks"])  # before any model file is imported
        Horse(
            links[0],
            *pipes,
            links[1],
            Stops(stops),
            Path(options.pop("jobs_dir")),
            **options,
        ).work()
    except LinkClosed:
        os._exit(0)  # at once: a model's threads and exit handlers must not keep the memory


if __name__ == "__main__":
    main()
