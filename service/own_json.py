"""JSON as the standard library makes it, also in a process whose models patch `json`.

It has its own references to what it calls: to patch json.dumps, a method of json.JSONEncoder, or what these call, does
not change what is said between our processes.
"""

from __future__ import annotations

import json
import json.encoder
from collections.abc import Callable
from typing import Any


class _Encoder(json.JSONEncoder):
    encode = json.JSONEncoder.encode
    iterencode = json.JSONEncoder.iterencode
    default = json.JSONEncoder.default


class _Decoder(json.JSONDecoder):
    decode = json.JSONDecoder.decode
    raw_decode = json.JSONDecoder.raw_decode


def _encode(allow_nan: bool) -> Callable[[Any], str]:
    encoder = _Encoder(separators=(",", ":"), allow_nan=allow_nan)
    make: Any = getattr(json.encoder, "c_make_encoder", None)
    if make is None:  # it is CPython's own
        return encoder.encode
    # Made once: an encoder makes it for each value, which takes longer than to write a short one.
    text = json.encoder.encode_basestring_ascii
    write = make(None, encoder.default, text, None, ":", ",", False, False, allow_nan)
    return lambda value: "".join(write(value, 0))


_compact = _encode(allow_nan=False)
_any = _encode(allow_nan=True)
_decoder = _Decoder()
_without_nan = _Decoder(parse_constant=lambda _: None)


def dumps(value: Any) -> str:
    """Compact JSON in ASCII. Raises ValueError on NaN and Infinity, TypeError on what JSON has no form for.

    Raises RecursionError on what is too deep, or within itself.
    """
    return _compact(value)


def dumps_any(value: Any) -> str:
    """As dumps, but NaN and Infinity are written as Python's json reads them."""
    return _any(value)


def loads(text: str) -> Any:
    """What JSON text says. Raises ValueError, and RecursionError on what is too deep."""
    return _decoder.decode(text)


def without_nan(value: Any) -> Any:
    """A copy of what JSON can carry with None for each NaN and Infinity."""
    return _without_nan.decode(_any(value))
