"""`from service import job`: what a model can know of the job that it runs, in each kind of model."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.deployment import Api, Deployment, eventually

MODELS = """
    import asyncio, json, threading, time
    from collections.abc import AsyncIterator, Iterator
    from concurrent.futures import ThreadPoolExecutor
    from contextvars import copy_context
    from typing import Any
    from pydantic import BaseModel
    from service import Retry, job, jobs, model

    def facts(of=job) -> dict[str, Any]:
        names = ("id", "attempt", "retries_left", "metadata", "model", "version", "stopping")
        return {**{name: getattr(of, name) for name in names}, "deadline": of.deadline}

    @model(timeout=40, retries=3, version="v7")
    def plain() -> dict[str, Any]:
        return facts()

    @model(timeout=40)
    def listed() -> Any:
        return [len(jobs), jobs[0].id, [each.id for each in jobs]]

    @model(timeout=40)
    def streamed() -> Iterator[dict[str, Any]]:
        yield facts()

    @model(concurrency=10)
    async def waits(seconds: float) -> Any:
        async def inner() -> str:
            await asyncio.sleep(seconds)
            return job.id
        return [facts(), await asyncio.create_task(inner()), await asyncio.to_thread(lambda: job.id)]

    @model
    async def streams() -> AsyncIterator[str]:
        yield job.id

    @model(retries=2, backoff=0)
    def third_time() -> Any:
        if job.attempt < 3:
            raise Retry(f"{job.attempt} {job.retries_left}")
        return [job.attempt, job.retries_left]

    @model(max_batch_size=8, batch_timeout=0.5, timeout=50)
    def together(x: list[int]) -> list[Any]:
        assert len(jobs) == len(x)
        if 13 in x and len(x) > 1:
            raise ValueError("together with 13")
        return [{**facts(each), "x": value, "least": job.deadline} for each, value in zip(jobs, x, strict=True)]

    @model(max_batch_size=8)
    def wrong(x: list[int]) -> list[str]:
        return [job.id for _ in x]

    class Setup:
        pass

    @model
    class KnowsNothing:
        def setup(self) -> None:
            self.seen = [job.id, job.attempt, job.metadata, job.stopping, job.model]

        def predict(self) -> Any:
            return self.seen

    @model
    def in_threads() -> Any:
        with ThreadPoolExecutor(2) as pool:
            found = [pool.submit(copy_context().run, lambda: job.id).result() for _ in range(3)]
        return found
"""


def facts_of(service: Api, model: str, **body: Any) -> tuple[dict[str, Any], Any]:
    """A job that was run, and what it returned."""
    job = service.done(service.submit(model, **body)["id"])
    assert job["status"] == "finished", job["error"]
    return job, job["output"]


def test_a_model_knows_its_job(service: Api) -> None:
    job, known = facts_of(service, "plain", metadata={"user": "ada \N{SNOWMAN}", "n": [1, None]})

    assert 30 < known.pop("deadline") <= 40
    assert known == {
        "id": job["id"],
        "attempt": 1,
        "retries_left": 3,
        "metadata": {"user": "ada \N{SNOWMAN}", "n": [1, None]},
        "model": "plain",
        "version": job["version"],
        "stopping": False,
    }
    assert job["version"] == "v7"


@pytest.mark.parametrize("metadata", [None, 0, "", False, [], "text", {"a": "\ud800"}])
def test_metadata_is_what_the_caller_gave(service: Api, metadata: Any) -> None:
    if metadata == {"a": "\ud800"}:
        raw = b'{"input": {}, "metadata": {"a": "\\ud800"}}'
        answer = service.http.post(
            "/v1/models/plain/jobs", content=raw, headers={"Content-Type": "application/json", "Prefer": "wait=20"}
        )
        assert answer.status_code == 200, answer.text
        assert b"\\ud800" in answer.content
        return
    assert facts_of(service, "plain", metadata=metadata)[1]["metadata"] == metadata


def test_a_caller_may_give_other_limits_than_the_model(service: Api) -> None:
    _, known = facts_of(service, "plain", timeout=7, retries=0)

    assert 0 < known["deadline"] <= 7
    assert known["retries_left"] == 0


def test_each_try_knows_which_it_is(service: Api) -> None:
    job, known = facts_of(service, "third_time")

    assert known == [3, 0]
    assert [each["error"]["message"] for each in job["attempts"][:2]] == ["1 2", "2 1"]


@pytest.mark.parametrize("model", ["streamed", "streams"])
def test_a_generator_knows_its_job(service: Api, model: str) -> None:
    job, known = facts_of(service, model)

    assert known == job["id"] if model == "streams" else known[0]["id"] == job["id"]


def test_async_jobs_that_run_at_once_know_each_its_own(service: Api) -> None:
    ids = [service.submit("waits", input={"seconds": 0.3}, metadata=number)["id"] for number in range(8)]

    for number, each in enumerate(ids):
        known, in_task, in_thread = service.done(each)["output"]
        assert (known["id"], known["metadata"], in_task, in_thread) == (each, number, each, each)


def test_threads_of_a_pool_know_the_job_that_gave_them_work(service: Api) -> None:
    for _ in range(2):
        job, known = facts_of(service, "in_threads")
        assert known == [job["id"]] * 3


def test_each_item_of_a_batch_has_a_job_of_its_own(service: Api) -> None:
    ids = [service.submit("together", input={"x": x}, metadata={"x": x}, timeout=20 + x)["id"] for x in range(6)]

    for x, each in enumerate(ids):
        known = service.done(each)["output"]
        assert (known["id"], known["metadata"], known["x"], known["attempt"]) == (each, {"x": x}, x, 1)
        assert 10 + x < known["deadline"] <= 20 + x
        assert known["least"] <= known["deadline"]


def test_after_a_batch_that_raised_each_job_knows_itself_and_has_its_time_anew(service: Api) -> None:
    ids = [service.submit("together", input={"x": x})["id"] for x in (12, 13, 14)]

    outputs = [service.done(each)["output"] for each in ids]

    assert [each["id"] for each in outputs] == ids
    assert not any(each["stopping"] for each in outputs)


def test_what_a_whole_batch_cannot_answer_is_refused_with_the_way_to_ask(service: Api) -> None:
    job = service.done(service.submit("wrong", input={"x": 1})["id"])

    assert (
        job["error"]["message"]
        == "RuntimeError: job.id in a batch: each item has a job of its own, jobs[0].id and so on"
    )


def test_without_a_batch_there_is_one_in_jobs(service: Api) -> None:
    job, known = facts_of(service, "listed")

    assert known == [1, job["id"], [job["id"]]]


def test_setup_belongs_to_no_job(service: Api) -> None:
    assert facts_of(service, "knows_nothing", metadata="x")[1] == ["local", 1, None, False, ""]


STOPPING = """
    import asyncio, ctypes, os, signal, threading, time
    from contextvars import copy_context
    from service import job, model

    def note(word: str) -> None:
        with open(os.environ["NOTES"], "a") as file:
            print(word, file=file)

    def watch(word: str) -> None:
        until = time.monotonic() + 60
        while not job.stopping and time.monotonic() < until:
            time.sleep(0.005)
        note(f"{word} {job.stopping}")

    def watched(word: str) -> None:
        note("began")
        threading.Thread(target=copy_context().run, args=(watch, word), daemon=True).start()

    @model
    def sleeps(seconds: float = 60) -> str:
        watched("thread")
        try:
            time.sleep(seconds)
        finally:
            note(f"finally {job.stopping}")
        return "done"

    @model
    def in_c() -> str:
        watched("thread")
        signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGUSR1])  # as C code that goes on when a call was interrupted
        ctypes.CDLL(None).usleep(50_000_000)
        return "done"

    @model
    async def waits() -> str:
        watched("thread")
        try:
            await asyncio.sleep(60)
        finally:
            note(f"finally {job.stopping}")
        return "done"

    @model
    def leaves_by_itself() -> str:
        note("began")
        while not job.stopping:
            time.sleep(0.01)
        note("left")
        return "left"
"""


def said(notes: Path, *words: str, within: float = 20.0) -> None:
    """Wait until the model has noted all of these."""

    def check() -> None:
        assert set(words) <= set(notes.read_text().splitlines()), notes.read_text()

    eventually(check, within)


@pytest.mark.parametrize("model", ["sleeps", "waits"])
@pytest.mark.parametrize("how", ["cancel", "timeout"])
def test_a_job_that_is_stopped_is_told_in_its_threads_and_in_finally(
    deployed: Deployment, notes: Path, model: str, how: str
) -> None:
    deployed.write(STOPPING)
    deployed.worker()
    api = deployed.web()
    job = api.submit(model, **({"timeout": 1} if how == "timeout" else {}))
    said(notes, "began")
    if how == "cancel":
        assert api.cancel(job["id"]).status_code == 202

    assert api.done(job["id"])["status"] == ("failed" if how == "timeout" else "stopped")
    said(notes, "finally True", "thread True")


def test_a_thread_is_told_though_the_main_thread_hears_no_signal(deployed: Deployment, notes: Path) -> None:
    deployed.write(STOPPING)
    deployed.worker(STOP_GRACE="3")
    api = deployed.web()
    job = api.submit("in_c")
    said(notes, "began")
    api.cancel(job["id"])

    said(notes, "thread True")
    assert api.done(job["id"])["status"] == "stopped"


def test_the_threads_of_a_job_that_is_over_are_told(deployed: Deployment, notes: Path) -> None:
    deployed.write(STOPPING)
    deployed.worker()
    api = deployed.web()
    job = api.submit("sleeps", input={"seconds": 0.1})

    assert api.done(job["id"])["status"] == "finished"
    said(notes, "finally False", "thread True")


def test_a_worker_that_is_asked_to_end_tells_its_jobs_at_once_and_lets_them_finish(
    deployed: Deployment, notes: Path
) -> None:
    deployed.write(STOPPING)
    worker = deployed.worker(GRACE_PERIOD="60")
    api = deployed.web()
    job = api.submit("leaves_by_itself")
    said(notes, "began")

    worker.send_signal(signal.SIGTERM)

    assert worker.wait(30) == 0
    assert api.job(job["id"])["output"] == "left"


def test_a_worker_that_drains_does_not_ask_its_jobs_to_leave(deployed: Deployment, notes: Path) -> None:
    deployed.write(STOPPING)
    worker = deployed.worker()
    api = deployed.web()
    job = api.submit("sleeps", input={"seconds": 2})
    said(notes, "began")
    (name,) = (each["name"] for each in api.http.get("/v1/workers").json()["workers"])

    assert deployed.run("drain", name, "--yes").wait(30) == 0

    assert worker.wait(30) == 0
    assert api.job(job["id"])["status"] == "finished"
    said(notes, "finally False")


def test_a_model_file_that_uses_its_job_runs_alone(tmp_path: Path, project: Path) -> None:
    (tmp_path / "alone.py").write_text(
        "from service import job, jobs, model\n"
        "@model\n"
        "def alone() -> str:\n"
        "    return f'{job.id} {job.attempt} {job.retries_left} {job.metadata} '\\\n"
        "        f'{job.deadline} {job.stopping} {len(jobs)}'\n"
        "print(alone())\n"
    )

    said = subprocess.check_output(
        [sys.executable, "alone.py"], cwd=tmp_path, env={"PYTHONPATH": str(project)}, text=True
    )

    assert said == "local 1 0 None inf False 1\n"
