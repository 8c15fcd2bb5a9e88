"""A model in this process, without Redis: its input is checked as at submit, and it runs as in a work-horse."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from pydantic import TypeAdapter, ValidationError

from service.job import Attempt, process_wide
from service.model import Model
from service.web.input_check import InputCheck
from service.web.mistakes import mistakes, summary
from service.worker.forks import parent_alone
from service.worker.prediction import checked_input, predict, predict_batch

_AN_OBJECT = TypeAdapter(dict[str, Any])


class InvalidInput(ValueError):
    """The input is not what the model takes; `errors` are those of a submit's answer: [{"pointer", "detail"}]."""

    def __init__(self, message: str, errors: list[dict[str, str]]) -> None:
        super().__init__(message)
        self.errors = errors


def check(model: Model, value: Any) -> None:
    """Check an input as a submit does. Raises InvalidInput."""
    try:
        _AN_OBJECT.validate_python(value, strict=True)
    except ValidationError as error:
        errors = [{"pointer": "#/input", "detail": error.errors()[0]["msg"]}]
    else:
        errors = mistakes(InputCheck(model.name, model.input_schema(), model.secret_fields.hides), value)
    if errors:
        raise InvalidInput(summary(errors), errors)


def run_one(
    model: Model, instance: Any, value: dict[str, Any], attempt: Attempt, emit: Callable[[str], None], max_bytes: int
) -> str:
    """The output of a job as JSON; one of a model that batches is a batch of one. Raises what predict raises."""
    with process_wide([attempt], model.batches), parent_alone():
        return predict(model, instance, value, emit, max_bytes)


def run_batch(
    model: Model, instance: Any, values: Sequence[dict[str, Any]], attempts: Sequence[Attempt], max_bytes: int
) -> list[str]:
    """The outputs of the jobs of one batch as JSON. Raises what predict_batch raises, and what makes one invalid."""
    inputs = [checked_input(model, value) for value in values]
    with process_wide(attempts, True), parent_alone():
        outputs = predict_batch(model, instance, inputs, max_bytes)
    for output in outputs:
        if isinstance(output, Exception):
            raise output
    return [str(output) for output in outputs]
