"""Which stages there are: each is started when a situation needs it, and thrown away once one has failed on it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from tests.hostile.stage import Stage
from tests.hostile.up import UpStage

KINDS: dict[str, Callable[[Path], Stage]] = {
    "main": lambda folder: Stage(folder, workers=2),
    "lone": lambda folder: Stage(folder, workers=1, LEASE="4"),
    "threads": lambda folder: Stage(folder, workers=1, WEB_THREADS="100"),
    "up": UpStage,
}
"""`main`: two workers; `lone`: one, whose lease is renewed less often than
leases are looked at; `threads`: a web process with many threads; `up`: all that `up` starts."""


class Stages:
    """At most one of each kind."""

    def __init__(self, make_folder: Callable[[str], Path]) -> None:
        self._make_folder = make_folder
        self._stages: dict[str, Stage] = {}

    def get(self, kind: str) -> Stage:
        """The running one of a kind."""
        if kind not in self._stages:
            self._stages[kind] = KINDS[kind](self._make_folder(kind))
        return self._stages[kind]

    def drop(self, kind: str) -> None:
        """End one: it is no longer what the next situation expects."""
        if stage := self._stages.pop(kind, None):
            stage.close()

    def close(self) -> None:
        """End all."""
        for kind in list(self._stages):
            self.drop(kind)
