"""A model whose libraries are missing: what its author is told to do works, and is noticed."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from service.registry import find_models
from tests.deployment import deployment, eventually, free_port, until

WANTS = """
    import no_such_library_yet
    from service import model

    @model
    def sales(x: int) -> int:
        return no_such_library_yet.double(x)
"""


def said(folder: Path, **files: str) -> str:
    for name, text in files.items():
        (folder / name.replace("__", ".")).write_text(text)
    (broken,) = find_models(folder)[1]
    return broken.error


def test_the_advice_is_a_command_for_this_python_and_that_file(tmp_path: Path) -> None:
    error = said(tmp_path, sales__py="import no_such_library_yet", sales__requirements__txt="")
    (command,) = re.findall("`(.*?)`", error)

    subprocess.run(command.split(), check=True, timeout=60, capture_output=True)  # of an empty list

    assert error.startswith("ModuleNotFoundError: No module named 'no_such_library_yet' (sales.py, line 1): ")
    assert command == f"{command.split()[0]} -m pip install -r {tmp_path}/sales.requirements.txt"
    assert os.path.samefile(command.split()[0], sys.executable)


def test_with_a_lock_that_is_installed_as_it_is(tmp_path: Path) -> None:
    error = said(
        tmp_path, sales__py="import no_such_library_yet", sales__requirements__txt="", sales__requirements__lock=""
    )

    assert f"-m pip install --no-deps -r {tmp_path}/sales.requirements.lock`" in error


def test_without_a_list_it_says_where_to_make_one(tmp_path: Path) -> None:
    error = said(tmp_path, sales__py="import no_such_library_yet.part")

    assert f": list what has no_such_library_yet in {tmp_path}/sales.requirements.txt, and install that with" in error


@pytest.mark.parametrize(
    "text", ["from jobs._no import x", "import json.nothing", "from json import nothing", "import pydantic.nothing"]
)
def test_what_no_installation_would_mend_gets_no_such_advice(tmp_path: Path, text: str) -> None:
    assert "pip" not in said(tmp_path, sales__py=text, sales__requirements__txt="")


@pytest.fixture
def makefile(tmp_path: Path, project: Path) -> Path:
    """A project with our Makefile, in which pip only says how it was called."""
    shutil.copy(project / "Makefile", tmp_path)
    for name in ("requirements.txt", "requirements.lock"):
        (tmp_path / name).touch()
    binaries = tmp_path / ".venv/bin"
    binaries.mkdir(parents=True)
    pip = binaries / "pip"
    pip.write_text('#!/bin/sh\necho "pip $@" >> pip.log\n')
    pip.chmod(0o755)
    (binaries / "python").symlink_to(sys.executable)
    (tmp_path / "jobs").mkdir()
    for name in ("sales.requirements.txt", "eval.requirements.txt", "eval.requirements.lock"):
        (tmp_path / "jobs" / name).touch()
    make(tmp_path, ".venv/ready")
    (tmp_path / "pip.log").write_text("")
    return tmp_path


def make(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("MAKE", "MFLAGS"))}
    return subprocess.run(
        ["make", *arguments], cwd=folder, capture_output=True, text=True, timeout=60, env=environment, check=False
    )


QUIET = "pip install --quiet --disable-pip-version-check"
SALES, EVAL = "-r jobs/sales.requirements.txt -c requirements.lock", "--no-deps -r jobs/eval.requirements.lock"


@pytest.mark.parametrize(
    ("arguments", "calls"),
    [
        (["models"], [EVAL, SALES]),
        (["models", "M=sales"], [SALES]),
        (["models", "M=sales eval"], [SALES, EVAL]),
    ],
)
def test_make_models_installs_what_the_lists_say(makefile: Path, arguments: list[str], calls: list[str]) -> None:
    made = make(makefile, *arguments)

    assert made.returncode == 0, made.stderr
    assert (makefile / "pip.log").read_text().splitlines() == [f"{QUIET} {call}" for call in calls]


def test_make_models_of_one_that_has_no_list_says_so(makefile: Path) -> None:
    made = make(makefile, "models", "M=nobody")

    assert made.returncode != 0
    assert "error: there is no jobs/nobody.requirements.txt" in made.stderr


def test_reload_notices_that_they_were_installed(tmp_path: Path) -> None:
    libraries = tmp_path / "libraries"
    libraries.mkdir()
    with deployment(tmp_path, "") as laptop:
        laptop.write(WANTS, "sales.py")
        laptop.write("no-such-library-yet\n", "sales.requirements.txt")
        laptop.environment["PYTHONPATH"] += f":{libraries}"
        process = laptop.run("up", "--reload", PORT=str(port := free_port()), LOG_LEVEL="warning")
        api = laptop.api(port)
        log: Path = process.log  # type: ignore[attr-defined]
        until(lambda: "Ctrl-C ends it" in log.read_text(), 60)
        assert "sales: not without its libraries, which `make models M=sales` installs" in log.read_text()
        assert "not served without their libraries" in log.read_text()

        (libraries / "no_such_library_yet.py").write_text("def double(x): return 2 * x\n")
        (libraries / "no_such_library_yet-1.0.dist-info").mkdir()

        eventually(lambda: _ready(api.http.get("/v1/models/sales").json()), 60)
        assert api.submit("sales", wait=20, input={"x": 4})["output"] == 8
        process.terminate()
        process.wait(timeout=60)


def _ready(model: dict[str, object]) -> None:
    assert model.get("ready"), model  # not there while the worker starts again
