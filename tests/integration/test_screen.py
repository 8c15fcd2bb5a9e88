"""What an author sees on the terminal where `up` runs, and what `up` reads from .env."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from service.cli.env_file import InvalidEnvFile, load
from tests.deployment import Deployment, deployment, free_port, until
from tests.screen import Screen

MODELS = """
    import os
    from service import model

    def inner(x):
        raise ValueError(f"too small: {x} \\x1b[31m")

    @model
    def fails(x: int) -> str:
        inner(x)

    @model
    def reads(name: str) -> str:
        return os.environ[name]
"""


@pytest.fixture
def laptop(tmp_path: Path) -> Iterator[Deployment]:
    with deployment(tmp_path, "") as each:
        each.write(MODELS)
        yield each


@pytest.fixture
def screens(laptop: Deployment) -> Iterator[list[Screen]]:
    each: list[Screen] = []
    yield each
    for screen in each:
        screen.end()


def test_the_screen_shows_what_is_wrong_and_where(laptop: Deployment, screens: list[Screen]) -> None:
    port = free_port()
    laptop.write("x = 1\ndef f(:\n", "broken.py")
    laptop.write("x = 1\n", "tools.py")
    (laptop.folder / ".env").write_text(f"PORT={port}\nOF_THE_MODEL='a secret of it'\nHOST=${{NOWHERE:-127.0.0.1}}\n")
    screens.append(screen := Screen(laptop, "up"))
    until(lambda: "Ctrl-C ends it" in screen.text, 60)
    api = laptop.api(port)

    assert "broken cannot be served: SyntaxError: invalid syntax (broken.py, line 2)" in screen.text
    assert "tools.py declares no model" in screen.text
    assert api.submit("reads", wait=20, input={"name": "OF_THE_MODEL"})["output"] == "a secret of it"

    job = api.submit("fails", input={"x": 1})
    assert api.done(job["id"])["status"] == "failed"
    until(lambda: "  ValueError: too small: 1" in screen.text)
    after = screen.text[screen.text.index(job["id"]) :].splitlines()
    assert after[1] == "  Traceback (most recent call last):"
    assert after[2].endswith('models.py", line 10, in fails')
    assert after[3] == "      inner(x)"
    assert after[-1].startswith("  ValueError: too small: 1 \\x1b[31m")
    assert "\x1b" not in screen.text
    api.http.delete(f"/v1/jobs/{job['id']}")
    until(lambda: f"operation=erase on={job['id']}" in screen.text)


def test_the_real_environment_wins(tmp_path: Path) -> None:
    file = tmp_path / ".env"
    file.write_text("export A=file\nB='of the file'\nC=${B}, too\n# D=1\n")
    environment = {"A": "real"}

    load(file, environment)

    assert environment == {"A": "real", "B": "of the file", "C": "of the file, too"}
    load(tmp_path / "none", environment)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (b"A=1\n\nB\n", "line 3: expected NAME=value"),
        (b"A=1\nB='open\nC=2\n", "line 2: expected NAME=value"),
        (b"<html>\n", "line 1: expected NAME=value"),
        (b"A=1\nB=\0\n", "line 2: expected NAME=value"),
        (b"A=1\nB=\xff\n", "line 2: it is not UTF-8"),
        (b"A=" + 2**20 * b"x", "has more than 1048576 bytes"),
    ],
)
def test_an_odd_file_is_told_in_a_line_without_its_secrets(tmp_path: Path, text: bytes, said: str) -> None:
    (tmp_path / ".env").write_bytes(text)
    environment: dict[str, str] = {}

    with pytest.raises(InvalidEnvFile, match=said):
        load(tmp_path / ".env", environment)

    assert environment == {}


def a_folder(path: Path) -> None:
    path.mkdir()


def a_pipe(path: Path) -> None:
    os.mkfifo(path)


def a_lost_link(path: Path) -> None:
    path.symlink_to("nowhere")


@pytest.mark.parametrize("make", [a_folder, a_pipe, a_lost_link])
def test_up_ends_with_one_line_if_it_cannot_be_read(laptop: Deployment, make: Any) -> None:
    make(laptop.folder / ".env")

    done = subprocess.run(
        [sys.executable, "-m", "service", "up"],
        env=laptop.environment,
        cwd=laptop.folder,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )

    assert (done.returncode, done.stdout) == (1, "")
    (line,) = done.stderr.splitlines()
    assert line.startswith("error: .env is ")
