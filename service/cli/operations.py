"""What operators do: `pause`, `resume`, `purge`, `requeue`, `drain`; and what they look at: `queues`, `workers`."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable

import redis

from service.cli.actions import tell
from service.cli.table import print_table
from service.settings import Settings
from service.store import keys
from service.store.connection import check, connect
from service.store.models import ModelNotFound, Models
from service.store.operations import FAILED, FAILED_OR_STOPPED, Operations
from service.store.queues import QueueNotFound, Queues
from service.store.workers import WorkerCannotDrain, WorkerNotFound, WorkerNotListening, Workers

Run = Callable[[argparse.Namespace, Settings], int]


class _Refused(Exception):
    """It is not done; the message says why, the second argument is the exit code."""


def _queues(options: argparse.Namespace, settings: Settings) -> int:
    """Print one line a queue."""
    header = ("QUEUE", "MODEL", "QUEUED", "SCHEDULED", "RUNNING", "FAILED", "STATE")
    print_table(
        header,
        [
            (each.name, each.model or "-", each.depth, each.scheduled, each.running, each.failed, _paused(each.paused))
            for each in Queues(_connection(settings)).all()
        ],
    )
    return 0


def _workers(options: argparse.Namespace, settings: Settings) -> int:
    """Print one line a worker."""
    header = ("WORKER", "STATE", "JOBS", "DONE", "FAILED", "HOST", "PID", "BIRTH", "HEARTBEAT", "QUEUES")
    rows = [
        (
            *(each.name, each.state, len(each.jobs), each.successful_job_count, each.failed_job_count),
            *(each.hostname, each.pid or "-", each.birth or "-", each.last_heartbeat or "-", ",".join(each.queues)),
        )
        for each in Workers(_connection(settings)).all()
    ]
    if not rows:
        print("no worker runs", file=sys.stderr)
    print_table(header, rows)
    return 0


def _pause_or_resume(options: argparse.Namespace, settings: Settings) -> int:
    connection = _connection(settings)
    queues = _named_queues(connection, options)
    _ask(options, f"{options.command} {', '.join(queues)}?")
    operations = Operations(connection, settings)
    (operations.pause if options.command == "pause" else operations.resume)(queues)
    tell(connection, options, f"{options.command}d {', '.join(queues)}")
    return 0


def _purge(options: argparse.Namespace, settings: Settings) -> int:
    connection = _connection(settings)
    queues = _named_queues(connection, options)
    waiting = sum(each.depth + each.scheduled for each in Queues(connection).of(queues))
    _ask(options, f"purge {waiting} {_jobs(waiting)} of {options.name}?")
    canceled = Operations(connection, settings).purge(queues)
    tell(connection, options, f"canceled {canceled} {_jobs(canceled)} of {options.name}")
    return 0


def _requeue(options: argparse.Namespace, settings: Settings) -> int:
    connection = _connection(settings)
    queues = _queues_of_model(connection, options.name)
    if queues is None:
        raise _Refused(f"no model is called {options.name}; see `python -m service models`")
    there = sum(each.failed for each in Queues(connection).of(queues))
    # RQ keeps failed and stopped jobs in one registry: without a look at each nobody knows how many of a kind.
    what = f"{there} failed or stopped" if options.stopped else f"up to {there} failed"
    _ask(options, f"requeue {what} {_jobs(there)} of {options.name}?")
    requeued = Operations(connection, settings).requeue(queues, FAILED_OR_STOPPED if options.stopped else FAILED)
    tell(connection, options, f"requeued {requeued} {_jobs(requeued)} of {options.name}")
    return 0


def _drain(options: argparse.Namespace, settings: Settings) -> int:
    connection = _connection(settings)
    workers = Workers(connection)
    try:
        workers.check(options.name)
        _ask(options, f"drain {options.name}?")
        workers.drain(options.name)
    except WorkerNotFound:
        raise _Refused(f"no worker is called {options.name}; see `python -m service workers`") from None
    except WorkerCannotDrain:
        raise _Refused(f"{options.name} is a worker of RQ's own: send it SIGTERM") from None
    except WorkerNotListening:
        raise _Refused(f"{options.name} does not listen now: try again") from None
    tell(connection, options, f"{options.name} drains: it takes nothing new, and ends when its jobs are over")
    return 0


def _named_queues(connection: redis.Redis, options: argparse.Namespace) -> list[str]:
    """The queues that a command is about. Raises _Refused."""
    queues = None if options.queue else _queues_of_model(connection, options.name)
    if queues is not None:
        return queues
    try:
        Queues(connection).check(options.name)
    except QueueNotFound:
        what = "queue" if options.queue else "model and no queue"
        raise _Refused(f"no {what} is called {options.name}; see `python -m service queues`") from None
    return [options.name]


def _queues_of_model(connection: redis.Redis, name: str) -> list[str] | None:
    try:
        Models(connection).described(name)
    except ModelNotFound:
        return None
    return keys.queues_of(name)


def _connection(settings: Settings) -> redis.Redis:
    connection = connect(settings)
    check(connection, settings)
    return connection


def _ask(options: argparse.Namespace, question: str) -> None:
    """Go on only if the operator says so. Raises _Refused."""
    if options.yes:
        return
    if not sys.stdin.isatty():
        raise _Refused(f"{question} There is no terminal to ask on: say --yes", 2)
    print(f"{question} [y/N] ", end="", file=sys.stderr, flush=True)
    if sys.stdin.readline().strip().lower() not in ("y", "yes"):
        raise _Refused("nothing was done")


def _jobs(number: int) -> str:
    return "job" if number == 1 else "jobs"


def _paused(paused: bool) -> str:
    return "paused" if paused else "open"


def _saying_why_not(run: Run) -> Run:
    def refusable(options: argparse.Namespace, settings: Settings) -> int:
        try:
            return run(options, settings)
        except _Refused as refused:
            message, *code = refused.args
            print(f"error: {message}", file=sys.stderr)
            return int(code[0]) if code else 1
        except redis.exceptions.RedisError as error:
            print(f"error: Redis does not answer: {error}", file=sys.stderr)
            return 1

    return refusable


COMMANDS: dict[str, Run] = {
    "queues": _saying_why_not(_queues),
    "workers": _saying_why_not(_workers),
    "pause": _saying_why_not(_pause_or_resume),
    "resume": _saying_why_not(_pause_or_resume),
    "purge": _saying_why_not(_purge),
    "requeue": _saying_why_not(_requeue),
    "drain": _saying_why_not(_drain),
}


def run(options: argparse.Namespace, settings: Settings) -> int:
    """Run the one that was chosen."""
    return COMMANDS[options.command](options, settings)
