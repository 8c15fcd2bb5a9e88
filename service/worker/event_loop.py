"""The work-horse's event loop: runs the jobs of async models, many at once, in a thread of its own."""

from __future__ import annotations

import asyncio
import contextlib
import os
import threading
from collections import deque
from collections.abc import Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from contextvars import ContextVar
from functools import partial
from operator import itemgetter
from typing import Any

from service.job import Attempt
from service.model import Model
from service.registry import Found
from service.tracebacks import traceback_of
from service.worker.forks import silence_children
from service.worker.link import Link, LinkClosed, Message
from service.worker.prediction import failure, predict_async
from service.worker.reporter import JobReporter, Reporting
from service.worker.stop_page import Stops

_SHARED = (
    *("_default_executor", "_executor_shutdown_called", "_exception_handler", "_task_factory"),
    *("_debug", "slow_callback_duration"),
)
"""Of a loop of asyncio: to ask officially is to do so six times for each job."""
_started: ContextVar[set[asyncio.Task[Any]] | None] = ContextVar("started", default=None)
"""The tasks that the running job has started and that have not ended."""


class EventLoop:
    """Takes jobs from the async lane and runs each as a task."""

    def __init__(
        self,
        link: Link,
        stops: Stops,
        found: dict[str, Found],
        instances: dict[str, Any],
        reporting: Reporting,
        max_output_bytes: int,
        max_log_lines: int,
    ) -> None:
        self._link = link
        self._stops = stops
        self._found = found
        self._instances = instances
        self._reporting = reporting
        self._max_output_bytes = max_output_bytes
        self._max_log_lines = max_log_lines
        self._tasks: dict[int, asyncio.Task[None]] = {}
        self._canceled: set[int] = set()
        self._detached = False
        self._put_back: Callable[[], None] = lambda: None
        self.on_left: Callable[[set[asyncio.Task[Any]]], None] = lambda tasks: None
        """Is called with the tasks that a job has left and that were cancelled."""
        self.on_idle: Callable[[bool], None] = lambda detached: None
        """Is called after the last of its jobs; whether what one of them has started may go on."""

    @property
    def busy(self) -> bool:
        """Whether it runs a job."""
        return bool(self._tasks)

    def run(self) -> None:
        """Until the supervisor is gone."""
        loop = asyncio.new_event_loop()
        asyncio.set_event_loop(loop)
        loop.set_task_factory(_task)  # type: ignore[arg-type]
        self._put_back = _Usual(loop).put_back
        loop.add_reader(self._link.fileno(), self._read)
        silence_children(partial(self._leave_in_child, loop, threading.get_ident()))
        try:
            while True:
                loop.run_forever()  # a job may stop it: the others' go on
        finally:
            os._exit(1)  # sys.exit in a task that a model has started ends the loop: not without a notice

    def _leave_in_child(self, loop: asyncio.AbstractEventLoop, thread: int) -> None:
        # A job that has forked goes on until it awaits something: then the child must end, not run the others' jobs.
        if threading.get_ident() == thread:
            getattr(loop, "_ready", deque()).clear()
            loop.call_soon(os._exit, 1)

    def _read(self) -> None:
        try:
            for message in self._link.messages():
                self._obey(message)
        except LinkClosed:
            os._exit(0)

    def _obey(self, message: Message) -> None:
        if "cancel" in message:
            if (task := self._tasks.get(message["cancel"])) is not None:
                self._canceled.add(message["cancel"])
                task.cancel()
            return
        found = self._found[message["model"]]
        self._detached |= found.model.options.detached
        for number, value, facts in message["jobs"]:
            self._link.send({"job": number, "begun": True})
            now = Attempt(facts, found.model.name, found.description.version, self._asked, number)
            task = asyncio.get_running_loop().create_task(self._run(number, found.model, value, now))
            self._tasks[number] = task
            task.add_done_callback(partial(self._done, number))

    def _asked(self, number: int) -> bool:
        return number in self._canceled or self._stops.ending

    async def _run(self, number: int, model: Model, value: dict[str, Any], now: Attempt) -> None:
        reporter = JobReporter(number, self._link.send, self._max_log_lines, model.mask(value))
        children: set[asyncio.Task[Any]] = set()
        _started.set(children)
        answer: Message
        try:
            with self._reporting.of(reporter), now:
                output = await predict_async(
                    model,
                    self._instances.get(model.name),
                    value,
                    reporter.output,
                    self._max_output_bytes,
                )
            answer = {"finished": output}
        except BaseException as error:  # noqa: B902 -- sys.exit in a model fails its job, not the horse
            asked = isinstance(error, asyncio.CancelledError) and number in self._canceled
            answer = {"interrupted": True, "traceback": traceback_of(error)} if asked else failure(error)
        if children:  # as asyncio.run does with what is left at its end
            for child in list(children):
                child.cancel()
            self.on_left(children)
        with contextlib.suppress(LinkClosed):
            reporter.close()
        self._answer(number, answer)

    def _done(self, number: int, task: asyncio.Task[None]) -> None:
        # One that was cancelled before its first step has not answered.
        self._answer(number, {"interrupted": True})

    def _answer(self, number: int, answer: Message) -> None:
        self._canceled.discard(number)
        if self._tasks.pop(number, None) is not None:
            with contextlib.suppress(LinkClosed):
                self._link.send({"job": number, **answer})
                self._put_back()
                if not self._tasks:
                    self.on_idle(self._detached)
                    self._detached = False


class _Usual:
    """What jobs share of the loop, as it is without one."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._renew()

    def put_back(self) -> None:
        """Called for each job."""
        if self._read(vars(self._loop)) == self._before:
            return
        shut_down = vars(self._loop).get("_executor_shutdown_called")
        vars(self._loop).update(zip(self._names, self._before, strict=True))
        if shut_down:
            self._renew()

    def _renew(self) -> None:
        self._loop.set_default_executor(ThreadPoolExecutor(thread_name_prefix="asyncio"))
        self._names = [name for name in _SHARED if name in vars(self._loop)]
        self._read = itemgetter(*self._names)
        self._before = self._read(vars(self._loop))


def _task(loop: asyncio.AbstractEventLoop, work: Coroutine[Any, Any, Any], **options: Any) -> asyncio.Task[Any]:
    task = asyncio.Task(work, loop=loop, **options)
    if (started := _started.get()) is not None:
        started.add(task)
        task.add_done_callback(started.discard)
    return task
