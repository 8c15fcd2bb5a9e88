"""The input of a model, as it is written on a command line: name=value, or JSON from a file."""

from __future__ import annotations

import argparse
import contextlib
import os
import sys
from pathlib import Path
from typing import Any

from service.failure import Failure
from service.web.input_check import InputCheck
from service.web.strict_json import NotJson, decode

STDIN = "-"


class WrongPair(Exception):
    """A word on the command line is no name=value; the message says which."""


def input_of(options: argparse.Namespace, schema: dict[str, Any]) -> Any:
    """What the words and the file say; a word goes before what the file has. Raises WrongPair, Failure."""
    words = [word for word in options.fields if word != STDIN]
    file = file_of(options)
    pairs = _pairs(words)
    value = _from_file(file) if file else {}
    if not pairs:
        return value
    if not isinstance(value, dict):
        raise Failure(f"{_name(file or '')} has no JSON object, to which {words[0]} could be added")
    return {**value, **{name: _value(name, text, schema) for name, text in pairs.items()}}


def file_of(options: argparse.Namespace) -> str | None:
    """The file with the input, `-` for standard input; None if there is none."""
    return STDIN if STDIN in options.fields else options.input


def _pairs(words: list[str]) -> dict[str, str]:
    pairs: dict[str, str] = {}
    for word in words:
        name, equals, text = word.partition("=")
        if not equals or not name:
            raise WrongPair(f"{word!r} is no name=value: write it as in x=1")
        if name in pairs:
            raise WrongPair(f"{name} is given twice")
        pairs[name] = text
    return pairs


def _value(name: str, text: str, schema: dict[str, Any]) -> Any:
    """JSON if it is, unless the field takes only the text itself: `5` for a string is "5"."""
    written = os.fsencode(text)
    try:
        value = decode(written)
    except NotJson:
        return written.decode(errors="surrogateescape")  # UTF-8, whatever the locale is
    field = schema.get("properties", {}).get(name)
    if field is None or isinstance(value, str):
        return value
    takes = InputCheck(name, {"properties": {name: field}, "$defs": schema.get("$defs", {})}).takes
    return text if not takes({name: value}) and takes({name: text}) else value


def _from_file(file: str) -> Any:
    try:
        data = sys.stdin.buffer.read() if file == STDIN else Path(file).read_bytes()
    except OSError as error:
        raise Failure(f"{file} cannot be read ({error.strerror})") from None
    if file == STDIN:
        _give_terminal_back()
    try:
        return decode(data)
    except NotJson as error:
        raise Failure(f"{_name(file)} {error}") from None


def _name(file: str) -> str:
    return "standard input" if file == STDIN else file


def _give_terminal_back() -> None:
    """Standard input was read to its end: from now on it is the terminal, if there is one, for a debugger."""
    with contextlib.suppress(OSError):
        terminal = os.open("/dev/tty", os.O_RDONLY | os.O_CLOEXEC)
        os.dup2(terminal, 0)
        os.close(terminal)
        sys.stdin = os.fdopen(0, "r", closefd=False)
