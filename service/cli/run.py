"""`run`: a model in this process, on this terminal, without Redis.

Its output is the only thing on standard output; what it prints and logs, and its progress, are on standard error.
"""

from __future__ import annotations

import argparse
import bdb
import faulthandler
import json
import logging
import os
import sys
import time
import traceback
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TextIO

from service import alone
from service.cli.fresh import run_fresh
from service.cli.pairs import WrongPair, input_of
from service.cli.terminal import say
from service.cli.time_limit import TimeLimit
from service.failure import Failure
from service.job import Attempt, facts
from service.registry import Found, ModelNotFound, find_model
from service.settings import Settings
from service.worker.jsonable import OutputTooLarge
from service.worker.memory import most_resident
from service.worker.prediction import Refused, failure, set_up

_PACKAGE = str(Path(__file__).resolve().parents[1])


def run(options: argparse.Namespace, settings: Settings) -> int:
    """Run it once, or several times in new processes. Raises Failure."""
    if options.fresh:
        return run_fresh(options)
    try:
        with _answers_only() as out:
            with _times() as times:
                output = _run(options, settings, times)
            _answer(_readable(output, out), out)
    except WrongPair as error:
        say(f"error: {error}")
        return 2
    except bdb.BdbQuit:
        say("left by the debugger")
        return 1
    return 0


def _answer(output: str, out: TextIO) -> None:
    """Print the output. Raises Failure if it cannot be kept; who does not want the rest of it may go."""
    try:
        print(output, file=out, flush=True)
    except BrokenPipeError:
        say("", to=out)
    except OSError as error:
        say("", to=out)
        raise Failure(f"the output cannot be written: {error.strerror}") from None


def _run(options: argparse.Namespace, settings: Settings, times: dict[str, float]) -> str:
    logging.basicConfig(format="%(levelname)s %(name)s: %(message)s", level=logging.INFO, stream=sys.stderr)
    faulthandler.enable(2, all_threads=False)  # where C code has crashed
    found = _found(settings.jobs_dir, options.model)
    value = input_of(options, found.description.input_schema)
    try:
        alone.check(found.model, value)
    except alone.InvalidInput as error:
        lines = "".join(f"\n  {each['pointer']}: {each['detail']}" for each in error.errors[1:])
        raise Failure(f"{error}{lines}") from None
    times["import"] = time.monotonic()
    with _errors_told("setup_failed"), _kept_streams():
        instance = set_up(found.model)
    times["setup"] = time.monotonic()
    output = _predicted(found, instance, value, options, settings)
    times["predict"] = time.monotonic()
    return output


def _found(jobs_dir: Path, name: str) -> Found:
    try:
        return find_model(jobs_dir, name)
    except ModelNotFound as error:
        if error.cause is not None:
            _tell_traceback(error.cause)
        raise


def _predicted(
    found: Found, instance: Any, value: dict[str, Any], options: argparse.Namespace, settings: Settings
) -> str:
    seconds = found.description.timeout if options.timeout is None else options.timeout
    limit = TimeLimit(seconds, settings.stop_grace)
    attempt = Attempt(
        facts(str(uuid.uuid4()), 1, 0, seconds), found.model.name, found.description.version, lambda _: limit.asked
    )
    with _errors_told("model_error", limit), limit, _kept_streams():
        return alone.run_one(found.model, instance, value, attempt, _tell_output, settings.max_output_bytes)


def _tell_output(text: str) -> None:
    say(f"output {text}")


@contextmanager
def _errors_told(kind: str, limit: TimeLimit | None = None) -> Iterator[None]:
    """What a model raises is told as in the service: its traceback, and the error of the job."""
    try:
        yield
    except (KeyboardInterrupt, bdb.BdbQuit) as error:
        if limit is None or not limit.passed:
            raise
        _tell_traceback(error)
        raise Failure(f"timeout: the job ran for longer than its timeout of {limit.seconds:g} s") from None
    except (Refused, OutputTooLarge) as error:  # the service's own words, which say it all
        raise Failure(_sentence(error, kind)) from None
    except BaseException as error:  # noqa: B902 -- sys.exit in a model is a failure like any other
        _tell_traceback(error)
        raise Failure(_sentence(error, kind)) from None


def _sentence(error: BaseException, kind: str) -> str:
    said = failure(error)["error"]
    return f"{kind if said['type'] == 'model_error' else said['type']}: {said['message']}"


def _tell_traceback(error: BaseException) -> None:
    """The frames of the author's code, and what it calls; not ours, which lead there."""
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None and _is_ours(trace.tb_frame.f_code.co_filename):
        trace = trace.tb_next
    say("".join(traceback.format_exception(type(error), error, trace)).rstrip())


def _is_ours(file: str) -> bool:
    return file.startswith((_PACKAGE, "<frozen importlib"))


@contextmanager
def _answers_only() -> Iterator[TextIO]:
    """Standard output, which from now on nothing else reaches: what models and their children print goes to the other.

    Standard input stays the terminal's, so a debugger works.
    """
    out = os.fdopen(os.dup(1), "w", encoding=sys.stdout.encoding, errors=sys.stdout.errors)
    sys.stdout.flush()
    os.dup2(2, 1)
    if hasattr(sys.stdout, "reconfigure"):
        sys.stdout.reconfigure(line_buffering=True)
    with out:
        yield out


class _kept_streams:
    """What is said afterwards can be read, though the model may have closed or replaced where it goes."""

    # No generator: contextlib sets an attribute of what is raised, and a model's own exception may be frozen.
    def __enter__(self) -> None:
        self._streams, self._own = (sys.stdout, sys.stderr), os.dup(2)

    def __exit__(self, *_: object) -> None:
        sys.stdout, sys.stderr = self._streams
        if sys.stderr.closed:  # and its descriptor with it
            os.dup2(self._own, 2)
            sys.stderr = os.fdopen(2, "w", closefd=False)
        os.close(self._own)


@contextmanager
def _times() -> Iterator[dict[str, float]]:
    """Tell how long each step took, up to the one that failed, and the most memory that the process has had."""
    times = {"": time.monotonic()}
    try:
        yield times
    finally:
        moments = list(times.items())
        steps = [f"{name} {at - before:.2f} s" for (name, at), (_, before) in zip(moments[1:], moments, strict=False)]
        if steps:
            say(", ".join([*steps, f"memory {most_resident() / 2**20:.0f} MB"]))


def _readable(output: str, out: TextIO) -> str:
    """With the letters of all scripts, where they can be written."""
    text = json.dumps(json.loads(output), ensure_ascii=False)
    try:
        text.encode(out.encoding)
    except UnicodeEncodeError:  # half of a surrogate pair too
        return output
    return text
