"""What docs/models.md shows an author is run: its models, its commands and its tests."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from service.model import Model
from service.registry import find_models
from tests.deployment import ROOT

TEXT = (ROOT / "docs" / "models.md").read_text()


@pytest.fixture
def project_of_an_author(tmp_path: Path) -> Path:
    """A folder with the models of the page, each in a file that is called as it is, and its tests."""
    (tmp_path / "jobs").mkdir()
    for code in re.findall(r"```python\n(.*?)```", TEXT, re.DOTALL):
        if named := re.match(r"# (test_\w+\.py)\n", code):
            (tmp_path / named[1]).write_text(code)
        else:
            ((_, name),) = re.findall(r"@model.*\n(def|class) (\w+)", code)
            (tmp_path / "jobs" / f"{name.lower()}.py").write_text(code)
    return tmp_path


def environment() -> dict[str, str]:
    unwanted = ("REDIS_URL", "JOBS_DIR", "PORT", "HOST")
    return {**{name: value for name, value in os.environ.items() if name not in unwanted}, "PYTHONPATH": str(ROOT)}


def test_the_tests_that_the_page_shows_pass(project_of_an_author: Path) -> None:
    assert len(list(project_of_an_author.glob("test_*.py"))) == 2

    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-W", "error", "-p", "no:cacheprovider"],
        cwd=project_of_an_author,
        env=environment(),
        capture_output=True,
        text=True,
        timeout=150,
    )

    assert done.returncode == 0, done.stdout
    assert "6 passed" in done.stdout


def test_the_commands_that_the_page_shows_say_what_it_shows(project_of_an_author: Path) -> None:
    (block,) = re.findall(r"<!-- run -->\n```console\n(.*?)```", TEXT, re.DOTALL)
    commands = re.findall(r"^\$ (.*)\n((?:(?!\$ ).*\n)*)", block, re.MULTILINE)
    assert len(commands) == 3

    for command, shown in commands:
        done = subprocess.run(
            ["bash", "-c", command.replace(".venv/bin/python", sys.executable)],
            cwd=project_of_an_author,
            env=environment(),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=60,
        )
        assert done.stdout == shown, command


def test_the_model_that_charges_does_so_once(project_of_an_author: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from service.testing import run

    monkeypatch.chdir(project_of_an_author)
    charge: Model = find_models(project_of_an_author / "jobs")[0]["charge"].model

    outputs = [
        run(charge, {"user": "ada", "cents": cents}, id=job_id, attempt=attempt).output
        for job_id, cents, attempt in (("a", 5, 1), ("a", 5, 2), ("b", 3, 1))
    ]

    assert outputs == [5, 5, 8]
