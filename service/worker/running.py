"""One job in the work-horse: pass on its events, keep its time limit and its stop, say how it ended."""

from __future__ import annotations

import math
import time
from typing import Literal

from service.settings import Settings
from service.store.clock import now
from service.store.executions import Execution, Executions
from service.store.outcomes import Failed, Finished, Outcome, Released, Stopped
from service.worker.control import Control
from service.worker.link import LinkClosed, Message
from service.worker.stable import Stable

MOST_EVENTS_AT_ONCE = 500

Ending = Literal["stop", "timeout", "shutdown"]


class RunningJob:
    """One execution; `outcome` returns when it is over, by itself or by force."""

    def __init__(
        self, execution: Execution, settings: Settings, executions: Executions, stable: Stable, control: Control
    ) -> None:
        self._execution = execution
        self._settings = settings
        self._executions = executions
        self._stable = stable
        self._control = control
        self._deadline = time.monotonic() + execution.job.timeout if execution.job.timeout > 0 else math.inf
        self._ending: Ending | None = None
        self._acknowledged_at = ""
        self._kill_at = math.inf
        self._appended = 0
        self._begun = False

    def outcome(self) -> Outcome:
        """Follow the job to its end. Raises LeaseLost."""
        while True:
            # Once it is asked to leave, only the kill is waited for: the times before it have passed.
            until = self._kill_at if self._ending else min(self._deadline, self._control.ends_at)
            self._control.wait(until - time.monotonic())
            try:
                last = self._listen()
            except LinkClosed:
                died = self._stable.bury()
                if forced := self._forced("killed"):
                    return forced
                # A horse that was dying already when it got the job: no fault of the job.
                return Failed("crashed", f"the job did not survive: {died}") if self._begun else Released()
            if last is not None:
                return self._said(last)
            self._end_if_it_must()
            if time.monotonic() >= self._kill_at:
                self._stable.kill()
                forced = self._forced("killed")
                assert forced is not None
                return forced

    def _listen(self) -> Message | None:
        """Pass on what the horse has said so far; its last word on the job, if it was said. Raises LinkClosed."""
        events: list[tuple[str, str]] = []
        meta = ""
        last = None
        while last is None and len(events) < MOST_EVENTS_AT_ONCE and self._stable.speaks():
            try:
                message = self._stable.receive()
            except LinkClosed:
                if events:
                    break  # write these first; the next call raises again
                raise
            if "begun" in message:
                self._begun = True
            elif "events" in message:
                events += [(kind, data) for kind, data in message["events"]]
                meta = message.get("meta", meta)
            else:
                last = message
        if events:
            self._appended += 1
            self._control.persist(lambda: self._executions.append(self._execution, self._appended, events, meta))
        return last

    def _said(self, last: Message) -> Outcome:
        if "finished" in last:  # it was quicker than the interruption
            return Finished(last["finished"])
        forced = self._forced("cooperative")
        if forced is not None:
            return forced
        if "interrupted" in last:  # by a signal that was not ours
            return Failed("crashed", "the job was interrupted by a signal")
        error = last["error"]
        return Failed(error["type"], error["message"], last["traceback"], last["again"], last["after"])

    def _end_if_it_must(self) -> None:
        """First the gentle way: an exception in predict. What does not heed it is killed soon after."""
        if self._ending is not None:
            return
        self._ending = self._must_end()
        if self._ending is not None:
            self._acknowledged_at = now().rfc3339
            self._kill_at = time.monotonic() + self._settings.stop_grace
            self._stable.interrupt()

    def _must_end(self) -> Ending | None:
        if self._control.stop_asked:
            return "stop"
        if time.monotonic() >= self._deadline:
            return "timeout"
        return "shutdown" if time.monotonic() >= self._control.ends_at else None

    def _forced(self, mode: Literal["cooperative", "killed"]) -> Outcome | None:
        """The outcome of a job that we ended, whatever it says itself."""
        if self._ending == "stop":
            return Stopped(mode, self._acknowledged_at)
        if self._ending == "timeout":
            limit = self._execution.job.timeout
            return Failed("timeout", f"the job ran for longer than its timeout of {limit} s")
        return Released() if self._ending == "shutdown" else None
