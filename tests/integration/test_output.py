"""What jobs write to standard output and error, however they do it, and whatever becomes of the worker's own."""

from __future__ import annotations

import os
import pty
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.deployment import Api, Deployment, eventually, until

MODELS = """
    import asyncio, ctypes, io, logging, os, subprocess, sys, threading, time
    from service import model, progress

    libc = ctypes.CDLL(None)

    @model
    def shout(text: str, seconds: float = 0.05) -> str:
        time.sleep(seconds)
        print(text)
        print(text, file=sys.stderr)
        return text.upper()

    @model
    def many(lines: int) -> int:
        for number in range(lines):
            print("line", number, "x" * 200)
        return lines

    @model
    def low(text: str, how: str) -> str:
        if how == "printf":
            libc.printf(b"%s\\n", text.encode())
        elif how == "no end":
            libc.printf(b"%s", text.encode())
        elif how == "write":
            os.write(1, text.encode() + b"\\n")
        elif how == "stderr":
            os.write(2, text.encode() + b"\\n")
        elif how == "child":
            subprocess.run(["echo", text])
        elif how == "system":
            os.system(f"echo {text} >&2")
        elif how == "stream given":
            subprocess.run(["echo", text], stdout=sys.stdout, stderr=sys.stderr)
        elif how == "bytes":
            sys.stdout.buffer.write(text.encode() + b"\\n")
            sys.stdout.flush()
        elif how == "original":
            print(text, file=sys.__stdout__)
        elif how == "halves":
            for byte in f"\u20ac {text}\\n".encode():
                sys.stdout.buffer.write(bytes([byte]))
                sys.stdout.buffer.flush()
        elif how == "fork":
            if (child := os.fork()) == 0:
                print(text)
                os._exit(0)
            os.waitpid(child, 0)
        return text

    @model
    def floods(lines: int) -> int:
        os.write(1, b"")
        for number in range(lines):
            os.write(1, b"line %d\\n" % number)
        return lines

    @model(timeout=60)
    def floods_with_the_lock(megabytes: int) -> int:
        text = b"y" * 1023 + b"\\n"
        write = ctypes.PyDLL(None).write  # as an extension that keeps Python's lock
        for _ in range(megabytes * 1024):
            write(1, text, len(text))
        return megabytes

    @model
    def dies() -> None:
        os.write(2, b"a library's last words\\n")
        os.abort()

    @model
    def leaves_a_child(text: str, seconds: float) -> None:
        subprocess.Popen(["sh", "-c", f"sleep {seconds}; while :; do echo {text}; sleep 0.01; done"])

    @model
    def buffers(text: str) -> None:
        libc.fputs.argtypes = [ctypes.c_char_p, ctypes.c_void_p]
        libc.fputs(text.encode(), ctypes.c_void_p.in_dll(libc, "stdout"))

    @model
    def spoils(how: str) -> None:
        out = sys.stdout
        if how == "close":
            sys.stdout.close()
            sys.stderr.close()
        elif how == "detach":
            sys.stdout.detach()
            sys.stderr.detach()
        elif how == "rewrap":
            sys.stdout = io.TextIOWrapper(sys.stdout.buffer, encoding="ascii")
            print("rewrapped", flush=True)
        elif how == "rewrap and lose":
            sys.stdout = io.TextIOWrapper(sys.stdout.detach(), encoding="ascii")
            sys.stdout = None
        elif how == "reopen":
            sys.stdout = open(sys.stdout.fileno(), "w", encoding="ascii", buffering=1)
            sys.stdout = None
        elif how == "descriptors":
            os.close(1)
            os.close(2)
        elif how == "elsewhere":
            nothing = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nothing, 1)
            os.dup2(nothing, 2)
        elif how == "string":
            sys.stdout = sys.stderr = io.StringIO()
        elif how == "none":
            sys.stdout = sys.stderr = None
        elif how == "encoding":
            sys.stdout.reconfigure(encoding="ascii", errors="strict")
        elif how == "buffer":
            sys.stdout.buffer.close()
        elif how == "method":
            sys.stdout.write = sys.stderr.write = lambda text: len(text)
        elif how == "originals":
            sys.__stdout__ = sys.__stderr__ = None
        elif how == "half a character":
            sys.stdout.buffer.write("\u20ac".encode()[:1])

    @model
    def surrogate() -> str:
        print("half \\ud800 a character")
        return "fine"

    @model(concurrency=4)
    async def alone(text: str, seconds: float = 0) -> str:
        os.write(1, text.encode() + b"\\n")
        await asyncio.sleep(seconds)
        return text

    logging.basicConfig(level=logging.DEBUG, format="configured %(message)s")

    @model
    def logs() -> None:
        logging.getLogger("mine").info("once")

    @model(timeout=20)
    def prints_in_a_handler() -> int:
        import signal
        heard = []
        def tell(*_):
            heard.append(1)
            print("signal")
        before = signal.signal(signal.SIGALRM, tell)
        signal.setitimer(signal.ITIMER_REAL, 0.001, 0.0005)
        until = time.monotonic() + 1
        while time.monotonic() < until:
            print("x" * 500)
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
        return len(heard)

    @model(timeout=60)
    def chatters() -> None:
        while True:
            print("words")
            os.write(1, b"words\\n")
            progress.update(0.5)

    @model(timeout=60)
    def is_alarmed() -> int:
        import signal
        def alarm(*_):
            raise TimeoutError
        before = signal.signal(signal.SIGALRM, alarm)
        stopped = 0
        for number in range(50):
            try:
                signal.setitimer(signal.ITIMER_REAL, 0.0001 * (number + 1))
                while True:
                    print("x" * 100)
            except TimeoutError:
                stopped += 1
        signal.signal(signal.SIGALRM, before)
        return stopped

    @model
    def crashes() -> None:
        ctypes.string_at(0)

    @model
    class Loads:
        def setup(self) -> None:
            os.write(1, b"loading SECRET weights\\n")

        def predict(self) -> str:
            return "loaded"
"""


def run(service: Api, model: str, **value: Any) -> Any:
    return service.submit(model, wait=60, input=value)


def told(service: Api, job: Any) -> list[tuple[str, str, str]]:
    events: list[Any] = []
    while not events or events[-1]["type"] not in ("finished", "failed"):
        after = events[-1]["id"] if events else "0"
        events += service.http.get(f"/v1/jobs/{job['id']}/events", params={"after": after}).json()["events"]
    logged = [event["data"] for event in events if event["type"] == "log"]
    return [(data["level"], data["logger"], data["message"]) for data in logged]


def served(api: Api) -> None:
    """Wait until a worker has told its models."""
    until(lambda: bool(api.http.get("/v1/models").json()["models"]))


# --- what reaches the job -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("how", "level", "stream"),
    [
        ("printf", "info", "stdout"),
        ("no end", "info", "stdout"),
        ("write", "info", "stdout"),
        ("stderr", "warning", "stderr"),
        ("child", "info", "stdout"),
        ("system", "warning", "stderr"),
        ("stream given", "info", "stdout"),
        ("bytes", "info", "stdout"),
        ("original", "info", "stdout"),
        ("fork", "info", "stdout"),
    ],
)
def test_what_is_written_below_python_is_told_of_the_job(service: Api, how: str, level: str, stream: str) -> None:
    for number in range(3):
        job = run(service, "low", text=f"words-{number}", how=how)

        assert told(service, job) == [(level, stream, f"words-{number}")]
        types = [event["type"] for event in service.log(job["id"])]
        assert types.index("log") < types.index("finished")


def test_lines_of_descriptors_are_bounded_too(service: Api) -> None:
    job = run(service, "floods", lines=3000)

    assert job["output"] == 3000
    assert len(told(service, job)) == 1001


def test_c_code_that_keeps_pythons_lock_and_fills_the_pipe_is_not_held_up_for_ever(service: Api) -> None:
    assert run(service, "floods_with_the_lock", megabytes=3)["output"] == 3
    assert told(service, run(service, "shout", seconds=0, text="on"))[0] == ("info", "stdout", "on")


def test_the_last_words_of_a_work_horse_are_told_of_the_job_that_it_ran(service: Api) -> None:
    job = run(service, "dies")

    assert job["error"]["type"] == "crashed"
    assert ("warning", "stderr", "a library's last words") in told(service, job)
    assert [event["type"] for event in service.log(job["id"])][-1] == "failed"


def test_where_a_model_crashed_in_c_is_told(service: Api) -> None:
    job = run(service, "crashes")

    assert job["error"]["type"] == "crashed"
    lines = [message for _, _, message in told(service, job)]
    assert "Fatal Python error: Segmentation fault" in lines
    assert any("models.py" in line and "in crashes" in line for line in lines), lines


def test_a_record_is_told_once_though_the_model_file_configures_logging(service: Api) -> None:
    assert told(service, run(service, "logs")) == [("info", "mine", "once")]


def test_a_handler_of_a_signal_may_print(service: Api) -> None:
    assert run(service, "prints_in_a_handler")["output"] > 10


def test_a_handler_of_a_signal_may_raise_while_a_job_prints(service: Api) -> None:
    assert run(service, "is_alarmed")["output"] == 50


def test_a_job_that_is_stopped_while_it_prints_leaves_nothing_behind(service: Api) -> None:
    for _ in range(6):
        job = service.submit("chatters")
        service.started(job["id"])
        service.cancel(job["id"])
        assert service.done(job["id"])["status"] == "stopped"

        after = run(service, "low", text="after", how="write")
        assert told(service, after) == [("info", "stdout", "after")]


def test_an_async_job_that_runs_alone_is_told_what_c_code_writes(service: Api) -> None:
    assert told(service, run(service, "alone", text="mine")) == [("info", "stdout", "mine")]


def test_what_nobody_can_attribute_is_told_of_nobody(service: Api) -> None:
    jobs = [service.submit("alone", input={"text": f"SECRET{number}", "seconds": 1}) for number in range(3)]
    service.started(jobs[0]["id"])
    run(service, "loads")

    for number, job in enumerate(jobs):
        service.done(job["id"])
        log = str(told(service, job))
        assert "weights" not in log
        assert all(f"SECRET{other}" not in log for other in range(3) if other != number)


def test_a_child_that_was_left_is_not_told_of_the_next_jobs(service: Api) -> None:
    run(service, "leaves_a_child", text="SECRET", seconds=0.05)

    jobs = [
        run(service, model, text=f"job {number}", seconds=0.05) for number in range(20) for model in ("shout", "alone")
    ]

    for job in jobs:
        assert job["status"] == "finished"
        assert "SECRET" not in str(told(service, job))


def test_what_c_code_has_buffered_is_its_jobs(service: Api) -> None:
    first = run(service, "buffers", text="half a line")
    second = run(service, "low", text="next", how="printf")

    assert told(service, first) == [("info", "stdout", "half a line")]
    assert told(service, second) == [("info", "stdout", "next")]


# --- what a job does to the streams ---------------------------------------------------------------

SPOILED = ("close", "detach", "rewrap", "rewrap and lose", "reopen", "descriptors", "elsewhere")


@pytest.mark.parametrize("how", [*SPOILED, "string", "none", "encoding", "buffer", "method", "originals"])
def test_a_job_that_spoils_the_streams_spoils_its_own(service: Api, how: str) -> None:
    assert run(service, "spoils", how=how)["status"] == "finished"

    job = run(service, "shout", seconds=0, text="é still")

    assert told(service, job) == [("info", "stdout", "é still"), ("info", "stderr", "é still")]
    assert told(service, run(service, "low", text="low", how="write")) == [("info", "stdout", "low")]
    assert told(service, run(service, "low", text="low", how="stderr")) == [("warning", "stderr", "low")]
    assert told(service, run(service, "low", text="low", how="original")) == [("info", "stdout", "low")]


def test_bytes_may_come_in_halves_of_characters_but_only_from_one_job(service: Api) -> None:
    assert told(service, run(service, "low", text="whole", how="halves")) == [("info", "stdout", "\u20ac whole")]

    run(service, "spoils", how="half a character")

    assert told(service, run(service, "low", text="bytes", how="bytes")) == [("info", "stdout", "bytes")]


def test_a_line_that_has_no_form_in_utf8_is_an_event_and_no_error(service: Api) -> None:
    job = run(service, "surrogate")

    assert job["output"] == "fine"
    assert len(told(service, job)) == 1


# --- the worker's own output ----------------------------------------------------------------------


@pytest.fixture
def reading(deployed: Deployment) -> Iterator[tuple[Api, subprocess.Popen[bytes]]]:
    """A service whose worker writes to a pipe of the test."""
    deployed.write(MODELS)
    api = deployed.web()
    environment = {**deployed.environment, "LOG_LEVEL": "debug"}
    command = [sys.executable, "-m", "service", "worker"]
    worker = subprocess.Popen(
        command, env=environment, cwd=deployed.folder, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )
    served(api)
    yield api, worker
    worker.kill()
    worker.wait()
    if worker.stdout is not None:
        worker.stdout.close()


def test_jobs_print_on_when_the_reader_of_the_worker_has_gone(reading: tuple[Api, subprocess.Popen[bytes]]) -> None:
    api, worker = reading
    assert worker.stdout is not None
    worker.stdout.readline()
    worker.stdout.close()

    for number in range(3):
        job = run(api, "shout", seconds=0, text=f"job {number}")
        assert (job["status"], len(told(api, job))) == ("finished", 2), job
    assert worker.poll() is None


def test_jobs_print_on_when_nobody_reads_and_later_it_is_said_that_lines_were_dropped(
    reading: tuple[Api, subprocess.Popen[bytes]],
) -> None:
    api, worker = reading
    assert worker.stdout is not None

    for _ in range(4):
        assert run(api, "many", lines=500)["output"] == 500
    job = run(api, "shout", seconds=0, text="not lost")

    assert ("info", "stdout", "not lost") in told(api, job)
    os.set_blocking(worker.stdout.fileno(), False)
    while worker.stdout.read(65536):
        pass
    assert run(api, "shout", seconds=0, text="read again")["status"] == "finished"
    seen = b""

    def said() -> None:
        nonlocal seen
        seen += worker.stdout.read(65536) or b""  # type: ignore[union-attr]
        assert b"read again" in seen

    eventually(said)
    assert b"lines were not written here" in seen


def test_what_a_job_prints_is_in_the_workers_output(deployed: Deployment) -> None:
    deployed.write(MODELS)
    worker = deployed.worker()
    api = deployed.web()

    run(api, "shout", seconds=0, text="in Python")
    run(api, "low", text="in C", how="printf")

    log: Path = worker.log  # type: ignore[attr-defined]
    until(lambda: "in Python\n" in log.read_text() and "in C\n" in log.read_text())


def test_a_worker_that_has_no_output_at_all_works(deployed: Deployment) -> None:
    deployed.write(MODELS)
    api = deployed.web()
    command = ["sh", "-c", f"exec {sys.executable} -m service worker >&- 2>&-"]
    worker = subprocess.Popen(command, env=deployed.environment, cwd=deployed.folder)
    deployed.processes.append(worker)
    served(api)

    assert len(told(api, run(api, "shout", text="unheard"))) == 2
    assert told(api, run(api, "low", text="low", how="child")) == [("info", "stdout", "low")]


def test_jobs_go_on_when_the_terminal_stands_still_or_is_closed(deployed: Deployment) -> None:
    deployed.write(MODELS)
    api = deployed.web()
    ours, theirs = pty.openpty()
    command = [sys.executable, "-m", "service", "worker"]
    worker = subprocess.Popen(command, env=deployed.environment, cwd=deployed.folder, stdout=theirs, stderr=theirs)
    deployed.processes.append(worker)
    os.close(theirs)
    served(api)
    for _ in range(2):
        assert run(api, "many", lines=500)["output"] == 500
    os.close(ours)
    job = run(api, "shout", seconds=0, text="closed")
    assert (job["status"], len(told(api, job))) == ("finished", 2)
    worker.send_signal(signal.SIGTERM)
    worker.wait(30)
