"""One call of a model: check the input, call it the way it wants, check the output."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import AsyncIterator, Awaitable, Callable, Generator, Iterator
from io import IOBase
from typing import Any

from pydantic import BaseModel, TypeAdapter, ValidationError

from service.model import Fatal, Model, Retry, exception_name
from service.own_json import dumps, dumps_any, loads
from service.tracebacks import last_line, text_of, traceback_of
from service.worker.jsonable import NotJson, OutputTooLarge, sentence, to_json
from service.worker.link import Message

MOST_SHOWN, MOST_NAMES, LONGEST_SHOWN = 10, 200, 300
"""Of the exceptions in a group: how many a message names, how many class names `fatal` is looked for in, and how many
characters a message has of each."""
Emit = Callable[[str], None]
_FINISHED = frozenset({type(None), bool, int, float, str, bytes, list, tuple, dict})


class Refused(Exception):
    """Input or output is not what the model's types say; the first argument is the error's type."""


class Interrupted(BaseException):
    """The job is asked to leave. A BaseException, so that `except Exception` in a model lets it through."""


def set_up(model: Model) -> Any:
    """What the model has loaded, an instance of its class; None for a function. Raises whatever it raises."""
    if not model.has_setup:
        return None
    instance = model.target()
    if hasattr(instance, "setup"):
        instance.setup()
    return instance


def predict(model: Model, instance: Any, value: dict[str, Any], emit: Emit, max_bytes: int) -> str:
    """Call a model and return its output as JSON; `emit` gets each item of a generator, as JSON.

    Raises Refused, OutputTooLarge, and whatever the model raises.
    """
    if model.runs_on_event_loop:
        return asyncio.run(predict_async(model, instance, value, emit, max_bytes))
    if model.batches:
        (output,) = predict_batch(model, instance, [checked_input(model, value)], max_bytes)
        if isinstance(output, Exception):
            raise output
        return output
    arguments = _arguments(model, checked_input(model, value))
    output = _call(model, instance)(**arguments)
    if model.kind != "generator" or not isinstance(output, Iterator):  # a decorator may have gathered it
        return _as_json(model.output_type, output, max_bytes)
    stream = _Stream(model, emit, max_bytes)
    for item in output:
        stream.take(item)
    return stream.output()


async def predict_async(model: Model, instance: Any, value: dict[str, Any], emit: Emit, max_bytes: int) -> str:
    """As predict, for a model that runs on an event loop."""
    arguments = _arguments(model, checked_input(model, value))
    output = _call(model, instance)(**arguments)
    if model.kind == "async" or not isinstance(output, AsyncIterator):
        # A decorator that is no `async def` may have done the waiting.
        output = await output if isinstance(output, Awaitable) else output
        return _as_json(model.output_type, output, max_bytes)
    stream = _Stream(model, emit, max_bytes)
    async for item in output:
        stream.take(item)
    return stream.output()


def predict_batch(model: Model, instance: Any, inputs: list[BaseModel], max_bytes: int) -> list[str | Exception]:
    """Call a model once with the checked inputs of several jobs; for each its output as JSON, or why it has none.

    Raises whatever the model raises.
    """
    call = _call(model, instance)
    if model.row is not None:
        (parameter,) = model.parameter_names
        outputs = call(**{parameter: inputs})
    else:
        outputs = call(**{name: [getattr(each, name) for each in inputs] for name in model.parameter_names})
    _refuse_unfinished(outputs)
    try:
        count = len(outputs)
    except TypeError:
        count = None
    if count != len(inputs):
        raise Refused("invalid_output", f"predict got {len(inputs)} inputs: it must return a list of as many outputs")
    return [_checked_output(model, output, max_bytes) for output in outputs]


def failure(error: BaseException) -> Message:
    """What to tell the supervisor about a try that raised."""
    raised = within(error)
    fatal = next((each for each in raised if isinstance(each, Fatal)), None)
    kind, again, after = "model_error", True, None
    if isinstance(error, Refused):
        kind, again = error.args[0], False
    elif isinstance(error, OutputTooLarge):
        kind, again = "output_too_large", False
    elif fatal is not None:
        kind, again = fatal.type, False
    elif any(isinstance(each, MemoryError) for each in raised):
        kind = "out_of_memory"
    else:
        after = max((each.after for each in raised if isinstance(each, Retry) and each.after is not None), default=None)
    names = (exception_name(base) for each in (error, *raised) for base in type(each).__mro__)
    return {
        "error": {"type": kind, "message": _message(error, raised)[:4000]},
        "traceback": traceback_of(error),
        "exceptions": list(dict.fromkeys(names))[:MOST_NAMES],
        "again": again,
        "after": after,
    }


def within(error: BaseException) -> list[BaseException]:
    """The exceptions of a group, of groups within it too; of any other, itself."""
    found, left = [], [error]
    while left:
        each = left.pop()
        if isinstance(each, BaseExceptionGroup):
            left += reversed(each.exceptions)
        else:
            found.append(each)
    return found


def _message(error: BaseException, raised: list[BaseException]) -> str:
    if isinstance(error, BaseExceptionGroup):
        texts = [(type(each).__name__, text_of(each)[:LONGEST_SHOWN]) for each in raised[:MOST_SHOWN]]
        shown = [f"{name}: {text}" if text else name for name, text in texts]
        more = [f"{len(raised) - MOST_SHOWN} more"] if len(raised) > MOST_SHOWN else []
        return f"{text_of(error)[:LONGEST_SHOWN]}: {'; '.join([*shown, *more])}"
    if isinstance(error, Refused):
        return str(error.args[1])
    if isinstance(error, MemoryError):
        return "the model ran out of memory"
    if isinstance(error, (Fatal, Retry, OutputTooLarge)):
        return text_of(error)
    return last_line(error)


class _Stream:
    """Gathers what a generator yields."""

    def __init__(self, model: Model, emit: Emit, max_bytes: int) -> None:
        self._model = model
        self._emit = emit
        self._left = max_bytes
        self._items: list[str] = []

    def take(self, item: Any) -> None:
        text = _as_json(self._model.item_type, item, self._left, f"output[{len(self._items)}]")
        self._left -= len(text) + 1
        self._items.append(text)
        self._emit(text)

    def output(self) -> str:
        if self._model.joins:
            return dumps("".join(map(loads, self._items)))
        return f"[{','.join(self._items)}]"


def checked_input(model: Model, value: dict[str, Any]) -> BaseModel:
    """The input, converted and with its defaults. Raises Refused."""
    try:
        return model.input_type.model_validate(value)
    except ValidationError:
        pass
    try:  # it is JSON: a strict type takes a date or an enum as text then, as its schema says
        return model.input_type.model_validate_json(dumps_any(_whole_numbers(value)))
    except ValidationError as error:
        raise Refused("invalid_input", sentence("input", error)) from None


def _whole_numbers(value: Any) -> Any:
    """JSON in which 1.0 is 1: to its schema it is an integer, to a strict type it would be none."""
    if isinstance(value, dict):
        return {name: _whole_numbers(each) for name, each in value.items()}
    if isinstance(value, list):
        return [_whole_numbers(each) for each in value]
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _arguments(model: Model, checked: BaseModel) -> dict[str, Any]:
    return {name: getattr(checked, name) for name in model.parameter_names}


def _call(model: Model, instance: Any) -> Callable[..., Any]:
    call: Callable[..., Any] = instance.predict if model.has_setup else model.target
    return call


def _checked_output(model: Model, output: Any, max_bytes: int) -> str | Exception:
    try:
        return _as_json(model.output_type, output, max_bytes)
    except (Refused, OutputTooLarge) as error:
        return error


def _as_json(adapter: TypeAdapter[Any], value: Any, max_bytes: int, where: str = "output") -> str:
    _refuse_unfinished(value)
    try:
        return to_json(adapter, value, max_bytes, where)
    except NotJson as error:
        raise Refused("invalid_output", str(error)) from None


def _refuse_unfinished(value: Any) -> None:
    """Raises Refused for what would give the output later."""
    if type(value) in _FINISHED:  # as most are: to ask is quicker than to look for what else it may be
        return
    if inspect.iscoroutine(value):
        value.close()  # else Python warns that nobody has awaited it
    if isinstance(value, Awaitable):
        what = "predict returned a coroutine: declare it `async def`, and have its decorators use functools.wraps"
    elif isinstance(value, (Generator, AsyncIterator)):
        what = "predict returned a generator: use yield in predict itself (`yield from ...`), or return a list"
    elif isinstance(value, Iterator) and not isinstance(value, IOBase):
        name = type(value).__name__
        what = (
            f"predict returned an iterator ({name}): use yield in predict itself (`yield from ...`), or return a list"
        )
    else:
        return
    raise Refused("invalid_output", what)
