"""What an author sees of a failure: where it was raised, in the log, in the events, and over HTTP for operators."""

from __future__ import annotations

from typing import Any

import pytest

from tests.deployment import Api, Deployment, eventually

MODELS = """
    import asyncio, time
    from dataclasses import dataclass
    from service import Fatal, Retry, model, progress

    def inner(x):
        raise ValueError(f"too small: {x}")

    @model(retries=1, backoff=0)
    def fails(x: int) -> int:
        for _ in progress(range(2)):
            try:
                inner(x)
            except ValueError as error:
                raise RuntimeError("no way") from error

    @model
    async def groups(x: int) -> int:
        async def one():
            inner(x)
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(one())
            tasks.create_task(one())

    @model(max_batch_size=4)
    def batch(x: list[int]) -> list[int]:
        inner(x[0])

    @model
    def deep(x: int) -> int:
        return deep(x + 1) if x % 2 else deeper(x)

    def deeper(x: int) -> int:
        return deep(x + 1)

    @model
    def gives_up(x: int) -> int:
        raise Fatal("never")

    class Rude(Exception):
        def __str__(self):
            raise RuntimeError("no words")

    @model
    def rude(x: int) -> int:
        raise Rude()

    class Shy(Exception):
        def __getattribute__(self, name):
            if name == "__notes__":
                raise RuntimeError(name)
            return super().__getattribute__(name)

    @model
    def shy(x: int) -> int:
        raise Shy()

    @dataclass(frozen=True)
    class Frozen(Exception):
        code: int

    @model(retries=1, backoff=0, fatal=Frozen)
    def frozen(x: int) -> int:
        raise Frozen(7)

    @model(retries=1, backoff=0, fatal=Frozen, max_batch_size=2)
    def frozen_batch(x: list[int]) -> list[int]:
        raise Frozen(7)

    @model(timeout=1)
    def hangs(x: int) -> int:
        while True:
            time.sleep(0.01)

    @model(timeout=1)
    async def waits(x: int) -> int:
        await asyncio.sleep(60)

    @model
    class NotLoaded:
        def setup(self):
            inner(7)
        def predict(self, x: int) -> int:
            return x
"""
ENVIRONMENT = {"LOG_LEVEL": "warning"}


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Any:
    from service.embedded import EmbeddedRedis, binary
    from tests.deployment import deployment

    folder = tmp_path_factory.mktemp("tracebacks")
    # One that is killed, since the machine was too slow for it to leave, has no traceback.
    patient = {"STOP_GRACE": "20"}
    with EmbeddedRedis(folder / "redis", binary()) as server, deployment(folder, server.url, **patient) as each:
        each.write(MODELS)
        each.log = each.worker().log  # type: ignore[attr-defined]
        each.web_api = each.web()  # type: ignore[attr-defined]
        yield each


def failed(api: Api, model: str) -> dict[str, Any]:
    job = api.done(api.submit(model, input={"x": 1})["id"], within=30)
    assert job["status"] == "failed", job
    return dict(job)


def told(api: Api, job: dict[str, Any]) -> list[str]:
    """The tracebacks in a job's events."""
    events = api.log(job["id"])
    return [each["data"]["message"] for each in events if each["type"] == "log" and each["data"]["level"] == "error"]


def test_a_failed_job_is_told_with_its_traceback_before_its_end(fleet: Any) -> None:
    job = failed(fleet.web_api, "fails")

    types = [each["type"] for each in fleet.web_api.log(job["id"]) if each["type"] in ("log", "retrying", "failed")]
    assert types == ["retrying", "log", "failed"]
    (text,) = told(fleet.web_api, job)
    first = next(line for line in text.splitlines() if line.startswith("  File"))
    assert 'models.py", line 13, in fails' in first
    assert "ValueError: too small: 1" in text
    assert text.endswith("RuntimeError: no way\n")
    assert "service/worker" not in text


def test_operators_read_it_with_each_attempt_and_callers_do_not(fleet: Any) -> None:
    job = failed(fleet.web_api, "fails")

    shown = fleet.web_api.http.get(f"/v1/jobs/{job['id']}", params={"include": "traceback"}).json()

    assert "Traceback" not in str(job)
    assert [each["traceback"] for each in shown["attempts"]] == 2 * told(fleet.web_api, job)
    wrong = fleet.web_api.http.get(f"/v1/jobs/{job['id']}", params={"include": "tracebacks"})
    assert wrong.status_code == 400
    assert "allowed: traceback" in wrong.json()["detail"]


def test_the_log_shows_it_as_python_prints_it(fleet: Any) -> None:
    job = failed(fleet.web_api, "gives_up")

    def check() -> None:
        lines = fleet.log.read_text().splitlines()
        place = next(n for n, line in enumerate(lines) if job["id"] in line and "job failed" in line)
        assert lines[place + 1] == "  Traceback (most recent call last):"
        assert 'models.py", line ' in lines[place + 2]
        assert any(line == "  service.model.Fatal: never" for line in lines[place:])

    eventually(check)


@pytest.mark.parametrize(
    ("model", "frame"), [("groups", "in groups"), ("batch", "in batch"), ("not_loaded", "in setup")]
)
def test_the_authors_frame_is_the_first_however_the_model_runs(fleet: Any, model: str, frame: str) -> None:
    (text,) = told(fleet.web_api, failed(fleet.web_api, model))

    assert frame in next(line for line in text.splitlines() if " File " in line)
    assert "in inner" in text
    assert "service/worker" not in text
    assert text.count("ValueError: too small") == (2 if model == "groups" else 1)


def test_a_traceback_is_bounded_and_keeps_its_end(fleet: Any) -> None:
    (text,) = told(fleet.web_api, failed(fleet.web_api, "deep"))

    assert len(text) <= 10_000
    assert "characters left out" in text
    assert "RecursionError" in text[-300:]


@pytest.mark.parametrize(("model", "line"), [("hangs", "time.sleep(0.01)"), ("waits", "await asyncio.sleep(60)")])
def test_a_job_whose_time_is_over_shows_where_it_was(fleet: Any, model: str, line: str) -> None:
    job = failed(fleet.web_api, model)

    (text,) = told(fleet.web_api, job)

    assert job["error"]["type"] == "timeout"
    assert f"in {model}" in text.splitlines()[1]
    assert line in text or "while True" in text


@pytest.mark.parametrize("model", ["rude", "shy"])
def test_an_exception_that_cannot_say_what_it_is_fails_its_job_alone(fleet: Any, model: str) -> None:
    (text,) = told(fleet.web_api, failed(fleet.web_api, model))

    assert f"in {model}" in text


@pytest.mark.parametrize("model", ["frozen", "frozen_batch"])
def test_an_exception_whose_attributes_cannot_be_set_stays_what_it_is(fleet: Any, model: str) -> None:
    job = failed(fleet.web_api, model)

    assert job["error"]["message"].startswith("jobs.models.Frozen")
    assert len(job["attempts"]) == 1


def test_a_setup_that_failed_shows_its_traceback_with_the_model(fleet: Any) -> None:
    failed(fleet.web_api, "not_loaded")

    def check() -> None:
        shown = fleet.web_api.http.get("/v1/models/not_loaded", params={"include": "traceback"}).json()
        assert "in setup" in (shown["traceback"] or "")
        assert "traceback" not in fleet.web_api.http.get("/v1/models/not_loaded").json()

    eventually(check)


def test_a_job_without_a_traceback_has_none(deployed: Deployment) -> None:
    deployed.write("from service import model\n@model\ndef one(x: int) -> int:\n    return 'no number'\n")
    deployed.worker()
    api = deployed.web()

    job = api.submit("one", wait=20, input={"x": 1})

    shown = api.http.get(f"/v1/jobs/{job['id']}", params={"include": "traceback"}).json()
    assert [each["traceback"] for each in shown["attempts"]] == [None]
    assert told(api, job) == []
