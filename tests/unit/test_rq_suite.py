"""The list of RQ's tests that differ on WarmWorker is checked both ways."""

from __future__ import annotations

import io
import tarfile
from importlib.metadata import version
from pathlib import Path

import pytest

from tests.rq_suite.outcomes import read, wrong
from tests.rq_suite.sources import NoTests, unpack

REPORT = """<testsuites><testsuite>
  <testcase classname="tests.test_a.TestA" name="test_good"/>
  <testcase classname="tests.test_a.TestA" name="test_bad"><failure>no</failure></testcase>
  <testcase classname="tests.test_a.TestA" name="test_torn"><failure/></testcase>
  <testcase classname="tests.test_a.TestA" name="test_torn"><error/></testcase>
  <testcase classname="tests.test_a" name="test_left_out"><skipped/></testcase>
</testsuite></testsuites>"""


def archive(folder: Path, top: str, *names: str) -> Path:
    path = folder / "rq.tar.gz"
    with tarfile.open(path, "w:gz") as packed:
        for name in names:
            packed.addfile(tarfile.TarInfo(f"{top}/{name}"), io.BytesIO())
    return path


def test_outcomes_are_read_from_the_report(tmp_path: Path) -> None:
    (tmp_path / "report.xml").write_text(REPORT)

    assert read(tmp_path / "report.xml") == {
        "test_a::TestA::test_good": "passed",
        "test_a::TestA::test_bad": "failed",
        "test_a::TestA::test_torn": "failed",
        "test_a::test_left_out": "skipped",
    }


def test_a_list_that_says_what_is_so_is_right() -> None:
    assert wrong({"one": "passed", "two": "failed", "three": "skipped"}, {"two": "its reason"}) == []


def test_a_test_that_fails_passes_or_is_gone_is_wrong_if_the_list_says_otherwise() -> None:
    lines = wrong({"one": "failed", "two": "passed"}, {"two": "its reason", "three": "another"})

    assert lines == [
        "fails, and is not on the list of those that differ: one",
        "passes, and is on the list of those that differ: two (its reason)",
        "is on the list of those that differ, and there is no such test: three",
    ]


def test_only_the_tests_of_the_version_that_is_installed_are_taken(tmp_path: Path) -> None:
    top = f"rq-{version('rq')}"
    unpack(archive(tmp_path, top, "tests/test_worker.py", "rq/worker.py"), tmp_path / "out")
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["tests"]

    with pytest.raises(NoTests, match=r"holds rq-0\.1, but rq .* is installed"):
        unpack(archive(tmp_path, "rq-0.1", "tests/test_worker.py"), tmp_path / "out")
    with pytest.raises(NoTests, match="has no tests"):
        unpack(archive(tmp_path, top, "rq/worker.py"), tmp_path / "other")
    with pytest.raises(NoTests, match="is no source distribution"):
        unpack(tmp_path / "out" / "nothing.tar.gz", tmp_path / "other")
