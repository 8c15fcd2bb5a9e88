"""The model train_digits."""

import os

import pytest
from pydantic import ValidationError

if not os.environ.get("CI"):  # there a library that is missing is a failure
    pytest.importorskip("sklearn")

from jobs.train_digits import train_digits


def test_training_with_the_defaults_reads_more_than_nine_digits_of_ten(reported):
    trained = train_digits(pause=0)

    assert trained.accuracy > 0.9
    assert trained.loss < 0.3
    assert trained.epochs == 60


def test_training_reports_loss_and_accuracy_of_every_epoch(reported):
    trained = train_digits(epochs=8, pause=0)

    assert [state["fraction"] for state in reported] == [epoch / 8 for epoch in range(1, 9)]
    assert [state["message"] for state in reported][-1] == "epoch 8 of 8"
    losses = [state["metrics"]["loss"] for state in reported]
    assert losses == sorted(losses, reverse=True)
    assert reported[-1]["metrics"] == {"loss": trained.loss, "accuracy": trained.accuracy}


def test_training_is_the_same_for_a_seed_and_another_for_another(reported):
    first, second = train_digits(epochs=3, seed=7, pause=0), train_digits(epochs=3, seed=7, pause=0)
    other = train_digits(epochs=3, seed=8, pause=0)

    assert first == second
    assert first != other


def test_training_waits_after_each_epoch(monkeypatch, reported):
    slept = []
    monkeypatch.setattr("time.sleep", slept.append)

    train_digits(epochs=2, pause=5)

    assert slept == [5, 5]


@pytest.mark.parametrize("wrong", [{"epochs": 0}, {"hidden": 0}, {"learning_rate": 0}, {"seed": -1}])
def test_training_refuses_input_outside_its_limits(wrong):
    with pytest.raises(ValidationError):
        train_digits.__model__.input_type.model_validate(wrong)
