"""The model countdown."""

import pytest
from pydantic import ValidationError

from jobs.countdown import countdown


def test_countdown_gives_each_number_down_to_one():
    assert list(countdown(interval=0)) == [10, 9, 8, 7, 6, 5, 4, 3, 2, 1]
    assert list(countdown(start=1, interval=0)) == [1]


def test_countdown_reports_a_step_after_each_number(reported):
    assert list(countdown(interval=0)) == list(range(10, 0, -1))

    assert [state["fraction"] for state in reported] == [step / 10 for step in range(1, 11)]


def test_countdown_waits_half_a_second_after_each_number(monkeypatch, reported):
    slept = []
    monkeypatch.setattr("time.sleep", slept.append)

    list(countdown())

    assert slept == [0.5] * 10


@pytest.mark.parametrize("wrong", [{"start": 0}, {"start": 61}, {"interval": -0.1}, {"interval": 11}])
def test_countdown_refuses_input_outside_its_limits(wrong):
    with pytest.raises(ValidationError):
        countdown.__model__.input_type.model_validate(wrong)


def test_countdown_streams_integers():
    assert countdown.__model__.kind == "generator"
    assert countdown.__model__.output_schema()["items"] == {"type": "integer"}
