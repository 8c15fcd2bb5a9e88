"""progress() outside a job, and what it tells inside one."""

from __future__ import annotations

from typing import Any

import pytest

from service import progress
from service.progress import reporter


class Told:
    def __init__(self) -> None:
        self.states: list[dict[str, Any]] = []

    def progress(self, state: dict[str, Any]) -> None:
        self.states.append(state)


@pytest.fixture
def told() -> Any:
    heard = Told()
    token = reporter.set(heard)
    yield heard.states
    reporter.reset(token)


def test_outside_a_job_it_iterates_and_draws_a_bar(capsys: pytest.CaptureFixture[str]) -> None:
    assert list(progress([1, 2, 3], message="counting")) == [1, 2, 3]
    progress.update(0.5, "half way", loss=0.25)

    drawn = capsys.readouterr()
    assert "counting: 100%" in drawn.err
    assert "50% half way loss=0.25" in drawn.out


def test_inside_a_job_each_step_is_told(told: list[dict[str, Any]]) -> None:
    list(progress("ab", message="letters", unit="letter"))

    steps = [(state["index"], state["length"], state["fraction"]) for state in told]
    assert steps == [(0, 2, 0), (1, 2, 0.5), (2, 2, 1)]
    assert {(state["unit"], state["message"]) for state in told} == {("letter", "letters")}


def test_an_iterable_without_a_length_has_no_fraction(told: list[dict[str, Any]]) -> None:
    list(progress(iter("ab")))
    list(progress(iter("ab"), total=4))

    assert [state["fraction"] for state in told] == [None, None, None, 0, 0.25, 0.5]


def test_metrics_are_told_with_the_fraction(told: list[dict[str, Any]]) -> None:
    progress.update(0.5, loss=1, accuracy=0.5)

    assert told[0]["fraction"] == 0.5
    assert told[0]["metrics"] == {"loss": 1, "accuracy": 0.5}


@pytest.mark.parametrize("fraction", [-0.1, 1.1, float("nan")])
def test_a_fraction_that_is_none_is_refused(told: list[dict[str, Any]], fraction: float) -> None:
    with pytest.raises(ValueError, match="expected a number from 0 to 1"):
        progress.update(fraction)


def test_a_metric_that_is_no_number_is_refused_by_name(told: list[dict[str, Any]]) -> None:
    with pytest.raises(TypeError, match="metric loss is 'low'"):
        progress.update(0.5, loss="low")  # type: ignore[arg-type]
