"""What each test of RQ's did, and how that compares with the list of those that differ."""

from __future__ import annotations

from pathlib import Path
from typing import Literal
from xml.etree import ElementTree  # the file is our own pytest's

Outcome = Literal["passed", "failed", "skipped"]


def read(report: Path) -> dict[str, Outcome]:
    """The outcomes in one of pytest's JUnit reports, by `test_file::Class::test`."""
    outcomes: dict[str, Outcome] = {}
    for case in ElementTree.parse(report).iter("testcase"):  # noqa: S314
        parts = (case.get("classname") or "").removeprefix("tests.").split(".")
        name = "::".join([*parts, case.get("name") or ""]) if parts != [""] else str(case.get("name"))
        kinds = {child.tag for child in case}
        failed = bool(kinds & {"failure", "error"})
        outcome: Outcome = "failed" if failed else "skipped" if "skipped" in kinds else "passed"
        if outcomes.get(name) != "failed":  # a test that fails and then cannot be torn down is there twice
            outcomes[name] = outcome
    return outcomes


def wrong(outcomes: dict[str, Outcome], differs: dict[str, str]) -> list[str]:
    """What is not as the list says, a line each."""
    unexpected = [name for name, outcome in outcomes.items() if outcome == "failed" and name not in differs]
    settled = [name for name in differs if outcomes.get(name) == "passed"]
    unknown = [name for name in differs if name not in outcomes]
    return [
        *(f"fails, and is not on the list of those that differ: {name}" for name in unexpected),
        *(f"passes, and is on the list of those that differ: {name} ({differs[name]})" for name in settled),
        *(f"is on the list of those that differ, and there is no such test: {name}" for name in unknown),
    ]
