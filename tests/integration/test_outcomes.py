"""How jobs end: by themselves, by the death of the work-horse, by their timeout, by a stop; and what is tried again."""

from __future__ import annotations

import json
import time
from typing import Any

import pytest
import redis
from rq.command import send_stop_job_command
from rq.serializers import JSONSerializer

from tests.deployment import Api, Deployment, eventually

MODELS = """
    import asyncio, ctypes, itertools, multiprocessing, os, signal, sys, time
    from collections.abc import AsyncIterator, Iterator
    from service import Fatal, Retry, model, progress

    @model
    def fine() -> int:
        return os.getpid()

    @model
    def raises(what: str) -> None:
        if what == "ValueError":
            raise ValueError("it broke")
        if what == "SystemExit":
            sys.exit(3)
        if what == "KeyboardInterrupt":
            raise KeyboardInterrupt
        if what == "surrogate":
            raise ValueError("\\ud800")
        if what == "unprintable":
            class Unprintable(Exception):
                def __str__(self): raise RuntimeError("no words")
            raise Unprintable
        raise MemoryError

    @model
    def dies(how: str) -> None:
        if how == "exit":
            os._exit(7)
        if how == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        if how == "segfault":
            ctypes.string_at(0)
        if how == "close":
            os.closerange(3, 256)

    @model(timeout=20)
    def dies_with_a_child() -> None:
        multiprocessing.get_context("fork").Process(target=time.sleep, args=(60,)).start()
        os._exit(7)

    @model(retries=2, backoff=0)
    def flaky(file: str, failures: int) -> int:
        with open(file, "a") as tries:
            tries.write("x")
        done = os.path.getsize(file)
        if done <= failures:
            raise RuntimeError(f"failure {done}")
        return done

    @model(retries=1)
    def later(file: str, after: float) -> float:
        if not os.path.exists(file):
            open(file, "w").close()
            raise Retry("not yet", after=after)
        return time.time() - os.path.getmtime(file)

    @model(retries=5)
    def fatal() -> None:
        raise Fatal("no use")

    @model(timeout=60)
    def hangs(how: str) -> None:
        progress.update(0.5, "hanging")
        if how == "loop":
            while True:
                pass
        if how == "sleep":
            time.sleep(1000)
        if how == "c":
            sum(itertools.repeat(0))  # holds the interpreter's lock, and looks at no signal
        while how == "swallow":
            try:
                time.sleep(1000)
            except BaseException:
                pass

    @model(timeout=60)
    def rewords() -> None:
        try:
            time.sleep(1000)
        except BaseException as error:
            raise RuntimeError("something else") from error

    @model(timeout=60)
    def beats() -> Iterator[int]:
        for number in range(10_000):
            yield number
            time.sleep(0.05)

    @model(timeout=60)
    async def waits() -> None:
        progress.update(0.5)
        await asyncio.sleep(1000)

    @model(timeout=60)
    async def ticks() -> AsyncIterator[int]:
        for number in range(10_000):
            yield number
            await asyncio.sleep(0.05)
"""

HANGING = ["loop", "sleep", "c", "swallow"]


def run(service: Api, model: str, timeout: int | None = None, **value: Any) -> Any:
    """Submit a job and return it when it is done."""
    options = {} if timeout is None else {"timeout": timeout}
    return service.done(service.submit(model, input=value, **options)["id"])


def kinds(service: Api, job: Any) -> list[str]:
    return [event["type"] for event in service.log(job["id"])]


def horse_of(service: Api) -> int:
    job = run(service, "fine")
    assert job["status"] == "finished", job
    return int(job["output"])


def hanging(service: Api, model: str, **value: Any) -> Any:
    """A job that runs and has said something."""
    job = service.submit(model, input=value)

    def check() -> Any:
        now = service.job(job["id"])
        assert now["status"] == "started"
        assert {"progress", "output"} & set(kinds(service, job))
        return now

    return eventually(check)


@pytest.mark.parametrize("what", ["ValueError", "SystemExit", "KeyboardInterrupt", "surrogate"])
def test_whatever_a_model_raises_fails_its_job_and_not_the_horse(service: Api, what: str) -> None:
    horse = horse_of(service)

    job = run(service, "raises", what=what)

    assert (job["status"], job["error"]["type"]) == ("failed", "model_error")
    assert horse_of(service) == horse


def test_an_error_tells_its_class_and_message(service: Api) -> None:
    assert run(service, "raises", what="ValueError")["error"]["message"] == "ValueError: it broke"


def test_an_error_without_words_fails_its_job(service: Api) -> None:
    assert run(service, "raises", what="unprintable")["status"] == "failed"
    horse_of(service)


def test_a_model_out_of_memory_is_told_as_such(service: Api) -> None:
    assert run(service, "raises", what="MemoryError")["error"]["type"] == "out_of_memory"


@pytest.mark.parametrize(("how", "words"), [("exit", "code 7"), ("kill", "SIGKILL"), ("segfault", "SIGSEGV")])
def test_a_job_that_kills_its_horse_has_crashed_and_the_next_gets_a_new_horse(
    service: Api, how: str, words: str
) -> None:
    horse = horse_of(service)

    job = run(service, "dies", how=how)

    assert (job["status"], job["error"]["type"]) == ("failed", "crashed")
    assert words in job["error"]["message"]
    assert horse_of(service) != horse


def test_a_job_that_closes_the_horses_files_has_crashed(service: Api) -> None:
    assert run(service, "dies", how="close")["error"]["type"] == "crashed"
    horse_of(service)


def test_a_horse_that_dies_and_leaves_a_child_behind_has_crashed_at_once(service: Api) -> None:
    job = service.submit("dies_with_a_child")

    assert service.done(job["id"], within=8)["error"]["type"] == "crashed"


def test_a_failed_job_is_tried_again_and_every_attempt_is_told(service: Api, tmp_path: Any) -> None:
    job = run(service, "flaky", file=str(tmp_path / "tries"), failures=2)

    assert (job["status"], job["output"]) == ("finished", 3)
    assert [attempt["number"] for attempt in job["attempts"]] == [1, 2, 3]
    errors = [attempt["error"] and attempt["error"]["message"] for attempt in job["attempts"]]
    assert errors == ["RuntimeError: failure 1", "RuntimeError: failure 2", None]
    told = ["queued", "started"] + 2 * ["retrying", "queued", "started"] + ["finished"]
    assert kinds(service, job) == told


def test_a_job_that_fails_each_time_fails_with_its_last_error(service: Api, tmp_path: Any) -> None:
    job = run(service, "flaky", file=str(tmp_path / "tries"), failures=9)

    assert job["error"] == {"type": "model_error", "message": "RuntimeError: failure 3"}
    assert [attempt["error"]["message"][-1] for attempt in job["attempts"]] == ["1", "2", "3"]


def test_retry_after_schedules_the_next_try(service: Api, tmp_path: Any) -> None:
    job = service.submit("later", input={"file": str(tmp_path / "tried"), "after": 1})

    def scheduled() -> None:
        assert service.job(job["id"])["status"] == "scheduled"

    eventually(scheduled)
    done = service.done(job["id"])
    assert done["status"] == "finished"
    assert 1 <= done["output"] < 5
    assert kinds(service, job) == ["queued", "started", "retrying", "scheduled", "queued", "started", "finished"]


@pytest.mark.parametrize("after", ["inf", "1e18", "nan", "-5"])
def test_no_delay_that_a_model_asks_for_ends_the_worker(deployed: Deployment, after: str) -> None:
    deployed.write("""
        from service import Retry, model

        @model(retries=1)
        def never(after: str) -> None:
            raise Retry("in a while", after=float(after))
    """)
    worker = deployed.worker()
    service = deployed.web()
    job = service.submit("never", input={"after": after})

    def settled() -> str:
        now = service.job(job["id"])
        assert now["done"] or now["status"] == "scheduled", now
        return str(now["status"])

    assert eventually(settled, within=5) in ("failed", "scheduled")
    assert worker.poll() is None


def test_a_fatal_error_is_not_tried_again(service: Api) -> None:
    job = run(service, "fatal")

    assert (job["status"], job["error"]) == ("failed", {"type": "model_error", "message": "no use"})
    assert len(job["attempts"]) == 1


@pytest.mark.parametrize("how", HANGING)
def test_a_timeout_ends_whatever_the_model_does(service: Api, how: str) -> None:
    job = run(service, "hangs", timeout=1, how=how)

    assert (job["status"], job["error"]["type"]) == ("failed", "timeout")
    assert _seconds(job) < 1 + 1 + 1
    horse_of(service)


@pytest.mark.parametrize("model", ["waits", "ticks", "beats"])
def test_a_timeout_ends_streams_and_coroutines_and_the_horse_lives(service: Api, model: str) -> None:
    horse = horse_of(service)

    job = run(service, model, timeout=1)

    assert job["error"]["type"] == "timeout"
    assert _seconds(job) < 1 + 1
    assert horse_of(service) == horse


def _seconds(job: Any) -> float:
    """How long a job ran."""

    def unix(text: str) -> float:
        return time.mktime(time.strptime(text[:19], "%Y-%m-%dT%H:%M:%S")) + float(text[19:-1])

    return unix(job["ended_at"]) - unix(job["started_at"])


@pytest.mark.parametrize(
    ("model", "value", "mode"),
    [
        ("hangs", {"how": "loop"}, "cooperative"),
        ("hangs", {"how": "sleep"}, "cooperative"),
        ("hangs", {"how": "c"}, "killed"),
        ("hangs", {"how": "swallow"}, "killed"),
        ("waits", {}, "cooperative"),
        ("ticks", {}, "cooperative"),
        ("beats", {}, "cooperative"),
    ],
)
def test_a_running_job_is_stopped_and_tells_how(service: Api, model: str, value: Any, mode: str) -> None:
    job = hanging(service, model, **value)

    assert service.cancel(job["id"]).status_code == 202

    done = service.done(job["id"], within=5)
    assert (done["status"], done["cancellation"]["mode"]) == ("stopped", mode)
    assert done["cancellation"]["requested_at"] <= done["cancellation"]["acknowledged_at"] <= done["ended_at"]
    assert service.log(job["id"])[-1]["data"] == {"mode": mode}
    horse_of(service)


def test_a_stopped_stream_keeps_what_it_gave(service: Api) -> None:
    job = hanging(service, "beats")
    service.cancel(job["id"])
    service.done(job["id"])

    outputs = [event["data"]["output"] for event in service.log(job["id"]) if event["type"] == "output"]
    assert outputs
    assert outputs == list(range(len(outputs)))


def test_an_error_made_of_the_interruption_is_a_stop_all_the_same(service: Api) -> None:
    job = service.submit("rewords")
    service.started(job["id"])

    def stopped() -> Any:
        service.cancel(job["id"])
        return service.done(job["id"])

    assert stopped()["status"] == "stopped"


def test_rqs_own_stop_command_stops_a_job(service: Api) -> None:
    job = hanging(service, "hangs", how="sleep")

    with redis.Redis.from_url(service.redis_url) as connection:  # type: ignore[attr-defined]
        send_stop_job_command(connection, job["id"], serializer=JSONSerializer)

    assert service.done(job["id"], within=5)["status"] == "stopped"


def test_a_stop_during_the_last_moments_of_a_timed_out_try_is_kept(deployed: Deployment) -> None:
    deployed.write("""
        import time
        from service import model

        @model(timeout=1, retries=5)
        def stubborn() -> None:
            while True:
                try:
                    time.sleep(1000)
                except BaseException:
                    print("interrupted", flush=True)
    """)
    deployed.worker(STOP_GRACE="3")
    service = deployed.web()
    job = service.submit("stubborn")

    def interrupted() -> None:
        assert "log" in kinds(service, job)

    eventually(interrupted)
    assert service.cancel(job["id"]).status_code == 202

    done = service.done(job["id"], within=10)
    assert done["status"] in ("stopped", "canceled"), done
    assert len(done["attempts"]) == 1


MALFORMED = [
    b"{",
    b"[]",
    b"[1, 2]",
    b"null",
    b"{}",
    b'{"command": 5}',
    b'{"command": "stop-job"}',
    b'{"command": "stop-job", "job_id": ["a"]}',
    b'{"command": "stop-execution", "execution_id": null}',
    b'{"command": "no-such-command"}',
    b"\xff\xfe",
    b"[" * 100_000,
]


def test_malformed_commands_do_not_make_the_worker_deaf(service: Api) -> None:
    job = hanging(service, "hangs", how="sleep")

    with redis.Redis.from_url(service.redis_url) as connection:  # type: ignore[attr-defined]
        channel = f"rq:pubsub:{job['attempts'][0]['worker']}"
        assert all(connection.publish(channel, message) == 1 for message in MALFORMED)
        command = {"command": "stop-job", "job_id": job["id"]}
        assert connection.publish(channel, json.dumps(command)) == 1

    assert service.done(job["id"], within=5)["status"] == "stopped"
