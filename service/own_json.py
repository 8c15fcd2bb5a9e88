"""JSON as the standard library makes it, also in a process whose models patch `json`.

The classes have their own references to what they call: to patch json.dumps, or a method of json.JSONEncoder, does not
change what is said between our processes.
"""

from __future__ import annotations

import json
from typing import Any


class _Encoder(json.JSONEncoder):
    encode = json.JSONEncoder.encode
    iterencode = json.JSONEncoder.iterencode
    default = json.JSONEncoder.default


class _Decoder(json.JSONDecoder):
    decode = json.JSONDecoder.decode
    raw_decode = json.JSONDecoder.raw_decode


_compact = _Encoder(separators=(",", ":"), allow_nan=False)
_any = _Encoder(separators=(",", ":"))
_decoder = _Decoder()
_without_nan = _Decoder(parse_constant=lambda _: None)


def dumps(value: Any) -> str:
    """Compact JSON in ASCII. Raises ValueError on NaN and Infinity, TypeError on what JSON has no form for."""
    return _compact.encode(value)


def dumps_any(value: Any) -> str:
    """As dumps, but NaN and Infinity are written as Python's json reads them."""
    return _any.encode(value)


def loads(text: str) -> Any:
    """What JSON text says. Raises ValueError, and RecursionError on what is too deep."""
    return _decoder.decode(text)


def without_nan(value: Any) -> Any:
    """A copy of what JSON can carry with None for each NaN and Infinity."""
    return _without_nan.decode(_any.encode(value))
