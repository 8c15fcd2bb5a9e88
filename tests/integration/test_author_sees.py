"""What an author sees of what is wrong: on the terminal where `up --reload` runs, and the same over HTTP."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.deployment import Api, Deployment, deployment, eventually, free_port, until
from tests.screen import Screen

GOOD = """
    from service import model

    def inner(x):
        raise ValueError(f"too small: {x}")

    @model
    def fails(x: int) -> int:
        if x < 0:
            inner(x)
        return x + 1

    @model
    class NotLoaded:
        def setup(self):
            inner(0)

        def predict(self, x: int) -> int:
            return x
"""
WRONG = {
    "broken": ("x = 1\ndef f(:\n", "SyntaxError: invalid syntax (broken.py, line 2)"),
    "raises": ("from service import model\n\nraise KeyError('gone')\n", "KeyError: 'gone' (raises.py, line 3)"),
    "lacks": ("import no_such_library_yet\n", "no_such_library_yet"),
    "misspelt": (
        "from service import model\n@model(retry=2)\ndef misspelt() -> int: ...\n",
        "@model has no option retry: did you mean retries?",
    ),
    "second": (
        "from service import model\n@model\ndef fails() -> int: ...\n",
        "is declared in models.py already",
    ),
}
"""Files, and what is said of each: in its line on the screen, in the warnings, and with the model."""
STARTS = 90.0
SEEN = 60.0


@pytest.fixture(scope="module")
def laptop(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Deployment]:
    with deployment(tmp_path_factory.mktemp("author"), "") as each:
        each.write(GOOD)
        for name, (text, _) in WRONG.items():
            each.write(text, f"{name}.py")
        each.write("def helper(): ...\n", "tools.py")
        each.write("", "lacks.requirements.txt")
        (each.jobs_dir / "more").mkdir()
        each.write("from service import model\n@model\ndef below() -> int: ...\n", "more/below.py")
        yield each


@pytest.fixture(scope="module")
def screen(laptop: Deployment) -> Iterator[Screen]:
    laptop.environment["PORT"] = str(free_port())
    (laptop.folder / ".env").write_text(f"PORT={laptop.environment['PORT']}\n")
    each = Screen(laptop, "up", "--reload")
    try:
        until(lambda: "Ctrl-C ends it" in each.text or each.process.poll() is not None, STARTS)
        assert each.process.poll() is None, each.text
        yield each
    finally:
        each.end()


@pytest.fixture(scope="module")
def api(laptop: Deployment, screen: Screen) -> Api:
    return laptop.api(int(laptop.environment["PORT"]))


def shows(screen: Screen, *parts: str) -> list[str]:
    """The screen's lines, from the first that has all these parts, once there is one."""

    def check() -> list[str]:
        lines = screen.text.splitlines()
        numbers = [number for number, line in enumerate(lines) if all(part in line for part in parts)]
        assert numbers, screen.text
        return lines[numbers[0] :]

    return eventually(check, SEEN)


@pytest.mark.parametrize("name", WRONG)
def test_a_file_that_is_not_served_is_told_on_the_screen_and_over_http(screen: Screen, api: Api, name: str) -> None:
    said = WRONG[name][1]

    shows(screen, said, name)
    for path in ("/readyz", "/v1/models"):
        warnings = api.http.get(path).json()["warnings"]
        assert any(name in each and said in each for each in warnings), warnings
    model = api.http.get(f"/v1/models/{name}", params={"include": "traceback"}).json()
    assert (model["state"], model["ready"]) == ("failed", False)
    assert said in model["error"]
    if name in ("broken", "raises"):
        assert f'{name}.py", line' in model["traceback"]
    assert "traceback" not in api.http.get(f"/v1/models/{name}").json()


@pytest.mark.parametrize("said", ["tools.py declares no model", "more: move its model files to"])
def test_what_is_passed_over_is_told_too(screen: Screen, api: Api, said: str) -> None:
    shows(screen, said)
    assert any(said in each for each in api.http.get("/readyz").json()["warnings"])


def test_a_missing_library_is_told_with_the_command_that_installs_it(screen: Screen, api: Api) -> None:
    shows(screen, "lacks: not without its libraries, which `make models M=lacks` installs")
    assert "-m pip install -r" in api.http.get("/v1/models/lacks").json()["error"]


@pytest.mark.parametrize(("model", "last"), [("fails", "ValueError: too small: -1"), ("not_loaded", "too small: 0")])
def test_why_a_job_failed_is_on_the_screen_in_its_events_and_with_the_attempt(
    screen: Screen, api: Api, model: str, last: str
) -> None:
    job = api.done(api.submit(model, input={"x": -1})["id"])
    assert job["status"] == "failed"

    lines = shows(screen, job["id"], "job failed")
    assert lines[1] == "  Traceback (most recent call last):"
    assert 'models.py", line ' in lines[2]
    shows(screen, last)
    shown: Any = api.http.get(f"/v1/jobs/{job['id']}", params={"include": "traceback"}).json()
    (traceback,) = [each["traceback"] for each in shown["attempts"]]
    assert last in traceback
    assert 'models.py", line ' in traceback.splitlines()[1]
    events = [each for each in api.log(job["id"]) if each["type"] in ("log", "failed")]
    assert [each["type"] for each in events] == ["log", "failed"]
    assert events[0]["data"] == {"level": "error", "logger": "service", "message": traceback}
    assert "traceback" not in str(api.job(job["id"])["attempts"])


def test_an_error_in_a_changed_file_is_told_with_its_line_and_the_old_one_serves_until_it_is_mended(
    screen: Screen, api: Api, laptop: Deployment
) -> None:
    path: Path = laptop.jobs_dir / "models.py"
    good = path.read_text()

    path.write_text(good + "\nmissing_name\n")

    shows(screen, "not reloaded", f"models.py, line {len(good.splitlines()) + 2}")
    assert api.submit("fails", wait=30, input={"x": 1})["output"] == 2
    path.write_text(good.replace("x + 1", "x + 5"))
    eventually(lambda: gives(api, 6), SEEN)
    shows(screen, "reloaded: model files have changed")


def gives(api: Api, output: int) -> None:
    assert api.submit("fails", wait=30, input={"x": 1})["output"] == output


def test_a_run_on_the_terminal_shows_progress_traceback_and_the_option_that_is_meant(laptop: Deployment) -> None:
    seen = {}
    for words in (("fails", "x=-1"), ("misspelt",), ("fails", "y=1")):
        run = Screen(laptop, "run", *words)
        try:
            assert run.process.wait(STARTS) == 1
        finally:
            run.end()
        seen[words[-1]] = run.text

    assert "in inner" in seen["x=-1"]
    assert "error: model_error: ValueError: too small: -1" in seen["x=-1"]
    assert "did you mean retries?" in seen["misspelt"]
    assert "input.x: Field required" in seen["y=1"]
