"""Tests of models: `run` one without Redis, or have all of them `served` by a real service that ends with the test."""

from __future__ import annotations

import asyncio
import inspect
import json
import re
import uuid
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from typing import Any, NamedTuple, TypeVar

from service import alone
from service.alone import InvalidInput as InvalidInput
from service.job import Attempt, facts
from service.model import Model
from service.recorder import Recorder
from service.served import Refused as Refused
from service.served import Served as Served
from service.served import served as served
from service.settings import Settings
from service.store.keys import JOB_ID_PATTERN
from service.web.strict_json import NotJson, decode
from service.worker import prediction
from service.worker.jsonable import OutputTooLarge

T = TypeVar("T")

__all__ = ["InvalidInput", "InvalidOutput", "Refused", "Run", "Served", "run", "served"]


class InvalidOutput(ValueError):
    """What predict returned is not what its types say, or is no JSON, or is too large."""


class Run(NamedTuple):
    """What a model gave, as a caller gets it, and what it told: [{"type", "data"}] as in a job's log."""

    output: Any
    events: list[dict[str, Any]]


def run(
    model: Any,
    input: dict[str, Any] | Sequence[dict[str, Any]] | None = None,
    *,
    id: str = "",
    attempt: int = 1,
    retries_left: int = 0,
    metadata: Any = None,
    timeout: float | None = None,
) -> Run:
    """Run a job of a model here, without Redis; the same checks and conversions are made as in the service.

    `model` is what @model decorates, or an instance of it whose setup has run; `input` what a caller would send, or
    a list of such for one batch. The others are what `job` says; no timeout is enforced. Raises InvalidInput,
    InvalidOutput, and whatever the model raises; ValueError if `id` could not be a job's.
    """
    declared, instance = _declared(model)
    together = isinstance(input, (list, tuple))
    if together and not declared.batches:
        raise InvalidInput(f"input: {declared.name} takes one at a time: it has no max_batch_size", [])
    values = [_as_sent(each) for each in (input if isinstance(input, (list, tuple)) else [input or {}])]
    for value in values:
        alone.check(declared, value)
    if instance is None:
        instance = prediction.set_up(declared)
    seconds = declared.options.timeout if timeout is None else timeout
    told = "" if metadata is None else json.dumps(metadata)
    known = (facts(_checked_id(id), attempt, retries_left, seconds, told) for _ in values)
    attempts = [Attempt(each, declared.name, declared.options.version or "") for each in known]
    recorder = Recorder()

    def call() -> Any:
        most = Settings().max_output_bytes
        with recorder.listening():
            if together:
                return [json.loads(text) for text in alone.run_batch(declared, instance, values, attempts, most)]
            return json.loads(alone.run_one(declared, instance, values[0], attempts[0], recorder.output, most))

    try:
        return Run(_outside_of_a_loop(call), recorder.events)
    except prediction.Refused as error:
        kind, message = error.args
        raise (InvalidInput(message, []) if kind == "invalid_input" else InvalidOutput(message)) from None
    except OutputTooLarge as error:
        raise InvalidOutput(str(error)) from None


def _checked_id(id: str) -> str:
    """One that a job could have; a new one if none is given. Raises ValueError."""
    if id and not re.fullmatch(JOB_ID_PATTERN, id):
        raise ValueError(f"id is {id!r}: expected from 1 to 128 letters, digits, _ and -, as in PUT /v1/jobs/{{id}}")
    return id or str(uuid.uuid4())


def _declared(model: Any) -> tuple[Model, Any]:
    """The model, and its instance if that was given."""
    if isinstance(model, Model):
        return model, None
    declared = getattr(model, "__model__", None)
    if isinstance(declared, Model):
        if model is declared.target:
            return declared, None
        if inspect.isclass(declared.target) and isinstance(model, declared.target):
            return declared, model
    raise TypeError(f"{model!r} is no model: expected what @model decorates, or an instance of it")


def _as_sent(value: Any) -> Any:
    try:
        return decode(json.dumps(value).encode())
    except (TypeError, ValueError, NotJson) as error:
        raise InvalidInput(f"input: it is no JSON: {error}", []) from None


def _outside_of_a_loop(call: Callable[[], T]) -> T:
    """Async models have a loop of their own, which cannot run within the one of an async test."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return call()
    with ThreadPoolExecutor(1) as thread:
        return thread.submit(copy_context().run, call).result()
