"""What of the jobs folder is not served is said: in the log, in /readyz, and in GET /v1/models."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from service.registry import find_models
from tests.deployment import Deployment, eventually

GOOD = "from service import model\n\n@model\ndef {0}(x: int) -> int:\n    return x\n"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path


def errors(folder: Path, **files: str) -> dict[str, str]:
    """What is said of each of some files, by its name."""
    for name, text in files.items():
        (folder / f"{name}.py").write_text(text)
    return {each.file: each.error for each in find_models(folder)[1]}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("x = 1\ndef f(:\n    pass\n", "SyntaxError: invalid syntax (bad.py, line 2)"),
        (
            "x = 1\nif x:\npass\n",
            "IndentationError: expected an indented block after 'if' statement on line 2 (bad.py, line 3)",
        ),
        ("x = 1\nraise ValueError('one\\ntwo')\n", "ValueError: one two (bad.py, line 2)"),
        ("\n\nfrom jobs._helper import nothing\n", "ImportError: cannot import name 'nothing' from 'jobs._helper'"),
        ("\n\nimport jobs._wrong\n", "SyntaxError: invalid syntax (bad.py, line 3, which imports _wrong.py, line 2)"),
        ("\n\nimport jobs._raises\n", "KeyError: 'gone' (bad.py, line 3, which imports _raises.py, line 2)"),
        (
            "from service import model\n\n@model(retry=2)\ndef f() -> int: ...\n",
            "@model has no option retry: did you mean retries?",
        ),
        ("from service import model\n\n@model\ndef f(x: object()) -> int: ...\n", "(bad.py, line 3)"),
        ("from service import model\n\n@model(timeout=0)\ndef f() -> int: ...\n", "(bad.py, line 3)"),
    ],
)
def test_a_file_that_does_not_import_is_told_with_its_line(folder: Path, text: str, said: str) -> None:
    (folder / "_helper.py").write_text("")
    (folder / "_wrong.py").write_text("\ndef f(:\n")
    (folder / "_raises.py").write_text("\n{}['gone']\n")

    error = errors(folder, bad=text)["bad.py"]

    assert said in error
    assert "(bad.py, line " in error
    assert "\n" not in error


def test_bytes_that_are_no_text_and_files_that_cannot_be_read_are_told(folder: Path) -> None:
    (folder / "latin.py").write_bytes(b"x = '\xe4'\n")
    (folder / "null.py").write_bytes(b"x = 1\0\n")
    (folder / "lost.py").symlink_to(folder / "nowhere")
    (folder / "_lost.py").symlink_to(folder / "nowhere")
    (folder / "dir.py").mkdir()

    assert errors(folder, good=GOOD.format("good")).keys() == {"latin.py", "null.py", "lost.py", "dir.py"}


def test_each_unknown_option_is_answered_with_the_one_that_is_meant(folder: Path) -> None:
    error = errors(folder, a="from service import model\n@model(time_out=3, max_batchsize=2, gpu=1)\ndef a(): ...\n")[
        "a.py"
    ]

    assert (
        "no option time_out: did you mean timeout?; nor max_batchsize: did you mean max_batch_size?; nor gpu" in error
    )
    assert "keep_alive" in error


def test_a_name_twice_in_one_file_is_refused(folder: Path) -> None:
    text = (
        "from service import model\n@model(name='a')\ndef one() -> int: ...\n@model(name='a')\ndef two() -> int: ...\n"
    )

    assert errors(folder, a=text)["a.py"] == "model a is declared in this file already (a.py, line 4)"


def test_all_that_is_passed_over_is_said(deployed: Deployment) -> None:
    deployed.write(GOOD.format("b"), "a.py")
    deployed.write("x = 1\nraise RuntimeError('hidden')\n", "b.py")  # under the name of a model that is served
    deployed.write(GOOD.format("b"), "c.py")
    deployed.write("def helper(): ...\n", "tools.py")
    deployed.write("def f(:\n", "wrong.py")
    (deployed.jobs_dir / "more").mkdir()
    deployed.write(GOOD.format("d"), "more/d.py")
    (deployed.jobs_dir / "weights").mkdir()
    worker = deployed.worker()
    api = deployed.web()

    def warnings() -> Any:
        said = api.http.get("/readyz").json()["warnings"]
        assert any("wrong.py" in each for each in said), said
        return said

    said = eventually(warnings)
    log = worker.log.read_text()  # type: ignore[attr-defined]
    shown = api.http.get("/v1/models").json()
    for each in (
        "RuntimeError: hidden (b.py, line 2)",
        "model b is declared in a.py already (c.py, line 3)",
        "tools.py declares no model",
        "SyntaxError: invalid syntax (wrong.py, line 1)",
        "the folder more: move its model files to jobs",
    ):
        assert any(each in warning for warning in said), each
        assert any(each in warning for warning in shown["warnings"]), each
        assert each in log
    assert not any("weights" in each for each in said)
    assert {each["name"]: each["state"] for each in shown["models"]} == {"b": "ready", "c": "failed", "wrong": "failed"}
    assert 'message="not served" file=b.py line=2' in log
    assert 'b.py", line 2, in <module>' in log
    traced = api.http.get("/v1/models/wrong", params={"include": "traceback"}).json()["traceback"]
    assert "def f(:" in traced


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("\n\nimport jobs.package.wrong\n", "invalid syntax (bad.py, line 3, which imports package/wrong.py, line 2)"),
        ("import good\n", ": it lies in {folder}, so it is imported as in `from jobs import good`"),
        ("from service import model\n@model(name=5)\ndef f() -> int: ...\n", "name is 5: expected lower-case letters"),
        ("from service import model\n@model(ttl=5)\ndef f() -> int: ...\n", "no option ttl: did you mean result_ttl?"),
        ("from service import model\n@model\ndef webhooks() -> int: ...\n", "the name webhooks is the service's own"),
        ("raise KeyboardInterrupt\n", "KeyboardInterrupt (bad.py, line 1)"),
    ],
)
def test_what_is_wrong_is_said_so_that_it_can_be_put_right(folder: Path, text: str, said: str) -> None:
    (folder / "package").mkdir()
    (folder / "package" / "wrong.py").write_text("\ndef f(:\n")

    error = errors(folder, good=GOOD.format("good"), bad=text)["bad.py"]

    assert said.format(folder=folder.name) in error


def test_files_of_editors_and_other_systems_are_no_model_files(folder: Path) -> None:
    (folder / ".#good.py").symlink_to("me@host.4711:1")
    (folder / "._good.py").write_bytes(b"\0\5\x16\7")

    assert errors(folder, good=GOOD.format("good")) == {}


def test_a_file_may_hold_objects_that_cannot_be_looked_into(folder: Path) -> None:
    proxy = "class Proxy:\n    def __getattribute__(self, name):\n        raise RuntimeError('not bound')\n"

    assert errors(folder, good=proxy + "proxy = Proxy()\n" + GOOD.format("good")) == {}


def test_a_file_that_ends_or_holds_up_its_process_is_named_and_the_others_serve(deployed: Deployment) -> None:
    deployed.write(GOOD.format("a"), "a.py")
    deployed.write("import os\nos._exit(3)\n", "ends.py")
    deployed.write("import os, signal\nos.kill(os.getpid(), signal.SIGSEGV)\n", "falls.py")
    deployed.write("import os\nos.fork()\n" + GOOD.format("forks"), "forks.py")
    deployed.write("import time\ntime.sleep(600)\n", "hangs.py")
    deployed.write(GOOD.format("z"), "z.py")
    worker = deployed.run("worker", SETUP_TIMEOUT="5")
    api = deployed.web()

    def check() -> Any:
        assert worker.poll() is None, worker.log.read_text()  # type: ignore[attr-defined]
        shown = {each["name"]: each for each in api.http.get("/v1/models").json()["models"]}
        assert shown.keys() == {"a", "ends", "falls", "forks", "hangs", "z"}
        return shown

    shown = eventually(check, 60)
    assert {name for name, each in shown.items() if each["state"] == "failed"} == {"ends", "falls", "hangs"}
    for name, why in {"ends": "exited with code 3", "falls": "SIGSEGV", "hangs": "longer than SETUP_TIMEOUT"}.items():
        assert why in shown[name]["error"]
        assert f"while {name}.py was imported" in shown[name]["error"]
        assert f"file={name}.py" in worker.log.read_text()  # type: ignore[attr-defined]
    for name in ("a", "forks", "z"):
        assert api.submit(name, wait=20, input={"x": 7})["output"] == 7
