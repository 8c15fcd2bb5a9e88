"""JSON as the standard library makes it, also in a process whose models patch `json`.

It has its own references to what it calls: to patch json.dumps, a class of json or what that calls, does not change
what is said between our processes.
"""

from __future__ import annotations

import json
from typing import Any


def _default(value: Any) -> Any:
    raise TypeError(f"Object of type {type(value).__name__} is not JSON serializable")


# What json.JSONEncoder calls, by names of a module that a model may patch too.
_make: Any = vars(json.encoder)["c_make_encoder"]
_quoted: Any = vars(json.encoder)["encode_basestring_ascii"]


def _encode(value: Any, allow_nan: bool) -> str:
    if type(value) is str:
        return str(_quoted(value))
    # markers, default, encoder, indent, separators, sort_keys, skipkeys, allow_nan
    return "".join(_make({}, _default, _quoted, None, ":", ",", False, False, allow_nan)(value, 0))


class _Decoder(json.JSONDecoder):
    decode = json.JSONDecoder.decode
    raw_decode = json.JSONDecoder.raw_decode


_decoder = _Decoder()
_without_nan = _Decoder(parse_constant=lambda _: None)


def dumps(value: Any) -> str:
    """Compact JSON in ASCII. Raises ValueError on NaN and Infinity, TypeError on what JSON has no form for."""
    return _encode(value, False)


def dumps_any(value: Any) -> str:
    """As dumps, but NaN and Infinity are written as Python's json reads them."""
    return _encode(value, True)


def loads(text: str) -> Any:
    """What JSON text says. Raises ValueError, and RecursionError on what is too deep."""
    return _decoder.decode(text)


def without_nan(value: Any) -> Any:
    """A copy of what JSON can carry with None for each NaN and Infinity."""
    return _without_nan.decode(_encode(value, True))
