"""What operators do on the command line: the same as over HTTP, asked for once more before it is done."""

from __future__ import annotations

import os
import pty
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import redis

from service.settings import Settings
from service.store.executions import Execution, Executions, Turn, Wanted
from service.store.jobs import Jobs, Submission
from service.store.models import Models
from service.store.outcomes import Failed, Stopped
from service.store.queues import Queues
from tests.deployment import Deployment, eventually

SETTINGS = Settings(lease=3)
ADD = Submission(model="add", version="1", input={"x": 1}, timeout=30)
FAILURE = Failed("model_error", "no", again=False)
Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(deployed: Deployment) -> Run:
    """Run a command and return its exit code and what it prints; with `answer`, on a terminal."""

    def command(*arguments: str, answer: str | None = None) -> tuple[int, str, str]:
        ours, theirs = pty.openpty()
        try:
            process = subprocess.Popen(
                [sys.executable, "-m", "service", *arguments],
                stdin=subprocess.DEVNULL if answer is None else theirs,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                env=deployed.environment,
                text=True,
            )
            if answer is not None:
                os.write(ours, f"{answer}\n".encode())
            output, errors = process.communicate(timeout=60)
        finally:
            os.close(ours)
            os.close(theirs)
        return process.returncode, output, errors

    return command


@pytest.fixture
def jobs(connection: redis.Redis) -> Jobs:
    """The jobs of a published model, `add`."""
    Models(connection).publish([{"name": "add", "description": "Add.", "input_schema": {}}])
    return Jobs(connection, SETTINGS)


def taken(connection: redis.Redis) -> list[Execution]:
    """What a worker gets that asks for a job of the queue `add`."""
    return Executions(connection, SETTINGS).make(Turn(wanted=[Wanted("add", "default", "main", "add")]), "w1").taken


def end(connection: redis.Redis, jobs: Jobs, outcome: Failed | Stopped) -> str:
    """The id of a job that has ended so."""
    job_id = jobs.submit(ADD).id
    (execution,) = taken(connection)
    Executions(connection, SETTINGS).record(execution, outcome)
    return job_id


def paused(connection: redis.Redis) -> list[str]:
    return [queue.name for queue in Queues(connection).all() if queue.paused]


def test_pause_and_resume_of_a_model_are_of_all_its_queues(connection: redis.Redis, jobs: Jobs, run: Run) -> None:
    assert run("pause", "add", "--yes") == (0, "paused add-high, add, add-low\n", "")
    assert paused(connection) == ["add-high", "add", "add-low"]

    assert run("resume", "add", "--yes") == (0, "resumed add-high, add, add-low\n", "")
    assert paused(connection) == []


def test_a_queue_is_named_as_such_if_a_model_is_called_so_too(connection: redis.Redis, jobs: Jobs, run: Run) -> None:
    assert run("pause", "add", "--queue", "--yes") == (0, "paused add\n", "")
    assert run("pause", "add-low", "--yes") == (0, "paused add-low\n", "")

    assert paused(connection) == ["add", "add-low"]


def test_purge_asks_and_says_how_many_it_canceled(connection: redis.Redis, jobs: Jobs, run: Run) -> None:
    job_ids = [jobs.submit(ADD).id for _ in range(3)]

    code, output, errors = run("purge", "add", answer="n")

    assert (code, output) == (1, "")
    assert errors == "purge 3 jobs of add? [y/N] error: nothing was done\n"
    assert {jobs.read(job_id).status for job_id in job_ids} == {"queued"}

    assert run("purge", "add", answer="y") == (0, "canceled 3 jobs of add\n", "purge 3 jobs of add? [y/N] ")
    assert {jobs.read(job_id).status for job_id in job_ids} == {"canceled"}


def test_without_a_terminal_nothing_is_done_unless_yes_is_said(connection: redis.Redis, jobs: Jobs, run: Run) -> None:
    job_id = jobs.submit(ADD).id

    code, output, errors = run("purge", "add")

    assert (code, output) == (2, "")
    assert errors == "error: purge 1 job of add? There is no terminal to ask on: say --yes\n"
    assert jobs.read(job_id).status == "queued"
    assert run("purge", "add", "--yes") == (0, "canceled 1 job of add\n", "")


def test_requeue_brings_back_what_failed_and_with_an_option_what_was_stopped(
    connection: redis.Redis, jobs: Jobs, run: Run
) -> None:
    failed = [end(connection, jobs, FAILURE) for _ in range(2)]
    stopped = end(connection, jobs, Stopped("killed", "2026-01-01T00:00:00.000Z"))

    code, output, errors = run("requeue", "add", answer="yes")

    assert (code, output) == (0, "requeued 2 jobs of add\n")
    assert errors == "requeue up to 3 failed jobs of add? [y/N] "
    assert [jobs.read(job_id).status for job_id in (*failed, stopped)] == ["queued", "queued", "stopped"]
    assert run("requeue", "add", "--stopped", "--yes") == (0, "requeued 1 job of add\n", "")
    assert jobs.read(stopped).status == "queued"


def test_queues_and_workers_are_tables_and_a_worker_can_be_drained(deployed: Deployment, run: Run) -> None:
    deployed.write("""
        from service import model

        @model
        def add(x: int) -> int:
            return x
    """)
    worker = deployed.worker("--name", "one")
    run("pause", "add-low", "--yes")

    code, output, errors = run("queues")
    assert (code, errors) == (0, "")
    assert [line.split() for line in output.splitlines()] == [
        ["QUEUE", "MODEL", "QUEUED", "SCHEDULED", "RUNNING", "FAILED", "STATE"],
        ["add-high", "add", "0", "0", "0", "0", "open"],
        ["add", "add", "0", "0", "0", "0", "open"],
        ["add-low", "add", "0", "0", "0", "0", "paused"],
    ]

    code, output, errors = run("workers")
    assert (code, errors) == (0, "")
    header, line = (each.split() for each in output.splitlines())
    assert header == ["WORKER", "STATE", "JOBS", "DONE", "FAILED", "HOST", "PID", "BIRTH", "HEARTBEAT", "QUEUES"]
    assert line[:5] == ["one", "idle", "0", "0", "0"]
    assert (line[6], line[9]) == (str(worker.pid), "add-high,add,add-low")

    said = "one drains: it takes nothing new, and ends when its jobs are over\n"

    def drained() -> None:  # one that has just started may not listen yet
        assert run("drain", "one", answer="y") == (0, said, "drain one? [y/N] ")

    eventually(drained)
    assert worker.wait(20) == 0
    code, output, errors = run("workers")
    assert (code, len(output.splitlines()), errors) == (0, 1, "no worker runs\n")


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        (("pause", "none"), "no model and no queue is called none; see `python -m service queues`"),
        (("purge", "none", "--queue"), "no queue is called none; see `python -m service queues`"),
        (("requeue", "add-low"), "no model is called add-low; see `python -m service models`"),
        (("drain", "none"), "no worker is called none; see `python -m service workers`"),
    ],
)
def test_what_is_not_there_is_said_in_a_line(jobs: Jobs, run: Run, arguments: tuple[str, ...], why: str) -> None:
    assert run(*arguments, "--yes") == (1, "", f"error: {why}\n")


def test_rqs_own_command_line_works_on_what_was_paused_and_requeued(
    deployed: Deployment, connection: redis.Redis, jobs: Jobs, run: Run
) -> None:
    job_id = end(connection, jobs, FAILURE)
    run("requeue", "add", "--yes")
    (execution,) = taken(connection)
    Executions(connection, SETTINGS).record(execution, FAILURE)
    run("pause", "add", "--yes")

    def rq(*arguments: str) -> str:
        command = [str(Path(sys.executable).parent / "rq"), arguments[0], "--url", deployed.redis_url, *arguments[1:]]
        return subprocess.run(command, capture_output=True, text=True, timeout=60, check=True).stdout

    assert "queue add 0" in rq("info", "--raw")
    rq("requeue", "--queue", "add", "--serializer", "rq.serializers.JSONSerializer", job_id)
    assert "queue add 1" in rq("info", "--raw")

    assert taken(connection) == []
    run("resume", "add", "--yes")
    (execution,) = taken(connection)
    assert (execution.job.id, execution.number) == (job_id, 3)
