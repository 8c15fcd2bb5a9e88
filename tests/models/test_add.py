"""The model add."""

import pytest
from pydantic import ValidationError

from jobs.add import add


def test_add_gives_the_sum():
    assert add(2, 3, seconds=0) == 5
    assert add(-2, 10**30, seconds=0) == 10**30 - 2


def test_add_reports_ten_steps(reported):
    add(2, 3, seconds=0)

    assert [state["index"] for state in reported] == list(range(11))
    assert reported[-1]["fraction"] == 1


def test_add_spreads_its_seconds_over_the_steps(monkeypatch, reported):
    slept = []
    monkeypatch.setattr("time.sleep", slept.append)

    add(2, 3, seconds=5)

    assert slept == [0.5] * 10


@pytest.mark.parametrize("seconds", [-1, 3601, float("nan")])
def test_add_refuses_seconds_outside_its_limits(seconds):
    with pytest.raises(ValidationError, match="seconds"):
        add.__model__.input_type.model_validate({"x": 2, "y": 3, "seconds": seconds})


def test_add_may_run_for_the_most_seconds_it_accepts():
    assert add.__model__.options.timeout > 3600
