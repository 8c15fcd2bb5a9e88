"""`json` as it was: models of one process share it, and one that patches it would see, or spoil, what others write."""

from __future__ import annotations

import json
from operator import attrgetter
from typing import Any

_NAMES: tuple[tuple[Any, tuple[str, ...]], ...] = (
    (json, ("dumps", "loads", "dump", "load", "JSONEncoder", "JSONDecoder")),
    (json.JSONEncoder, ("encode", "iterencode", "default")),
    (json.JSONDecoder, ("decode", "raw_decode")),
)
_of_module, _of_encoder, _of_decoder = (attrgetter(*names) for _, names in _NAMES)
_Encoder, _Decoder = json.JSONEncoder, json.JSONDecoder


class Json:
    """Its functions and the methods of its classes."""

    what = "json"
    before: tuple[Any, ...] = ()

    def remember(self) -> None:
        self.before = self.now()

    def now(self) -> tuple[Any, ...]:
        return _of_module(json), _of_encoder(_Encoder), _of_decoder(_Decoder)

    def put_back(self) -> None:
        for (owner, names), functions in zip(_NAMES, self.before, strict=True):
            for name, function in zip(names, functions, strict=True):
                setattr(owner, name, function)
