"""`python -m service run`: a model on a terminal, without Redis."""

from __future__ import annotations

import json
import os
import pty
import re
import select
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from tests.deployment import ROOT, Api, until

MODELS = """
    import asyncio, ctypes, logging, os, signal, sys, threading, time
    from collections.abc import AsyncIterator, Iterator
    from enum import Enum
    from typing import Annotated, Any
    from pydantic import AfterValidator, BaseModel, Field
    from service import Fatal, Retry, job, jobs, model, progress

    class Size(Enum):
        small = "small"
        large = "large"

    class Point(BaseModel):
        x: float

    @model(version="v3", retries=2)
    def plain(x: int, y: int = 2, size: Size = Size.small, point: Point | None = None) -> dict[str, Any]:
        print("printed")
        print("to stderr", file=sys.stderr)
        logging.getLogger("mine").info("logged")
        os.system("echo from a child")
        for _ in progress(range(3), message="counting"):
            pass
        progress.update(1, "done", loss=0.5)
        return {"x": x, "y": y, "size": size, "point": point}

    @model
    def text(value: str, other: str | None = None) -> list[Any]:
        return [value, other]

    @model
    def anything(value: Any) -> Any:
        return value

    @model
    class Warm:
        def setup(self) -> None:
            self.setups = getattr(self, "setups", 0) + 1

        def predict(self) -> list[Any]:
            return [self.setups, os.getpid()]

    @model
    def counts(to: int) -> Iterator[int]:
        yield from range(to)

    @model
    def spells(word: str) -> Iterator[str]:
        yield from word

    @model
    async def waits(x: int) -> int:
        await asyncio.sleep(0.01)
        return x + 1

    @model
    async def streams(to: int) -> AsyncIterator[int]:
        for number in range(to):
            yield number

    @model(max_batch_size=8)
    def together(x: list[int]) -> list[Any]:
        return [[each, of.model, len(jobs)] for each, of in zip(x, jobs, strict=True)]

    @model(timeout=77, version="v1")
    def knows() -> list[Any]:
        return [job.id, job.attempt, job.retries_left, job.metadata, job.model, job.version, round(job.deadline, -1)]

    @model(timeout=1)
    def too_long(seconds: float = 60) -> str:
        try:
            time.sleep(seconds)
        finally:
            print("left", job.stopping)
        return "in time"

    @model(timeout=1)
    async def too_long_async() -> None:
        try:
            await asyncio.sleep(60)
        finally:
            print("left", job.stopping)

    @model(timeout=1)
    def never_leaves() -> None:
        signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGUSR1])  # as C code that goes on when a call was interrupted
        ctypes.CDLL(None).usleep(50_000_000)

    def _even(value: int) -> int:
        if value % 2:
            raise ValueError("it is odd")
        return value

    @model
    def even(x: Annotated[int, AfterValidator(_even)]) -> int:
        return x

    @model
    def fails(how: str) -> int:
        if how == "exit":
            sys.exit(3)
        if how == "output":
            return "no number"
        raise {"value": ValueError, "fatal": Fatal, "retry": Retry}[how]("the reason")

    @model
    def rude(what: str) -> str:
        if what == "stderr":
            sys.stderr.close()
        elif what == "stdout":
            sys.stdout.close()
        elif what == "none":
            sys.stdout = sys.stderr = None
        elif what == "stdin":
            os.close(0)
        return "done"

    @model
    def leaves_a_thread() -> str:
        def go_on() -> None:
            while not job.stopping:
                time.sleep(0.01)
        threading.Thread(target=go_on).start()
        return job.id

    @model
    class NoSetup:
        def setup(self) -> None:
            raise OSError("no weights")

        def predict(self) -> None:
            pass
"""


@pytest.fixture
def jobs_dir(tmp_path: Path) -> Path:
    folder = tmp_path / "models"
    folder.mkdir()
    lines = MODELS.splitlines()
    (folder / "models.py").write_text("\n".join(line[4:] for line in lines))
    return folder


def environment(jobs_dir: Path, **more: str) -> dict[str, str]:
    clean = {name: value for name, value in os.environ.items() if name not in ("REDIS_URL", "JOBS_DIR")}
    return {**clean, "JOBS_DIR": str(jobs_dir), "PYTHONPATH": str(ROOT), "PYTHONIOENCODING": "utf-8", **more}


def run(jobs_dir: Path, *words: str, stdin: str = "", **more: str) -> subprocess.CompletedProcess[str]:
    """What the command says."""
    return subprocess.run(
        [sys.executable, "-m", "service", "run", *words],
        env=environment(jobs_dir, **more),
        cwd=jobs_dir,
        input=stdin,
        capture_output=True,
        text=True,
        timeout=120,
    )


def output(jobs_dir: Path, *words: str, **more: Any) -> Any:
    done = run(jobs_dir, *words, **more)
    assert done.returncode == 0, done.stderr
    (line,) = done.stdout.splitlines()
    return json.loads(line)


def test_the_output_alone_is_on_standard_output_and_all_else_on_the_other(jobs_dir: Path) -> None:
    done = run(jobs_dir, "plain", "x=1")

    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == {"x": 1, "y": 2, "size": "small", "point": None}
    for told in ("printed", "to stderr", "INFO mine: logged", "from a child", "counting", "3/3", "100% done loss=0.5"):
        assert told in done.stderr
    assert re.search(r"import \d.*setup \d.*predict \d.* memory \d+ MB", done.stderr)


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["plain", "x=1", "size=large", 'point={"x": 2.5}'], {"x": 1, "y": 2, "size": "large", "point": {"x": 2.5}}),
        (["text", "value=5"], ["5", None]),
        (["text", "value=true", "other=null"], ["true", None]),
        (["text", "value=", "other=a=b c"], ["", "a=b c"]),
        (["text", "value=[1"], ["[1", None]),
        (["text", "value=NaN"], ["NaN", None]),
        (["text", "value=grüße \N{SNOWMAN}"], ["grüße \N{SNOWMAN}", None]),
        (["anything", "value=5"], 5),
        (["anything", 'value={"a": [1, null]}'], {"a": [1, None]}),
        (["anything", "value=-0.5e3"], -500.0),
        (["anything", "value=word"], "word"),
        (["warm"], None),
        (["counts", "to=3"], [0, 1, 2]),
        (["spells", "word=aé"], "aé"),
        (["waits", "x=1"], 2),
        (["streams", "to=2"], [0, 1]),
        (["together", "x=4"], [4, "together", 1]),
    ],
    ids=str,
)
def test_every_kind_of_model_and_of_value(jobs_dir: Path, words: list[str], expected: Any) -> None:
    found = output(jobs_dir, *words)

    assert found[0] == 1 if words == ["warm"] else found == expected


def test_what_a_generator_yields_is_seen_as_it_comes(jobs_dir: Path) -> None:
    assert "output 0\noutput 1\n" in run(jobs_dir, "counts", "to=2").stderr


def test_a_model_knows_its_job_here_too(jobs_dir: Path) -> None:
    job_id, *others = output(jobs_dir, "knows")

    assert re.fullmatch(r"[0-9a-f-]{36}", job_id)
    assert others == [1, 0, None, "knows", "v1", 80]


def test_input_comes_from_a_file_or_standard_input_and_words_go_before_it(jobs_dir: Path) -> None:
    file = jobs_dir / "input.json"
    file.write_text('{"x": 5, "y": 6}')

    assert output(jobs_dir, "plain", "--input", str(file))["x"] == 5
    assert output(jobs_dir, "plain", "--input", str(file), "x=7") == {"x": 7, "y": 6, "size": "small", "point": None}
    assert output(jobs_dir, "plain", "-", stdin='{"x": 8}')["x"] == 8
    assert output(jobs_dir, "plain", "y=1", "--input", "-", stdin='{"x": 9}')["y"] == 1


@pytest.mark.parametrize(
    ("words", "code", "reason"),
    [
        (["nothing", "x=1"], 1, "error: no model nothing in "),
        (["nothing"], 1, "there are anything, counts, even"),
        (["plain", "x"], 2, "error: 'x' is no name=value"),
        (["plain", "=1"], 2, "error: '=1' is no name=value"),
        (["plain", "x=1", "x=2"], 2, "error: x is given twice"),
        (["plain", "--input", "missing.json"], 1, "error: missing.json cannot be read (No such file or directory)"),
        (["plain", "--input", "."], 1, "error: . cannot be read (Is a directory)"),
        (["plain", "--input", "models.py"], 1, "error: models.py is not JSON: "),
        (["plain", "-"], 1, "error: standard input is not JSON: "),
        (["plain", "--fresh", "0"], 2, "'0' is not a number from 1 to 256"),
        (["plain", "--timeout", "soon"], 2, "'soon' is no number of seconds"),
        (["plain", "--nothing", "x=1"], 2, "--nothing"),
        ([], 2, "MODEL"),
    ],
)
def test_what_is_asked_wrongly_is_said_in_a_line(jobs_dir: Path, words: list[str], code: int, reason: str) -> None:
    done = run(jobs_dir, *words)

    assert done.returncode == code
    assert reason in done.stderr
    assert "Traceback" not in done.stderr
    assert done.stdout == ""


@pytest.mark.parametrize(
    "value",
    [{}, {"x": "a"}, {"x": 1, "z": 2, "q": 3}, {"x": 1.5}, {"x": 1, "size": "huge"}, {"x": 1, "point": {"x": "a"}}, []],
    ids=str,
)
def test_an_input_is_refused_with_the_words_of_a_submit(service: Api, jobs_dir: Path, value: Any) -> None:
    refusal = service.post("plain", input=value)

    done = run(jobs_dir, "plain", "-", stdin=json.dumps(value))

    assert refusal.status_code == 422
    assert done.returncode == 1
    assert f"error: {refusal.json()['detail']}\n" in done.stderr
    for each in refusal.json()["errors"][1:]:
        assert f"  {each['pointer']}: {each['detail']}\n" in done.stderr


@pytest.mark.parametrize(
    "words", [["even", "x=3"], *(["fails", f"how={how}"] for how in ("exit", "output", "value", "fatal", "retry"))]
)
def test_a_failure_is_said_with_the_words_of_the_jobs_error(service: Api, jobs_dir: Path, words: list[str]) -> None:
    value = {name: int(text) if text.isdigit() else text for name, _, text in [words[1].partition("=")]}
    error = service.done(service.submit(words[0], input=value, retries=0)["id"])["error"]

    done = run(jobs_dir, *words)

    assert done.returncode == 1
    assert f"error: {error['type']}: {error['message']}\n" in done.stderr
    assert done.stdout == ""


def test_a_traceback_begins_with_the_authors_code(jobs_dir: Path) -> None:
    done = run(jobs_dir, "fails", "how=value")

    _, traceback = done.stderr.split("Traceback (most recent call last):\n")
    assert traceback.splitlines()[0].endswith("in fails")
    assert "service/" not in traceback


def test_a_setup_that_fails_says_so(jobs_dir: Path) -> None:
    done = run(jobs_dir, "no_setup")

    assert done.returncode == 1
    assert "in setup" in done.stderr
    assert "error: setup_failed: OSError: no weights\n" in done.stderr


def test_a_file_that_cannot_be_imported_is_told_with_its_line(jobs_dir: Path) -> None:
    (jobs_dir / "broken.py").write_text("from service import model\n\nimport nothing_like_this\n")

    done = run(jobs_dir, "broken")

    assert done.returncode == 1
    assert 'broken.py", line 3' in done.stderr
    assert "No module named 'nothing_like_this'" in done.stderr.splitlines()[-1]
    assert output(jobs_dir, "waits", "x=1") == 2  # the others run


def test_only_the_files_that_are_needed_are_imported(jobs_dir: Path) -> None:
    (jobs_dir / "aaa.py").write_text("print('imported for nothing')\n")
    (jobs_dir / "zzz.py").write_text("from service import model\n@model\ndef zzz() -> int:\n    return 1\n")

    assert "for nothing" not in run(jobs_dir, "zzz").stderr


@pytest.mark.parametrize("model", ["too_long", "too_long_async"])
def test_a_timeout_lets_finally_run_and_fails(jobs_dir: Path, model: str) -> None:
    done = run(jobs_dir, model)

    assert done.returncode == 1
    assert "left True\n" in done.stderr
    assert done.stderr.endswith("error: timeout: the job ran for longer than its timeout of 1 s\n")


def test_a_model_that_does_not_leave_is_ended(jobs_dir: Path) -> None:
    done = run(jobs_dir, "never_leaves", STOP_GRACE="0.5")

    assert done.returncode == 1
    assert "did not leave within STOP_GRACE" in done.stderr


@pytest.mark.parametrize("timeout", ["0", "60"])
def test_the_limit_can_be_chosen(jobs_dir: Path, timeout: str) -> None:
    assert output(jobs_dir, "too_long", "seconds=1.5", "--timeout", timeout) == "in time"


def test_output_is_limited_as_in_the_service(jobs_dir: Path) -> None:
    done = run(jobs_dir, "anything", f'value="{"x" * 2000}"', MAX_OUTPUT_BYTES="1024")

    assert done.returncode == 1
    assert "error: output_too_large: " in done.stderr


@pytest.mark.parametrize("what", ["stderr", "stdout", "none", "stdin"])
def test_a_model_that_spoils_its_streams_still_gives_its_output(jobs_dir: Path, what: str) -> None:
    done = run(jobs_dir, "rude", f"what={what}")

    assert (done.returncode, done.stdout) == (0, '"done"\n'), done.stderr
    assert re.search(r"predict \d", done.stderr)


def test_a_thread_that_is_left_sees_that_its_job_is_over(jobs_dir: Path) -> None:
    assert len(output(jobs_dir, "leaves_a_thread")) == 36  # and the command ends


def test_fresh_runs_are_processes_of_their_own_with_time_and_memory(jobs_dir: Path) -> None:
    done = run(jobs_dir, "warm", "--fresh", "3")

    assert done.returncode == 0, done.stderr
    outputs = [json.loads(line) for line in done.stdout.splitlines()]
    assert [setups for setups, _ in outputs] == [1, 1, 1]
    assert len({pid for _, pid in outputs}) == 3
    for number in (1, 2, 3):
        assert re.search(rf"^run {number} of 3: \d+\.\d\d s, \d+ MB, exit code 0$", done.stderr, re.MULTILINE)
    assert re.search(r"^3 runs: [\d.]+ \([\d.]+-[\d.]+\) s, \d+ \(\d+-\d+\) MB", done.stderr, re.MULTILINE)


def test_fresh_runs_all_get_what_standard_input_has_and_end_with_the_first_that_fails(jobs_dir: Path) -> None:
    done = run(jobs_dir, "plain", "-", "--fresh", "2", stdin='{"x": 3}')
    assert [json.loads(line)["x"] for line in done.stdout.splitlines()] == [3, 3], done.stderr

    done = run(jobs_dir, "fails", "how=value", "--fresh", "3")
    assert done.returncode == 1
    assert "run 2 of 3" not in done.stderr


def test_ctrl_c_lets_finally_run(jobs_dir: Path, tmp_path: Path) -> None:
    log = tmp_path / "log"
    with log.open("wb") as file:
        process = subprocess.Popen(
            [sys.executable, "-u", "-m", "service", "run", "too_long", "--timeout", "0"],
            env=environment(jobs_dir),
            stderr=file,
            stdout=subprocess.DEVNULL,
            start_new_session=True,
        )
    time.sleep(3)  # nothing says that it sleeps
    process.send_signal(signal.SIGINT)

    assert process.wait(30) == 130
    assert "left True" in log.read_text()


class Terminal:
    """A command on a terminal of its own."""

    def __init__(self, jobs_dir: Path, *words: str, **streams: Any) -> None:
        self.master, slave = pty.openpty()
        given = {"stdin": slave, "stdout": slave, **streams}
        self.process = subprocess.Popen(
            [sys.executable, "-m", "service", "run", *words],
            env=environment(jobs_dir, TERM="dumb"),
            stderr=slave,
            start_new_session=True,
            **given,
        )
        os.close(slave)
        self.shown = ""

    def expect(self, text: str, within: float = 40.0) -> None:
        """Wait until it has shown a text."""

        def look() -> bool:
            while select.select([self.master], [], [], 0)[0]:
                try:
                    self.shown += os.read(self.master, 65536).decode()
                except OSError:  # it has ended
                    break
            return text in self.shown

        until(look, within)

    def type(self, text: str) -> None:
        os.write(self.master, text.encode())

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
        os.close(self.master)


DEBUGGED = """
import pdb, time
from service import model

@model(timeout=1)
def looked_at(x: int, how: str = "breakpoint") -> int:
    secret = x * 6
    if how == "breakpoint":
        breakpoint()
    else:
        pdb.set_trace()
    time.sleep(0.1)
    return secret

@model(timeout=1)
async def looked_at_async(x: int) -> int:
    secret = x * 6
    breakpoint()
    return secret
"""


@pytest.mark.parametrize("words", [["looked_at", "x=7"], ["looked_at", "x=7", "how=pdb"], ["looked_at_async", "x=7"]])
def test_a_breakpoint_opens_a_debugger_on_the_terminal_with_all_the_time_there_is(
    jobs_dir: Path, words: list[str]
) -> None:
    (jobs_dir / "looked_at.py").write_text(DEBUGGED)
    terminal = Terminal(jobs_dir, *words)
    try:
        terminal.expect("(Pdb) ")
        time.sleep(2)  # longer than its timeout
        terminal.type("p secret * 1000\n")
        terminal.expect("42000")
        terminal.type("c\n")
        terminal.expect("\n42\r\n")
        assert terminal.process.wait(30) == 0
    finally:
        terminal.close()


def test_a_debugger_works_though_the_output_goes_into_a_file(jobs_dir: Path, tmp_path: Path) -> None:
    (jobs_dir / "looked_at.py").write_text(DEBUGGED)
    with (tmp_path / "output").open("wb") as file:
        terminal = Terminal(jobs_dir, "looked_at", "x=7", stdout=file)
    try:
        terminal.expect("(Pdb) ")
        terminal.type("q\n")
        assert terminal.process.wait(30) == 1
        terminal.expect("left by the debugger")
        assert "Traceback" not in terminal.shown
    finally:
        terminal.close()
    assert (tmp_path / "output").read_text() == ""


def test_a_reader_of_the_output_may_leave(jobs_dir: Path) -> None:
    command = f"{sys.executable} -m service run counts to=100000 2>/dev/null | head -c 5"

    done = subprocess.run(
        ["bash", "-c", command], env=environment(jobs_dir), capture_output=True, text=True, timeout=60
    )

    assert done.stdout == "[0, 1"


def test_it_works_without_standard_streams_and_says_when_the_output_cannot_be_written(jobs_dir: Path) -> None:
    command = f"exec {sys.executable} -m service run plain x=1"

    def code(redirected: str) -> tuple[int, str]:
        done = subprocess.run(
            ["/bin/sh", "-c", f"{command} {redirected}"],
            env=environment(jobs_dir),
            cwd=jobs_dir.parent,
            capture_output=True,
            text=True,
            timeout=120,
        )
        return done.returncode, done.stdout + done.stderr

    assert code(">&-")[0] == 0
    assert code("2>&-")[0] == 0
    assert code("<&-")[0] == 0
    full, said = code(">/dev/full")
    assert full == 1
    assert "error: the output cannot be written: No space left on device" in said


def test_a_forked_child_that_returns_prints_no_output(jobs_dir: Path) -> None:
    (jobs_dir / "forks.py").write_text(
        "import os\nfrom service import model\n@model\ndef forks() -> int:\n    os.fork()\n    return 1\n"
    )

    assert run(jobs_dir, "forks").stdout == "1\n"


def test_a_secret_is_not_quoted_when_it_is_refused(jobs_dir: Path) -> None:
    (jobs_dir / "login.py").write_text(
        "from pydantic import SecretStr\nfrom service import model\n"
        "@model\ndef login(keys: list[SecretStr]) -> int: ...\n"
    )

    done = run(jobs_dir, "login", "keys=hunter2")

    assert done.returncode == 1
    assert "hunter2" not in done.stdout + done.stderr


def test_where_c_code_has_crashed_is_told(jobs_dir: Path) -> None:
    (jobs_dir / "falls.py").write_text(
        "import ctypes\nfrom service import model\n@model\ndef falls() -> int:\n    ctypes.string_at(0)\n"
    )

    assert 'falls.py", line 5 in falls' in run(jobs_dir, "falls").stderr
