"""The work-horse of a warm worker: it lives in the forked child and runs one job after another.

Told to work, it takes jobs itself until there is none, and only then speaks to its worker again.
Told to perform one job, it runs RQ's own `perform_job`. What it imports for one job is there for the next.
"""

# mypy: allow-untyped-calls
# (most of RQ's methods carry no types)

from __future__ import annotations

import contextlib
import json
import logging
import math
import os
import random
import signal
import sys
import time
from datetime import UTC, datetime
from inspect import unwrap
from multiprocessing.connection import Connection
from operator import attrgetter
from typing import TYPE_CHECKING

from redis.exceptions import ResponseError
from rq.executions import Execution
from rq.job import Job, JobStatus, Retry
from rq.logutils import blue, green
from rq.queue import Queue
from rq.timeouts import JobTimeoutException
from rq.utils import now

from service.store.away import persistently
from service.worker.warm_limits import within_limits
from service.worker.warm_link import Message, Page, Running
from service.worker.warm_turns import Answer, Ended, Turns

if TYPE_CHECKING:
    from service.worker.warm import WarmWorker

# What RQ saves at a job's end (Job.to_dict) and no script knows. A job may set it: `get_current_job().timeout = 5`.
SAVED_AT_THE_END = attrgetter(
    *("created_at", "_data", "group_id", "number_of_retries", "retries_left", "retry_intervals", "worker_name"),
    *("enqueue_at_front_on_retry", "origin", "description", "enqueued_at", "timeout", "result_ttl", "failure_ttl"),
    *("ttl", "repeats_left", "repeat_intervals", "rate_limit_key", "rate_limit_concurrency", "webhooks"),
    *("_success_callback_name", "_failure_callback_name", "_stopped_callback_name", "enqueue_at_front"),
    *("_success_callback_timeout", "_failure_callback_timeout", "_stopped_callback_timeout"),
    *("_dependency_ids", "allow_dependency_failures"),
)
DATES = ("created_at", "enqueued_at", "started_at", "ended_at", "last_heartbeat")


handler_of = unwrap(signal.getsignal)  # itself makes an enum of each answer, which takes ten times as long


class Unsure(Exception):
    """Redis does not answer, and whether it has given a job to this horse is not known."""


class WorkHorse:
    """Runs jobs for the worker it was forked from; `worker` is the child's own copy."""

    def __init__(self, worker: WarmWorker, pipe: Connection, page: Page) -> None:
        self._worker = worker
        self._pipe = pipe
        self._page = page
        self._pid = os.getpid()
        self._turns: Turns | None = None

    def live(self) -> None:
        """Do what the worker says until it is gone."""
        random.seed()
        self._worker.setup_work_horse_signals()
        self._found = Surroundings()
        os.environ["RQ_WORKER_ID"] = self._worker.name
        while True:
            try:
                message: Message = json.loads(self._pipe.recv_bytes())
            except (EOFError, OSError):
                return
            answer = self._perform(message) if "job" in message else self._work(message)
            self._pipe.send_bytes(json.dumps(answer).encode())

    def _work(self, message: Message) -> Message:
        if self._turns is None:
            self._turns = self._worker.turns(message["horse"])
        begun, ended = 0, None
        while True:
            take = "start" if begun < message["most"] and not self._page.paused else ""
            try:
                answer = self._turn(self._turns, take, ended)
            except Unsure:
                return {"word": "unsure"}
            except ResponseError as error:
                return {"word": "error", "error": str(error)}
            if ended is not None:
                self._close(ended, answer)
                ended = None
            if answer.word not in ("job", "dependents", "again"):
                return {"word": answer.word}
            if answer.word == "job":
                begun += 1
                ended = self._begin(answer)

    def _turn(self, turns: Turns, take: str, ended: Ended | None) -> Answer:
        """Raises ResponseError if no job can be taken: a key has another type than RQ's."""

        def give_up(error: Exception) -> None:
            if ended is None and self._page.paused:
                raise Unsure from error

        try:
            return persistently(turns.make(self._worker._ordered_queues, take, ended).send, give_up)
        except ResponseError as error:
            if ended is None:
                raise
            # Tell a key of this job from one of a queue; if it is the job's, its horse dies of it.
            self._worker.log.error("Worker %s: job %s: %s", self._worker.name, ended.job.id, error)
            try:
                return persistently(turns.make([], "", ended).send)._replace(word="again")
            except ResponseError as its_own:
                raise RuntimeError(str(its_own)) from its_own

    def _close(self, ended: Ended, answer: Answer) -> None:
        if answer.word == "dependents":
            self._close_with_dependents(ended)
        elif answer.lost or answer.word == "fenced":
            self._worker.log.warning(
                "Worker %s: job %s was deleted or given to another worker; its result is dropped",
                self._worker.name,
                ended.job.id,
            )
        else:
            self._log_success(ended)
        self._worker.executions.pop(ended.execution.id, None)
        self._page.count()

    def _close_with_dependents(self, ended: Ended) -> None:
        job, queue = ended.job, self._queue_of(ended.job)
        job._status = JobStatus.FINISHED
        try:
            self._worker.handle_job_success(job, queue, job.started_job_registry, ended.execution)
        except Exception:  # as RQ does
            self._worker._finalize_failure(job, queue, ended.execution, sys.exc_info())

    def _queue_of(self, job: Job) -> Queue:
        for queue in self._worker.queues:
            if queue.name == job.origin:
                return queue
        return self._worker.queue_named(job.origin)

    def _begin(self, answer: Answer) -> Ended | None:
        """Run the job that was taken. Returns it if its end is still to be written."""
        worker = self._worker
        queue = worker._ordered_queues[answer.queue]
        worker.reorder_queues(reference_queue=queue)
        assert answer.started is not None
        execution = Execution(answer.execution_id, answer.job_id, worker.connection, worker.name)
        execution.created_at = execution.last_heartbeat = answer.started
        try:
            job = self._read(answer)
        except Exception:
            worker.bury(answer.job_id, queue, execution)
            self._page.count()
            return None
        job.redis_server_version = worker.redis_server_version
        execution._job = job
        worker.log_taken(job, queue)
        ended = self._run(job, queue, execution)
        if ended is None:
            self._page.count()
        return ended

    def _read(self, answer: Answer) -> Job:
        """Job.fetch without its round trip, and without what it spends on parsing four times by strptime."""
        worker, fields = self._worker, answer.fields
        job = worker.job_class(answer.job_id, connection=worker.connection)
        job.serializer = worker.serializer  # looking at it costs RQ as much as restoring the whole job
        known = {}
        for name in DATES if worker.job_class.restore is Job.restore else ():
            with contextlib.suppress(KeyError, ValueError):  # restore() says what is wrong with it
                known[name] = datetime.fromisoformat(fields[name.encode()].decode())
                del fields[name.encode()]
        job.restore(fields)
        vars(job).update(known)
        within_limits(job)
        return job

    def _perform(self, message: Message) -> Message:
        """Run one job that the worker has taken and prepared, with RQ's own code."""
        worker = self._worker
        fields = {name.encode(): value.encode("latin-1") for name, value in message["fields"].items()}
        job = worker.job_class(message["job"], connection=worker.connection, serializer=worker.serializer)
        job.restore(fields)
        within_limits(job)
        job.redis_server_version = worker.redis_server_version
        execution = Execution(message["execution"], job.id, worker.connection, worker.name)
        execution.created_at = execution.last_heartbeat = datetime.fromtimestamp(message["created_at"], UTC)
        execution._job = job
        self._run(job, worker.queue_named(message["queue"]), execution, plain=False)
        return {"word": "done"}

    def _run(self, job: Job, queue: Queue, execution: Execution, plain: bool | None = None) -> Ended | None:
        worker = self._worker
        worker.executions = {execution.id: execution}
        os.environ["RQ_JOB_ID"] = job.id
        timeout = job.timeout or worker.queue_class.DEFAULT_TIMEOUT
        deadline = time.monotonic() + timeout if timeout > 0 else math.inf
        self._page.begin(Running(execution.id, job.id, job.origin, timeout, deadline))
        try:
            if self._is_plain(job) if plain is None else plain:
                return self._run_plain(job, queue, execution, timeout)
            worker.perform_job(job, queue, execution)
        finally:
            if os.getpid() != self._pid:  # the job has forked, and its child has come back here
                os._exit(0)
            self._page.end()
            self._tidy()
        return None

    def _is_plain(self, job: Job) -> bool:
        """Whether ending the job takes no more than what warm_turn.lua does. All else is left to RQ."""
        if self._worker.uses_own_steps or job._success_callback_name or job.webhooks:
            return False
        if job.repeats_left or job.rate_limit_key:
            return False
        result_ttl = job.get_result_ttl(self._worker.default_result_ttl)
        return result_ttl >= -1 and not (result_ttl == 0 and job.group_id)

    def _run_plain(self, job: Job, queue: Queue, execution: Execution, timeout: float) -> Ended | None:
        """RQ's perform_job, but for the two transactions around the job."""
        worker = self._worker
        before = SAVED_AT_THE_END(job)
        try:
            with worker.death_penalty_class(timeout, JobTimeoutException, job_id=job.id):
                value = job.perform()
            if isinstance(value, Retry) or job.webhooks or SAVED_AT_THE_END(job) != before:
                worker._finalize_success(job, queue, execution, value)
                return None
        except BaseException:  # as RQ does: SystemExit fails the job
            if os.getpid() == self._pid:
                worker._finalize_failure(job, queue, execution, sys.exc_info())
            return None
        self._page.end()
        job.ended_at = job.last_heartbeat = now()
        return Ended(job, execution, job.ended_at, job.get_result_ttl(worker.default_result_ttl), value)

    def _log_success(self, ended: Ended) -> None:
        worker, job = self._worker, ended.job
        if not worker.log.isEnabledFor(logging.INFO):
            return
        assert job.started_at is not None
        shown = f"{job.description} job" if worker.log_job_description else f"job {job.id}"
        taken = ended.ended_at - job.started_at
        worker.log.info("Successfully completed %s in %ss on worker %s", shown, taken, worker.name)
        worker.log.info("Worker %s: %s: %s (%s)", worker.name, green(job.origin), blue("Job OK"), job.id)
        if worker.log_result_lifespan:
            kept = f"is kept for {ended.result_ttl} seconds" if ended.result_ttl > 0 else "is dropped at once"
            kept = "will never expire, clean up result key manually" if ended.result_ttl < 0 else kept
            worker.log.info("Worker %s: job %s result %s", worker.name, job.id, kept)

    def _tidy(self) -> None:
        """What a forked horse loses with its process, and the next job must not find."""
        signal.alarm(0)
        self._worker._stopped_job_id = None
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(Exception):  # a job may have closed or replaced them
                stream.flush()
        self._found.put_back()


class Surroundings:
    """What a process has from the system: where it is, its umask, its signals, its output. Each job finds the same.

    Not its environment: that belongs with modules that a job has imported, and they stay.
    """

    def __init__(self) -> None:
        self._folder = os.open(".", getattr(os, "O_PATH", os.O_RDONLY))  # it may be renamed
        self._umask = os.umask(0)
        os.umask(self._umask)
        self._streams = sys.stdout, sys.stderr
        self._handlers = [(each, handler_of(each)) for each in (signal.SIGINT, signal.SIGTERM)]

    def put_back(self) -> None:
        """Undo what a job has changed."""
        os.fchdir(self._folder)
        os.umask(self._umask)
        sys.stdout, sys.stderr = self._streams
        for number, handler in self._handlers:
            if handler is not None and handler_of(number) != handler:
                signal.signal(number, handler)
