"""One call of a model: check the input, call it the way it wants, check the output."""

from __future__ import annotations

import asyncio
import inspect
import json
import traceback
from collections.abc import Callable
from typing import Any

from pydantic import BaseModel, TypeAdapter, ValidationError

from service.model import Fatal, Model, Retry, exception_name
from service.worker.link import Message

Emit = Callable[[str], None]


class OutputTooLarge(Exception):
    """The output is more than max_output_bytes of JSON."""


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
    if model.kind == "generator":
        stream = _Stream(model, emit, max_bytes)
        for item in _call(model, instance)(**arguments):
            stream.take(item)
        return stream.output()
    return _limited(_as_json(model.output_type, _call(model, instance)(**arguments)), max_bytes)


async def predict_async(model: Model, instance: Any, value: dict[str, Any], emit: Emit, max_bytes: int) -> str:
    """As predict, for a model that runs on an event loop."""
    arguments = _arguments(model, checked_input(model, value))
    if model.kind == "async":
        return _limited(_as_json(model.output_type, await _call(model, instance)(**arguments)), max_bytes)
    stream = _Stream(model, emit, max_bytes)
    async for item in _call(model, instance)(**arguments):
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
    try:
        count = len(outputs)
    except TypeError:
        count = None
    if count != len(inputs):
        raise Refused("invalid_output", f"predict got {len(inputs)} inputs: it must return a list of as many outputs")
    return [_checked_output(model, output, max_bytes) for output in outputs]


def failure(error: BaseException) -> Message:
    """What to tell the supervisor about a try that raised."""
    kind, again, after = "model_error", True, None
    if isinstance(error, Refused):
        kind, again = error.args[0], False
        message = str(error.args[1])
    elif isinstance(error, OutputTooLarge):
        kind, again, message = "output_too_large", False, str(error)
    elif isinstance(error, MemoryError):
        kind, message = "out_of_memory", "the model ran out of memory"
    elif isinstance(error, Fatal):
        kind, again, message = error.type, False, str(error)
    elif isinstance(error, Retry):
        after, message = error.after, str(error)
    else:
        message = "".join(traceback.format_exception_only(error)).strip()
    return {
        "error": {"type": kind, "message": message[:4000]},
        "traceback": "".join(traceback.format_exception(error))[-100_000:],
        "exceptions": [exception_name(each) for each in type(error).__mro__],
        "again": again,
        "after": after,
    }


class _Stream:
    """Gathers what a generator yields."""

    def __init__(self, model: Model, emit: Emit, max_bytes: int) -> None:
        self._model = model
        self._emit = emit
        self._left = max_bytes
        self._items: list[str] = []

    def take(self, item: Any) -> None:
        text = _limited(_as_json(self._model.item_type, item), self._left)
        self._left -= len(text) + 1
        self._items.append(text)
        self._emit(text)

    def output(self) -> str:
        if self._model.joins:
            return json.dumps("".join(map(json.loads, self._items)))
        return f"[{','.join(self._items)}]"


def checked_input(model: Model, value: dict[str, Any]) -> BaseModel:
    """The input, converted and with its defaults. Raises Refused."""
    try:
        return model.input_type.model_validate(value)
    except ValidationError as error:
        raise Refused("invalid_input", _sentence("input", error)) from None


def _arguments(model: Model, checked: BaseModel) -> dict[str, Any]:
    return {name: getattr(checked, name) for name in model.parameter_names}


def _call(model: Model, instance: Any) -> Callable[..., Any]:
    call: Callable[..., Any] = instance.predict if model.has_setup else model.target
    return call


def _checked_output(model: Model, output: Any, max_bytes: int) -> str | Exception:
    try:
        return _limited(_as_json(model.output_type, output), max_bytes)
    except (Refused, OutputTooLarge) as error:
        return error


def _as_json(adapter: TypeAdapter[Any], value: Any) -> str:
    if hasattr(value, "tolist") and not inspect.isclass(value):  # a NumPy array or scalar, a torch tensor
        value = value.tolist()
    try:
        plain = adapter.dump_python(adapter.validate_python(value), mode="json", warnings="error")
        return json.dumps(plain, separators=(",", ":"), allow_nan=False)
    except ValidationError as error:
        raise Refused("invalid_output", _sentence("output", error)) from None
    except Exception as error:  # pydantic's serialization errors, NaN, a key that is no string, depth
        reason = str(error) or type(error).__name__
        raise Refused("invalid_output", f"the model returned what JSON cannot carry: {reason}") from None


def _limited(text: str, max_bytes: int) -> str:
    if len(text) > max_bytes:  # ASCII: a character is a byte
        raise OutputTooLarge(f"the output is larger than MAX_OUTPUT_BYTES allows: {len(text)} bytes, {max_bytes} left")
    return text


def _sentence(what: str, error: ValidationError) -> str:
    first, *more = error.errors(include_url=False, include_input=False)
    where = ".".join(map(str, first["loc"]))
    rest = f" (and {len(more)} more)" if more else ""
    return f"{what}{'.' if where else ''}{where}: {first['msg']}{rest}"
