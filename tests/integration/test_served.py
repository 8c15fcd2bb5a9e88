"""service.testing.served: a whole service within a test, which ends with it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import redis

from service.failure import Failure
from service.testing import Refused, Served, served
from tests.deployment import ROOT, children, until

MODELS = """
import os, time
from collections.abc import Iterator
from service import job, model, progress

@model
def shout(text: str) -> str:
    return text.upper()

@model
def counts(to: int) -> Iterator[int]:
    yield from range(to)

@model
def fails() -> None:
    raise ValueError("the reason")

@model
def sleeps() -> None:
    time.sleep(60)

@model
def knows() -> list[object]:
    return [job.id, job.metadata, os.environ.get("OF_THE_TEST")]
"""


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    (folder / "models.py").write_text(MODELS)
    return folder


@pytest.fixture(scope="module")
def service(models: Path) -> Iterator[Served]:
    with served(models, OF_THE_TEST="yes") as each:
        yield each


def below(pid: int) -> list[int]:
    """All processes below one."""
    return [each for child in children(pid) for each in (child, *below(child))]


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_a_job_runs_as_in_the_service(service: Served) -> None:
    job = service.run("shout", {"text": "aé"})

    assert (job["status"], job["output"]) == ("finished", "AÉ")


def test_its_events_can_be_read(service: Served) -> None:
    job = service.run("counts", {"to": 2})

    events = [(event["type"], event["data"].get("output")) for event in service.events(job["id"])]
    assert events == [("queued", None), ("started", None), ("output", 0), ("output", 1), ("finished", [0, 1])]


def test_a_job_that_fails_is_returned_with_its_error(service: Served) -> None:
    assert service.run("fails", retries=0)["error"]["message"] == "ValueError: the reason"


def test_other_fields_of_a_submit_and_the_tests_own_environment_arrive(service: Served) -> None:
    job = service.run("knows", metadata={"user": 1})

    assert job["output"] == [job["id"], {"user": 1}, "yes"]


def test_what_is_refused_says_why(service: Served) -> None:
    with pytest.raises(Refused, match="422 input.text: Field required") as refused:
        service.submit("shout")
    assert refused.value.problem["type"] == "/problems/invalid-input"

    with pytest.raises(Refused) as unknown:
        service.submit("nothing")
    assert unknown.value.status == 404


def test_it_waits_no_longer_than_it_is_told(service: Served) -> None:
    with pytest.raises(TimeoutError, match="is (queued|started) after 0.2 s"):
        service.run("sleeps", timeout=0.2)


def test_its_redis_is_a_real_one_of_its_own(service: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    with redis.Redis.from_url(service.redis_url) as client:
        assert client.ping()
        assert "served-" in service.redis_url


def test_two_at_once_do_not_meet(service: Served, models: Path) -> None:
    with served(models) as other:
        job = other.run("shout", {"text": "b"})

        assert other.url != service.url
        with pytest.raises(Refused, match="404"):
            service.done(job["id"])


def test_a_test_that_fails_leaves_nothing_behind(models: Path) -> None:
    before = set(below(os.getpid()))
    started: set[int] = set()
    folders = []

    def test() -> None:
        with served(models) as each:
            each.submit("sleeps")
            folders.append(Path(each.redis_url.removeprefix("unix://")).parents[1])
            started.update(set(below(os.getpid())) - before)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        test()

    assert len(started) >= 5  # guardian, Redis, web and its worker, worker, work-horse
    assert not [pid for pid in started if alive(pid)]
    assert not folders[0].exists()


def test_a_test_that_is_killed_leaves_no_process_behind(models: Path, tmp_path: Path) -> None:
    script = f"""
import sys
from service.testing import served
with served({str(models)!r}) as each:
    each.submit("sleeps")
    print("ready", flush=True)
    sys.stdin.read()
"""
    process = subprocess.Popen(
        [sys.executable, "-c", script],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        cwd=tmp_path,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    assert process.stdout is not None
    assert process.stdin is not None
    with process.stdin, process.stdout:
        assert process.stdout.readline() == b"ready\n"
        started = below(process.pid)
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert len(started) >= 5

    until(lambda: not [pid for pid in started if alive(pid)], within=60)


def test_a_folder_without_models_is_a_failure_that_says_so_and_leaves_nothing(tmp_path: Path) -> None:
    before = set(below(os.getpid()))

    with pytest.raises(Failure, match="has no model file"), served(tmp_path):
        pass

    assert set(below(os.getpid())) <= before
    with pytest.raises(Failure, match="is no folder"), served(tmp_path / "missing"):
        pass


def test_settings_that_are_wrong_are_named(models: Path) -> None:
    with pytest.raises(Failure, match="LOG_LEVEL is 'loud'"), served(models, LOG_LEVEL="loud"):
        pass


def test_the_environment_of_the_test_does_not_reach_it(models: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REDIS_URL", "redis://127.0.0.1:1")
    monkeypatch.setenv("HOST", "192.0.2.1")
    monkeypatch.setenv("http_proxy", "http://192.0.2.1:1")
    monkeypatch.chdir("/")

    with served(models) as each:
        assert each.run("shout", {"text": "a"})["output"] == "A"
