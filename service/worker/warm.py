"""WarmWorker: an RQ worker whose work-horse lives on. `rq worker -w service.worker.WarmWorker`.

All overrides of RQ internals stand in this file, each with its reason; read from RQ 3.0.0. The horse's side of
them runs in a forked copy of the worker (warm_horse.py), so a method here may run in either process.
"""

# mypy: allow-untyped-calls
# (most of RQ's methods carry no types)

from __future__ import annotations

import contextlib
import math
import os
import signal
import time
import traceback
from collections.abc import Callable, Iterator
from enum import Enum
from functools import cached_property
from inspect import getattr_static
from pathlib import Path
from types import FunctionType
from typing import Any
from uuid import uuid4

import redis
import rq
from rq import worker_registration
from rq.defaults import DEFAULT_FAILURE_TTL, DEFAULT_LOGGING_DATE_FORMAT, DEFAULT_LOGGING_FORMAT
from rq.exceptions import NoSuchJobError, StopRequested
from rq.executions import Execution, ExecutionRegistry
from rq.job import Job, JobStatus
from rq.logutils import blue, green
from rq.queue import Queue
from rq.registry import FailedJobRegistry, StartedJobRegistry
from rq.results import Result
from rq.utils import as_text, current_timestamp, now, parse_composite_key, utcformat
from rq.worker import Worker
from rq.worker.base import DequeueStrategy, WorkerStatus

from service.process import lives
from service.store.away import is_away, persistently
from service.store.scripts import Scripts
from service.worker.warm_cleanup import MortalScheduler, clean_queue, keep_alive
from service.worker.warm_client import sending_once
from service.worker.warm_horse import WorkHorse
from service.worker.warm_idle import Idle
from service.worker.warm_lease import LeasedExecution, renew
from service.worker.warm_limits import within_limits
from service.worker.warm_link import Horse, Message, Page, Running
from service.worker.warm_turns import Answer, Turns, turn_key

GRACE = 0.8  # seconds that JobTimeoutException has to end a job before the horse is killed
LOOK = 0.2  # seconds between two looks at what the horse does
BEAT = 10  # seconds between two heartbeats of an idle worker
LONGEST_BLOCK = 5  # seconds that a queue class with its own way to dequeue blocks at a time; see connection_timeout
MOST_REFUSED = 20  # tries to end a job while Redis answers; a Redis that does not is waited for
TURNS_KEPT = 24 * 3600
BIRTH = 5000  # milliseconds for which a worker that registers, and dies over it, keeps others from its name

# Methods that the horse calls for a job in RQ's own `perform_job`, and passes by for a plain one.
STEPS = (
    *("perform_job", "prepare_job_execution", "handle_execution_ended", "_finalize_success", "handle_job_success"),
    *("cleanup_execution", "increment_successful_job_count", "increment_total_working_time"),
)
# Methods that the worker calls for each job, unless its horse takes the jobs itself.
HANDING_OVER = (
    *("execute_job", "prepare_execution", "fork_work_horse", "monitor_work_horse", "wait_for_horse"),
    *("dequeue_job_and_maintain_ttl", "get_heartbeat_ttl", "set_state", "main_work_horse"),
)
JOB_STEPS = (
    *("prepare_for_execution", "_handle_success", "save", "to_dict", "cleanup", "heartbeat", "set_status"),
    *("get_result_ttl", "refresh", "delete"),
)
QUEUE_STEPS = ("dequeue_any", "lmove", "lpop", "_fetch_dequeued_job")


KNOWN_CODE = (str(Path(rq.__file__).parent), str(Path(__file__).parent))


def differs(one: Any, from_: type, names: tuple[str, ...]) -> bool:
    """Whether an object or class has its own version of one of these methods."""
    own = {} if isinstance(one, type) else vars(one)
    kind = one if isinstance(one, type) else type(one)
    methods = [(getattr_static(kind, name), getattr_static(from_, name)) for name in names]
    return any(name in own for name in names) or any(
        mine is not theirs or _is_patched(mine) for mine, theirs in methods
    )


def _is_patched(method: Any) -> bool:
    """Whether somebody has put another function in the place of RQ's own, as Sentry and other observers do."""
    function = getattr(method, "__func__", method)
    return type(function) is not FunctionType or not function.__code__.co_filename.startswith(KNOWN_CODE)


class WarmWorker(Worker):
    """An RQ worker with one long-lived, killable work-horse."""

    # RQ waits up to 60 s for a Redis that is away; jobs wait with us.
    max_connection_wait_time = 5.0

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._horse: Horse | None = None
        self._turns: Turns | None = None
        self._generation = ""
        self._page: Page | None = None  # in the horse only
        self._done = 0
        self._held: tuple[str, Queue] | None = None  # the job that was taken and not handed over yet
        self._timed_out: str | None = None
        self._may_be_interrupted = False
        self._next_beat = 0.0

    # ------------------------------------------------------------------ connections

    @property
    def connection_timeout(self) -> int:
        # RQ sets the socket timeout of the caller's pool to 415 s, for its BLMOVE. We never block on it for long.
        return 10

    @cached_property
    def _ours(self) -> redis.Redis:
        return sending_once(self.connection)

    @cached_property
    def _scripts(self) -> Scripts:
        return Scripts(self._ours)

    @contextlib.contextmanager
    def _sending_once(self) -> Iterator[None]:
        connection, self.connection = self.connection, self._ours
        try:
            yield
        finally:
            self.connection = connection

    def queue_named(self, name: str) -> Queue:
        """A queue of this worker's kind."""
        return self.queue_class(
            name,
            connection=self.connection,
            job_class=self.job_class,
            serializer=self.serializer,
            death_penalty_class=self.death_penalty_class,
        )

    def turns(self, horse: str) -> Turns:
        """What takes and ends jobs for the horse of this id."""
        return Turns(self._ours, self, horse)

    # ------------------------------------------------------------------ the loop

    @cached_property
    def uses_own_steps(self) -> bool:
        """Whether a subclass has its own version of what the horse does around a job; then all of it is called."""
        return differs(self, WarmWorker, STEPS) or differs(self.job_class, Job, JOB_STEPS)

    @cached_property
    def _hands_over(self) -> bool:
        """Whether each job goes the way of RQ's methods: the worker takes it and hands it to the horse."""
        return (
            differs(self, WarmWorker, HANDING_OVER) or self._dequeues_itself or differs(self.job_class, Job, ("fetch",))
        )

    @cached_property
    def _dequeues_itself(self) -> bool:
        """Whether a queue class has its own way to take a job out; then it is RQ's loop that calls it."""
        return any(differs(queue, Queue, QUEUE_STEPS) for queue in (self.queue_class, *self.queues))

    def work(
        self,
        burst: bool = False,
        logging_level: str | None = None,
        date_format: str = DEFAULT_LOGGING_DATE_FORMAT,
        log_format: str = DEFAULT_LOGGING_FORMAT,
        max_jobs: int | None = None,
        max_idle_time: int | None = None,
        with_scheduler: bool = False,
        dequeue_strategy: DequeueStrategy = DequeueStrategy.DEFAULT,
    ) -> bool:
        """RQ's work(), whose loop swallows what it did not expect: `rq worker` then ends with exit code 0."""
        self.bootstrap(logging_level, date_format, log_format)
        self._dequeue_strategy = dequeue_strategy
        if with_scheduler:
            self._start_scheduler(burst, logging_level, date_format, log_format)
        self._install_signal_handlers()
        self._done = 0
        try:
            self._work(burst, max_jobs, max_idle_time)
        except StopRequested:
            pass
        finally:
            self.teardown()
        return bool(self._done)

    def _work(self, burst: bool, max_jobs: int | None, max_idle_time: int | None) -> None:
        pause = 1.0
        while not self._stop_requested and (max_jobs is None or self._done < max_jobs):
            try:
                self.check_for_suspension(burst)
                if self.should_run_maintenance_tasks:
                    self.run_maintenance_tasks()
                if self._stop_requested:
                    break
                most = None if max_jobs is None else max_jobs - self._done
                goes_on = (
                    self._hand_over_one(burst, max_idle_time)
                    if self._hands_over
                    else (self._let_horse_work(burst, most, max_idle_time))
                )
                pause = 1.0
            except Exception as error:
                self._give_held_back()
                if not is_away(error):
                    raise
                self.log.error("Worker %s: could not connect to Redis instance: %s", self.name, error)
                with self._interruptible():
                    time.sleep(pause)
                pause = min(pause * self.exponential_backoff_factor, self.max_connection_wait_time)
                continue
            if not goes_on:
                return
        why = "stopping on request" if self._stop_requested else f"finished executing {self._done} jobs, quitting"
        self.log.info("Worker %s: %s", self.name, why)

    def _hand_over_one(self, burst: bool, max_idle_time: int | None) -> bool:
        taken = self.dequeue_job_and_maintain_ttl(None if burst else self.dequeue_timeout, max_idle_time)
        if taken is None:
            self._log_idle_end(burst, max_idle_time)
            return False
        self.execute_job(*taken)
        self._held = None
        self.heartbeat()
        self._done += 1
        return True

    def _let_horse_work(self, burst: bool, most: int | None, max_idle_time: int | None) -> bool:
        idle_since = time.monotonic()
        while not self._stop_requested:
            done, word = self._round(most)
            self._done += done
            if word != "idle" or done == most:
                return True
            if done:
                idle_since = time.monotonic()
                most = None if most is None else most - done
            if burst or not self._wait_for_job(idle_since, max_idle_time):
                self._log_idle_end(burst, max_idle_time)
                return False
            if self.should_run_maintenance_tasks:
                self.run_maintenance_tasks()
        return True

    def _log_idle_end(self, burst: bool, max_idle_time: int | None) -> None:
        if burst:
            self.log.info("Worker %s: done, quitting", self.name)
        elif max_idle_time is not None and not self._stop_requested:
            self.log.info("Worker %s: idle for %d seconds, quitting", self.name, max_idle_time)

    @contextlib.contextmanager
    def _interruptible(self) -> Iterator[None]:
        """Here a signal may raise StopRequested, since the worker has no job in its hands."""
        self._may_be_interrupted = True
        try:
            if self._stop_requested:
                raise StopRequested
            yield
        finally:
            self._may_be_interrupted = False

    @cached_property
    def _idle(self) -> Idle:
        return Idle(self._ours, self.queue_keys())

    def _wait_for_job(self, idle_since: float, max_idle_time: int | None) -> bool:
        """Wait until there may be a job. False once the worker has been idle for too long."""
        self.procline("Listening on " + ",".join(self.queue_names()))
        while True:
            self._beat()
            seconds = float(BEAT)
            if max_idle_time is not None:
                seconds = min(seconds, idle_since + max_idle_time - time.monotonic())
                if seconds <= 0:
                    return False
            with self._interruptible():
                if self._idle.wait(seconds):
                    return True
            if self.should_run_maintenance_tasks or self._stop_requested:
                return True

    def _beat(self) -> None:
        if time.monotonic() < self._next_beat:
            return
        self._next_beat = time.monotonic() + BEAT
        self.heartbeat()
        self._register_again()
        if self._turns is not None:
            self._ours.expire(turn_key(self.name), TURNS_KEPT)
        keep_alive(self.scheduler)

    def _register_again(self) -> None:
        """Redis may have come back empty; RQ's worker is then in nobody's list until it is restarted."""
        if self.birth_date is None:
            return
        with self._ours.pipeline() as pipeline:
            pipeline.hexists(self.key, "birth")
            worker_registration.register(self, pipeline)
            known, *_ = pipeline.execute()
        if not known:
            with self._ours.pipeline() as pipeline:
                pipeline.hset(self.key, mapping={**self.serialize(), "state": self.get_state()})
                self.heartbeat(pipeline=pipeline)
                pipeline.execute()

    # ------------------------------------------------------------------ the horse takes the jobs

    def _living_horse(self) -> Horse:
        if self._horse is None:
            self.get_redis_server_version()  # once, before the fork: each horse would ask again
            self._fence()
            self._horse = Horse(self._main_of_horse)
            self.procline(f"Forked {self._horse.pid} at {time.time()}")
        return self._horse

    def _main_of_horse(self, pipe: Any, page: Any) -> None:
        # RQ's main_work_horse runs one job and ends the process.
        self._is_horse = True
        self._horse_pid = 0
        self._page = page
        # The worker's clients are not for this process: a lock of theirs may have been held during the fork.
        for name in ("_ours", "_scripts", "_idle"):
            self.__dict__.pop(name, None)
        try:
            WorkHorse(self, pipe, page).live()
        except BaseException:
            self.log.exception("Worker %s: the work-horse ends", self.name)
            raise

    def _fence(self) -> list[str]:
        """From now on only the next horse may take and end jobs. Returns the executions that are still open."""
        self._generation = uuid4().hex
        self._turns = self.turns(self._generation)
        keys = [turn_key(self.name), self.executions_key]
        members = persistently(lambda: self._scripts.warm_fence(keys=keys, args=[self._generation, TURNS_KEPT]))
        return [as_text(member) for member in members]

    def _round(self, most: int | None) -> tuple[int, str]:
        """Let the horse run jobs until there is none, or it must not go on. Returns how many, and why it ended."""
        horse = self._living_horse()
        horse.page.clear()
        self._state = WorkerStatus.BUSY
        self._horse_pid = horse.pid
        if self._stop_requested:
            horse.page.pause()
        try:
            horse.send({"most": most if most is not None else 1 << 62, "horse": self._generation})
            answer = self._watch(horse)
        except (EOFError, OSError):
            return self._bury_horse(horse), "died"
        finally:
            self._horse_pid = 0
            self._state = WorkerStatus.IDLE
        if answer["word"] in ("unsure", "fenced"):
            self._end_horse()
        if answer["word"] == "error":
            raise RuntimeError(f"the work-horse can take no job: {answer['error']}")
        return horse.page.done, answer["word"]

    def _watch(self, horse: Horse) -> Message:
        """Look after a working horse until it answers. Raises EOFError once it has died."""
        beat = time.monotonic() + self.job_monitoring_interval
        while True:
            answer = horse.receive(LOOK)
            if answer is not None:
                return answer
            running = horse.page.read()
            if running and running.killable and time.monotonic() > running.deadline + GRACE:
                self._kill_late(horse, running)
            if self.should_run_maintenance_tasks or self._stop_requested:
                horse.page.pause()
            if time.monotonic() > beat:
                beat = time.monotonic() + self.job_monitoring_interval
                self._beat_busy(running)

    def _kill_late(self, horse: Horse, running: Running) -> None:
        with self._standing_still(horse):
            if horse.page.read() == running:
                self.log.warning("Worker %s: job %s ran past its timeout, killing it", self.name, running.job_id)
                self._timed_out = running.execution_id
                super().kill_horse()

    @contextlib.contextmanager
    def _standing_still(self, horse: Horse) -> Iterator[None]:
        """Stop the horse's clock: what its page says is so as long as this lasts."""
        with contextlib.suppress(ProcessLookupError):
            os.kill(horse.pid, signal.SIGSTOP)
            horse.has_stopped()
        try:
            yield
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.kill(horse.pid, signal.SIGCONT)

    def _beat_busy(self, running: Running | None) -> None:
        try:
            with self._sending_once():
                if running is None:
                    self.heartbeat()
                    return
                job = self.job_class(running.job_id, connection=self._ours, serializer=self.serializer)
                job.origin, job.timeout = running.origin, int(running.timeout)
                execution = LeasedExecution(running.execution_id, job.id, self._ours, self.name)
                self.maintain_heartbeats(job, execution)
            self._ours.expire(turn_key(self.name), TURNS_KEPT)
            keep_alive(self.scheduler)
        except Exception as error:
            if not is_away(error):
                raise
            self.log.error("Worker %s: no heartbeat, Redis is away: %s", self.name, error)

    def _bury_horse(self, horse: Horse) -> int:
        """A horse has died: end the job it ran, and queue again what it had not begun. Returns how many it has run."""
        pid, status, usage = self._reap(horse)
        begun = horse.page.read()
        for member in self._fence():
            job_id, execution_id = parse_composite_key(member)
            if horse.page.blank or (begun is not None and begun.execution_id != execution_id):
                self._give_back(job_id, execution_id)
                continue
            execution = Execution(execution_id, job_id, self.connection, self.name)
            persistently(lambda: self._end_dead_job(execution, pid, status, usage))  # noqa: B023
        self._turns = None
        persistently(lambda: self.set_state(WorkerStatus.IDLE))  # now, and not once there is another horse
        return horse.page.done if begun is None or horse.page.counted else horse.page.done + 1

    def _reap(self, horse: Horse) -> tuple[Any, Any, Any]:
        self._horse_pid = horse.pid
        exit = self.wait_for_horse()
        self._horse_pid, self._horse = 0, None
        horse.close()
        return exit

    def _end_dead_job(self, execution: Execution, pid: Any, status: Any, usage: Any) -> None:
        with contextlib.suppress(ValueError):  # its hash may have expired
            execution.refresh()
        execution.worker_name = self.name
        try:
            job = self.job_class.fetch(execution.job_id, connection=self.connection, serializer=self.serializer)
        except NoSuchJobError:
            self._forget(execution)
            return
        within_limits(job)
        execution._job = job
        self._after_death(job, self.queue_named(job.origin), execution, pid, status, usage)

    def _after_death(self, job: Job, queue: Queue, execution: Execution, pid: Any, status: Any, usage: Any) -> None:
        """What RQ's monitor_work_horse does once its horse has died, whatever the exit code says."""
        if self._stopped_job_id == job.id:
            self._handle_stopped_job(job, queue, execution)
            return
        job.ended_at = now()
        if self._timed_out == execution.id:
            reason = f"rq.timeouts.JobTimeoutException: Task exceeded maximum timeout value ({job.timeout} seconds)"
        else:
            signalled = f" (signal {os.WTERMSIG(status)})" if status and os.WIFSIGNALED(status) else ""
            reason = f"Work-horse terminated unexpectedly; waitpid returned {status}{signalled}; "
        self._timed_out = None
        self.log.warning("Worker %s: job %s failed (%s)", self.name, job.id, reason)
        try:
            self.handle_work_horse_killed(job, pid, status, usage)
        except Exception:
            self.log.exception("Worker %s: the work_horse_killed_handler raised", self.name)
        self.handle_job_failure(job, queue=queue, exc_string=reason, execution=execution)

    def _end_horse(self) -> None:
        """End the horse, and queue again what it may have begun to take."""
        horse = self._horse
        if horse is None:
            return
        with contextlib.suppress(ProcessLookupError):
            os.kill(horse.pid, signal.SIGKILL)
        self._reap(horse)
        self._turns = None
        try:
            members = self._scripts.warm_fence(
                keys=[turn_key(self.name), self.executions_key], args=[uuid4().hex, TURNS_KEPT]
            )
            for member in members:
                self._give_back(*parse_composite_key(as_text(member)))
        except Exception as error:
            if not is_away(error):
                raise
            self.log.error("Worker %s: Redis is away: %s", self.name, error)

    def _give_back(self, job_id: str, execution_id: str, queue: Queue | None = None) -> None:
        """Queue a job again that was taken and has not begun; at the front, where it was."""
        key = self.job_class.key_for(job_id)
        if queue is None:
            origin = persistently(lambda: self._ours.hget(key, "origin"))
            queue = self.queue_named(as_text(origin)) if origin else self.queues[0]
        execution = Execution(execution_id, job_id, self.connection, self.name)
        keys = [
            *(key, queue.key, queue.intermediate_queue_key, StartedJobRegistry.key_template.format(queue.name)),
            *(execution.key, ExecutionRegistry.key_template.format(job_id), self.executions_key),
        ]
        if persistently(lambda: self._scripts.warm_return(keys=keys, args=[job_id, execution_id])):
            self.log.info("Worker %s: job %s is back at the front of its queue", self.name, job_id)

    def _forget(self, execution: Execution) -> None:
        """Close an execution whose job has been deleted."""
        with self._ours.pipeline() as pipeline:
            self._close(execution, pipeline)
            pipeline.execute()

    def _close(self, execution: Execution, pipeline: Any) -> None:
        pipeline.delete(execution.key)
        pipeline.zrem(ExecutionRegistry.key_template.format(execution.job_id), execution.id)
        pipeline.srem(self.executions_key, execution.composite_key)
        for name in self.queue_names():
            pipeline.zrem(StartedJobRegistry.key_template.format(name), execution.composite_key)

    def bury(self, job_id: str, queue: Queue, execution: Execution | None = None) -> None:
        """Move a job whose hash RQ cannot read to the failed ones; call it where that error is handled."""
        self.log.exception("Worker %s: job %s cannot be read; it is moved to failed", self.name, job_id)
        result = Result(
            job_id,
            Result.Type.FAILED,
            connection=self.connection,
            exc_string=traceback.format_exc(),
            worker_name=self.name,
            serializer=self.serializer,
        )
        key = self.job_class.key_for(job_id)

        def write() -> None:
            # No transaction: what is wrong with one of its keys keeps no other from being written.
            with self._ours.pipeline(transaction=False) as pipeline:
                pipeline.hset(key, mapping={"status": JobStatus.FAILED.value, "ended_at": utcformat(now())})
                pipeline.expire(key, DEFAULT_FAILURE_TTL)
                result.save(ttl=DEFAULT_FAILURE_TTL, pipeline=pipeline)
                failed = FailedJobRegistry.key_template.format(queue.name)
                pipeline.zadd(failed, {job_id: current_timestamp() + DEFAULT_FAILURE_TTL})
                pipeline.lrem(queue.intermediate_queue_key, 1, job_id)
                if execution is not None:
                    self._close(execution, pipeline)
                refused = [answer for answer in pipeline.execute(raise_on_error=False) if isinstance(answer, Exception)]
                for error in filter(is_away, refused):
                    raise error

        persistently(write)

    # ------------------------------------------------------------------ the worker takes the job and hands it over

    def dequeue_job_and_maintain_ttl(
        self, timeout: int | None, max_idle_time: int | None = None
    ) -> tuple[Job, Queue] | None:
        """RQ's way of several queues, BLPOP, loses the job of a worker that dies before it has started it."""
        if not self._dequeues_itself:
            return self._take_one(timeout, max_idle_time)
        wait = None if timeout is None else min(timeout, LONGEST_BLOCK)
        with self._interruptible():
            return super().dequeue_job_and_maintain_ttl(wait, max_idle_time)

    def _take_one(self, timeout: int | None, max_idle_time: int | None) -> tuple[Job, Queue] | None:
        idle_since = time.monotonic()
        while not self._stop_requested:
            self._beat()
            if self.should_run_maintenance_tasks:
                self.run_maintenance_tasks()
            answer = self._take()
            if answer.word == "job":
                taken = self._fetch_taken(answer)
                if taken is not None:
                    return taken
            elif answer.word == "fenced":
                self._turns = None
            elif answer.word == "suspended":
                self.check_for_suspension(burst=timeout is None)
            elif answer.word == "idle" and (timeout is None or not self._wait_for_job(idle_since, max_idle_time)):
                return None
        return None

    def _take(self) -> Answer:
        if self._turns is None:
            self._fence()
        assert self._turns is not None
        return persistently(self._turns.make(self._ordered_queues, "hold").send, self._give_up)

    def _give_up(self, error: Exception) -> None:
        # What may have been taken is in the intermediate list, where maintenance finds it.
        if self._stop_requested:
            raise StopRequested from error

    def _fetch_taken(self, answer: Answer) -> tuple[Job, Queue] | None:
        queue = self._ordered_queues[answer.queue]
        self._held = (answer.job_id, queue)
        self.reorder_queues(reference_queue=queue)
        try:
            job = self.job_class.fetch(answer.job_id, connection=self.connection, serializer=self.serializer)
        except NoSuchJobError:
            self._held = None
            return None
        except Exception as error:
            if is_away(error):
                raise
            self._held = None
            self.bury(answer.job_id, queue)
            return None
        job.redis_server_version = self.get_redis_server_version()
        self.log_taken(job, queue)
        return job, queue

    def log_taken(self, job: Job, queue: Queue) -> None:
        """What RQ logs of a job that it dequeued."""
        if self.log_job_description:
            self.log.info("Worker %s: %s: %s (%s)", self.name, green(queue.name), blue(job.description), job.id)
        else:
            self.log.info("Worker %s: %s: %s", self.name, green(queue.name), job.id)

    def _give_held_back(self) -> None:
        """An error came between taking a job and handing it over: nothing of it has run."""
        if self._held is None:
            return
        (job_id, queue), self._held = self._held, None
        opened = [execution.id for execution in self.executions.values() if execution.job_id == job_id]
        self.executions.clear()
        for execution_id in opened or [""]:
            self._give_back(job_id, execution_id, queue)

    def fork_work_horse(self, job: Job, queue: Queue) -> None:
        """RQ forks a horse for each job. Ours is forked once and is handed the job."""
        horse = self._living_horse()
        horse.page.clear()
        execution = self.execution
        assert execution is not None
        fields = job.to_dict(include_result=False)  # what a subclass has changed and not saved goes along, as in a fork
        message = {
            "job": job.id,
            "queue": queue.name,
            "execution": execution.id,
            "created_at": execution.created_at.timestamp(),
            "fields": {name: _as_stored(value) for name, value in fields.items()},
        }
        self._horse_pid = horse.pid
        self._held = None
        try:
            horse.send(message)
        except OSError:
            self.log.warning("Worker %s: the work-horse had died", self.name)

    def monitor_work_horse(self, job: Job, queue: Queue, execution: Execution) -> None:
        """RQ waits for its horse to exit. Ours answers, or has died; it is killed at the timeout, not 60 s later."""
        horse = self._horse
        if horse is None:  # a subclass forks its own
            super().monitor_work_horse(job, queue, execution)
            return
        job.started_at = now()
        try:
            self._watch(horse)
        except (EOFError, OSError):
            exit = self._reap(horse)
            persistently(lambda: self._end_handed_over(job, queue, execution, *exit))
        self._horse_pid = 0
        self.executions.pop(execution.id, None)

    def _end_handed_over(self, job: Job, queue: Queue, execution: Execution, pid: Any, status: Any, usage: Any) -> None:
        try:
            job.refresh()  # RQ saves its own copy for a retry, and rolls back what the horse has written to meta
        except NoSuchJobError:
            self._forget(execution)
            return
        self._ours.lrem(queue.intermediate_queue_key, 1, job.id)
        self._after_death(job, queue, execution, pid, status, usage)

    # ------------------------------------------------------------------ RQ's own steps around a job

    def prepare_execution(self, job: Job) -> Execution:
        """RQ writes the lease by this host's clock."""
        execution = super().prepare_execution(job)
        renew(execution, job.started_job_registry, int(self.get_heartbeat_ttl(job)), self._ours)
        return execution

    def prepare_job_execution(self, job: Job, remove_from_intermediate_queue: bool = False) -> None:
        """RQ leaves the intermediate list only with one queue, and fails the job when Redis is away here."""
        persistently(lambda: super(WarmWorker, self).prepare_job_execution(job, True))
        self._has_time(job.timeout or self.queue_class.DEFAULT_TIMEOUT)

    def handle_execution_ended(self, job: Job, queue: Queue, heartbeat_ttl: int) -> None:
        """RQ writes a heartbeat here; with Redis away that fails a job that has finished. Its end carries it too."""
        job.ended_at = job.last_heartbeat = now()
        self._has_time(heartbeat_ttl + 10 * len(job.webhooks))

    def _has_time(self, seconds: float) -> None:
        """From now on the worker waits so long before it kills this horse; less than 0: for ever."""
        running = self._page.read() if self._page is not None else None
        if running is not None and self._page is not None:
            deadline = time.monotonic() + seconds if seconds >= 0 else math.inf
            self._page.begin(running._replace(deadline=deadline))

    def handle_job_success(
        self, job: Job, queue: Queue, started_job_registry: StartedJobRegistry, execution: Execution
    ) -> None:
        """RQ gives up when Redis is away, and redis-py may send the transaction twice: see _once."""
        end = super().handle_job_success
        self._once(job, queue, execution, lambda: end(job, queue, started_job_registry, execution))

    def handle_job_retry(
        self, job: Job, queue: Queue, retry: Any, started_job_registry: StartedJobRegistry, execution: Execution
    ) -> None:
        """As handle_job_success."""
        end = super().handle_job_retry
        self._once(job, queue, execution, lambda: end(job, queue, retry, started_job_registry, execution))

    def handle_job_failure(
        self,
        job: Job,
        queue: Queue,
        started_job_registry: StartedJobRegistry | None = None,
        exc_string: str = "",
        execution: Execution | None = None,
    ) -> None:
        """As handle_job_success."""
        end = super().handle_job_failure
        self._once(job, queue, execution, lambda: end(job, queue, started_job_registry, exc_string, execution))

    def _once(self, job: Job, queue: Queue, execution: Execution | None, end: Callable[[], None]) -> None:
        """Run one of RQ's closing transactions until Redis has it; each removes the execution, so once is enough."""
        if execution is None:
            end()
            return
        self._has_time(-1)
        before, stopped, sent, refused = dict(vars(job)), self._stopped_job_id, False, 0
        while persistently(lambda: self._is_open(job, execution)):
            vars(job).clear()
            vars(job).update(before)
            self._stopped_job_id = stopped
            try:
                with self._sending_once(), _written_in_transactions_only(job):
                    end()
                if not persistently(lambda: self._is_open(job, execution)):
                    return
                refused += 1
            except Exception as error:
                if not is_away(error):
                    raise
            if refused == MOST_REFUSED:  # RQ has logged why; the job will be found abandoned
                return
            # Here the answer was lost, or RQ has logged that it could not persist a failure.
            sent = True
            time.sleep(0.1)
        if sent:  # it was done, but what RQ does after it was not
            self._enqueue_dependents_safely(queue, job)
            self._release_slot_safely(job)
        else:
            self._drop_end(job, execution)
        self.executions.pop(execution.id, None)

    def _drop_end(self, job: Job, execution: Execution) -> None:
        self.log.warning("Worker %s: job %s is not this worker's any more; its end is dropped", self.name, job.id)
        persistently(lambda: self._forget(execution))
        if not persistently(lambda: self._ours.exists(job.key)):  # deleted: nobody else holds its slot
            job._status = JobStatus.FINISHED
            self._release_slot_safely(job)

    def _is_open(self, job: Job, execution: Execution) -> bool:
        """Whether this execution of the job is still to be ended, and by us."""
        with self._ours.pipeline(transaction=False) as pipeline:
            pipeline.hget(job.key, "status")
            pipeline.zscore(StartedJobRegistry.key_template.format(job.origin), execution.composite_key)
            pipeline.zscore(ExecutionRegistry.key_template.format(job.id), execution.id)
            status, lease, known = pipeline.execute()
        # Job.cancel of a running job empties wip; RQ's horse ends it all the same, and so do we.
        return status is not None and (lease is not None or (status == b"canceled" and known is not None))

    # ------------------------------------------------------------------ commands and signals

    def _running(self) -> Running | None:
        horse = self._horse
        running = horse.page.read() if horse is not None and self._horse_pid else None
        return running if running is not None and running.killable else None

    def get_current_job_id(self) -> str | None:
        """RQ asks for its one execution; the horse knows better which job runs now."""
        running = self._running()
        return running.job_id if running is not None else super().get_current_job_id()

    def get_current_executions(self, refresh: bool = False) -> list[Execution]:
        """RQ keeps the first answer for good."""
        return super().get_current_executions(refresh or self._horse is not None)

    def request_stop_execution(self, execution_id: str) -> None:
        """As get_current_job_id."""
        running = self._running()
        if running is None or running.execution_id != execution_id:
            super().request_stop_execution(execution_id)
            return
        self._stopped_job_id = running.job_id
        self.kill_horse()

    def kill_horse(self, sig: signal.Signals = signal.SIGKILL) -> None:
        """RQ kills the worker's own group if there is no horse, and whichever job has come after the one to stop."""
        horse, wanted = self._horse, self._stopped_job_id
        if not self._horse_pid:
            self.log.debug("Worker %s: no horse to kill", self.name)
            return
        if horse is None:
            super().kill_horse(sig)
            return
        with self._standing_still(horse):
            handed_over = any(execution.job_id == wanted for execution in self.executions.values())
            running = self._running()
            if wanted is None or handed_over or (running is not None and running.job_id == wanted[:2000]):
                super().kill_horse(sig)
                return
        self._stopped_job_id = None
        self.log.warning("Worker %s: job %s has ended, it is not stopped", self.name, wanted)

    def handle_payload(self, message: Any) -> None:
        """RQ's listening thread ends at the first message that it cannot handle."""
        try:
            super().handle_payload(message)
        except Exception:
            self.log.exception("Worker %s: a command was not understood: %s", self.name, message)

    def _pubsub_exception_handler(self, exc: Exception, pubsub: Any, pubsub_thread: Any) -> None:
        """RQ goes on listening after a lost connection only, and not after the other ways of Redis to say "not now"."""
        if not is_away(exc):
            super()._pubsub_exception_handler(exc, pubsub, pubsub_thread)
        self.log.error("Worker %s: listening for commands failed, trying again: %s", self.name, exc)
        time.sleep(1.0)

    def _shutdown(self) -> None:
        """RQ raises StopRequested wherever the signal arrives, also where a job was just taken."""
        self._stop_requested = True
        if self._horse is not None:
            self._horse.page.pause()
        if self.get_state() == WorkerStatus.BUSY:
            with contextlib.suppress(redis.exceptions.RedisError), self._sending_once():
                self.set_shutdown_requested_date()
        if self.scheduler:
            self.stop_scheduler()
        if self._may_be_interrupted:
            raise StopRequested

    # ------------------------------------------------------------------ registration and maintenance

    def register_birth(self) -> None:
        """RQ looks whether the name is free and then takes it: two that start at once both get it."""
        key = f"{turn_key(self.name)}:birth"
        if not self.connection.set(key, self.hostname or "", nx=True, px=BIRTH):
            raise ValueError(f"There exists an active worker named {self.name!r} already")
        try:
            self._clear_name()
            super().register_birth()
        finally:
            self.connection.delete(key)

    def _clear_name(self) -> None:
        """RQ refuses the name of a worker that was killed until its hash expires, up to 480 s later."""
        pid, host, death = (
            value and as_text(value) for value in self.connection.hmget(self.key, "pid", "hostname", "death")
        )
        if pid and not death and host == self.hostname and not (lives(int(pid)) or self._listens()):
            self.log.info("Worker %s: a worker of this name was killed; it is replaced", self.name)
            self.connection.delete(self.key, self.executions_key)
        elif not pid:
            # Nobody's: the hash expired, while Redis was away for long, and our own heartbeat made half of it anew.
            self.connection.delete(self.key)

    def _listens(self) -> bool:
        # Containers may have one host name and one process id in common.
        try:
            ((_, listeners),) = self.connection.pubsub_numsub(self.pubsub_channel_name)
        except redis.exceptions.ResponseError:  # not permitted
            return False
        return bool(listeners)

    def teardown(self) -> None:
        """RQ's horse has ended by then."""
        if not self.is_horse:
            self._end_horse()
            self._idle.close()
        super().teardown()
        if not self.is_horse:
            self._ours.close()

    def register_death(self) -> None:
        """RQ has no turns to forget."""
        super().register_death()
        self.connection.delete(turn_key(self.name))

    def clean_registries(self) -> None:
        """RQ's clean-up handles an abandoned job twice when two do it, and fails a finished one: see clean_queue."""
        for queue in self.queues:
            if not queue.acquire_maintenance_lock():
                continue
            self.log.info("Worker %s: cleaning registries for queue: %s", self.name, queue.name)
            try:
                clean_queue(queue, self._exc_handlers, self.bury)
            finally:
                with contextlib.suppress(redis.exceptions.RedisError):
                    queue.release_maintenance_lock()
        self.last_cleaned_at = now()  # type: ignore[assignment]  # RQ declares it None

    def _start_scheduler(
        self,
        burst: bool = False,
        logging_level: str | None = "INFO",
        date_format: str = DEFAULT_LOGGING_DATE_FORMAT,
        log_format: str = DEFAULT_LOGGING_FORMAT,
    ) -> None:
        """RQ's scheduler outlives a worker that is killed, and keeps its locks."""
        self.scheduler = MortalScheduler(
            self.queues,
            connection=self.connection,
            logging_level=logging_level if logging_level is not None else self.log.level,
            date_format=date_format,
            log_format=log_format,
            serializer=self.serializer,
        )
        self.scheduler.acquire_locks()
        if not self.scheduler.acquired_locks:
            return
        if not burst:
            self.scheduler.start()
            return
        try:
            self.scheduler.register_birth()
            self.scheduler.enqueue_scheduled_jobs()
        finally:
            self.scheduler.release_locks()
            self.scheduler.register_death()


@contextlib.contextmanager
def _written_in_transactions_only(job: Job) -> Iterator[None]:
    """RQ's Job.retry writes status=scheduled by itself, before the transaction that schedules the job."""
    write = job.set_status

    def set_status(status: JobStatus, pipeline: Any = None) -> None:
        job._status = status
        if pipeline is not None:
            write(status, pipeline)

    job.set_status = set_status  # type: ignore[method-assign]
    try:
        yield
    finally:
        vars(job).pop("set_status", None)


def _as_stored(value: Any) -> str:
    """A field as Redis would give it back, one character a byte."""
    if isinstance(value, bytes):
        return value.decode("latin-1")
    text = value.value if isinstance(value, Enum) else str(value)
    return text.encode().decode("latin-1")
