"""What a worker has to write to Redis: kept until Redis has answered, and sent as often as that takes."""

from __future__ import annotations

import logging
import time
from collections.abc import Collection, Iterator
from typing import Any

import redis

from service.store.away import REDIS_IS_AWAY, why
from service.store.executions import Append, Executions, LeaseLost, Turn, Wanted, tried_again
from service.store.outcomes import Declined, Failed, Outcome, Released, Stopped
from service.worker.control import Control
from service.worker.held import Held

log = logging.getLogger("service.worker")

_FIRST_PAUSE, _LONGEST_PAUSE = 0.05, 1.0


class Books:
    """The next turn of one worker."""

    def __init__(self, executions: Executions, worker: str, control: Control) -> None:
        self._executions = executions
        self._worker = worker
        self._control = control
        self._unanswered: Turn | None = None
        self._over: list[tuple[Held, Outcome]] = []
        self._pause = _FIRST_PAUSE
        self._wrong = ""  # what Redis last said was wrong with a turn, which is logged once
        self.not_before = 0.0
        """While Redis is away: when to try again, as time.monotonic()."""

    @property
    def pending(self) -> bool:
        """Whether outcomes wait to be written, or an answer that may hold jobs was lost."""
        return bool(self._over) or self._unanswered is not None

    @property
    def unwritten(self) -> list[Held]:
        """Jobs that are over, which Redis does not know yet: their leases go on."""
        return [held for held, _ in self._over]

    def over(self, held: Held, outcome: Outcome) -> None:
        """A job is over."""
        self._over.append((held, outcome))

    def turn(self, held: Collection[Held], wanted: list[Wanted], running: bool) -> Turn | None:
        """Write all that is pending and take what is wanted; None if Redis is away: call it again."""
        if not self._give_back():  # first: what goes back to the front comes before what is taken
            return None
        told = [each for each in (*held, *(over for over, _ in self._over)) if each.told]
        telling = [(each, append) for each in told if (append := each.append()) is not None]
        beginning = [each for each in held if each.begin_untold]
        turn = self._unanswered or Turn()
        turn.wanted = wanted  # of one that was made and not answered, the script knows what it took
        turn.holding, turn.running = bool(held), running
        turn.begun = [each.execution for each in beginning]
        turn.appends = [append for _, append in telling]
        ended = [(over, outcome) for over, outcome in self._over if not _again(over, outcome) and not over.waiting]
        turn.ends = [
            (over.execution, outcome) for over, outcome in ended if not isinstance(outcome, (Released, Declined))
        ]
        self._unanswered = turn
        try:
            self._executions.make(turn, self._worker)
        except REDIS_IS_AWAY as error:
            self._redis_is_away(error)
            return None
        except redis.exceptions.ResponseError as error:  # one part of it is wrong, now and whenever it is sent
            self._do_without_what_is_wrong(telling, ended, error)
            return None
        self._unanswered, self._pause = None, _FIRST_PAUSE
        for each, _ in telling:
            each.appended()
        for each in beginning:
            each.begin_told = True
        written = {over for over, _ in ended}
        self._over = [each for each in self._over if each[0] not in written]
        for over, outcome in ended:
            self._say(over, outcome, _status(outcome), over.execution in turn.lost)
        self._give_back()
        return turn

    def _give_back(self) -> bool:
        """Queue again what is tried again, the last taken first, so that their order is kept; False if Redis is away.

        One that has something to tell waits for the next turn, and so do those of its model that were taken before it.
        """
        for held, outcome in self._to_give_back():
            lost, status = False, ""
            try:
                status = self._executions.record(held.execution, outcome, begun=held.begun_at is not None)
            except LeaseLost:
                lost = True
            except REDIS_IS_AWAY as error:
                self._redis_is_away(error)
                return False
            except redis.exceptions.ResponseError as error:
                self._give_up(held, outcome, error)
                continue
            self._over.remove((held, outcome))
            self._say(held, outcome, status, lost)
        return True

    def _to_give_back(self) -> Iterator[tuple[Held, Outcome]]:
        again = [(held, outcome) for held, outcome in self._over if _again(held, outcome)]
        waiting = set()
        for held, outcome in sorted(again, key=lambda each: -each[0].number):
            if held.told:
                waiting.add(held.model)
            elif held.model not in waiting:
                yield held, outcome

    def _do_without_what_is_wrong(
        self, telling: list[tuple[Held, Append]], ended: list[tuple[Held, Outcome]], error: Exception
    ) -> None:
        """Send each part of a turn alone, and keep none that Redis refuses as wrong: it would again, for ever.

        The turn itself is made again without them: it knows what it has taken.
        """
        if str(error) != self._wrong:
            log.error("Redis refuses a turn of this worker as wrong: %s", error)
            self._wrong = str(error)
        try:
            for held, append in telling:
                if self._is_wrong(Turn(appends=[append])):
                    held.appended()
            for held, outcome in ended:
                if isinstance(outcome, (Released, Declined)) or not self._is_wrong(
                    Turn(ends=[(held.execution, outcome)])
                ):
                    continue
                failed = Failed("internal", f"its outcome could not be written: {error}", again=False)
                if self._is_wrong(Turn(ends=[(held.execution, failed)])):
                    self._give_up(held, outcome, error)
                else:
                    self._over.remove((held, outcome))
                    self._say(held, failed, "failed", lost=False)
        except REDIS_IS_AWAY as away:
            self._redis_is_away(away)
            return
        self._wait()

    def _is_wrong(self, turn: Turn) -> bool:
        try:
            self._executions.make(turn, self._worker)
        except REDIS_IS_AWAY:
            raise
        except redis.exceptions.ResponseError:
            return True
        return False

    def _give_up(self, held: Held, outcome: Outcome, error: Exception) -> None:
        """Write nothing of how a job ended: the recovery loop finds it when its lease has passed."""
        log.error("how the job ended cannot be written: %s", error, extra=about(held))
        self._over.remove((held, outcome))

    def _redis_is_away(self, error: Exception) -> None:
        log.warning("Redis is away, trying again: it %s", why(error))
        self._control.redis_away_at = time.monotonic()
        self._wait()

    def _wait(self) -> None:
        self.not_before = time.monotonic() + self._pause
        self._pause = min(_LONGEST_PAUSE, self._pause * 2)

    @staticmethod
    def _say(held: Held, outcome: Outcome, status: str, lost: bool) -> None:
        if lost:
            log.warning("the job was taken over by another worker, or erased", extra=about(held))
            return
        if isinstance(outcome, Declined):
            if status != "scheduled":
                outcome = outcome.failure
            else:
                version = held.execution.job.version
                log.warning(
                    "job refused, it waits for a worker with its version", extra={**about(held), "version": version}
                )
                return
        level = logging.WARNING if isinstance(outcome, Failed) else logging.INFO
        if log.isEnabledFor(level):
            log.log(level, "job %s", status, extra={**about(held), **_reason(outcome)})


def about(held: Held) -> dict[str, Any]:
    """What a log line says of a job."""
    return {"job_id": held.execution.job.id, "model": held.execution.job.model, "attempt": held.execution.number}


def _again(held: Held, outcome: Outcome) -> bool:
    return isinstance(outcome, (Released, Declined)) or tried_again(held.execution, outcome)


def _status(outcome: Outcome) -> str:
    return "failed" if isinstance(outcome, Failed) else "stopped" if isinstance(outcome, Stopped) else "finished"


def _reason(outcome: Outcome) -> dict[str, Any]:
    if not isinstance(outcome, Failed):
        return {}
    traceback = {"traceback": outcome.traceback} if outcome.traceback else {}
    return {"error_type": outcome.type, "error": outcome.message, **traceback}
