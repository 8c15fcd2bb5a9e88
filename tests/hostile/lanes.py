"""Some stages side by side on which situations are tried: most of the time of each is waiting."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from itertools import groupby
from pathlib import Path

from tests.hostile.load import load
from tests.hostile.situation import Situation, assert_well, before
from tests.hostile.stages import Stages


def attempt(situation: Situation, stages: Stages) -> None:
    """Have a situation befall the stage that it needs, under load; raises what does not hold afterwards."""
    stage = stages.get(situation.on)
    try:
        was = before(stage)
        with load(stage.api, stage.ledger):
            situation.do(stage)
            stage.keep()
        assert_well(stage, was, again=situation.again, silent=situation.silent)
    except BaseException as error:
        error.add_note(stage.logs())
        stages.drop(situation.on)
        raise


class Lanes:
    """Tries situations, those of a special stage one after the other, all others wherever there is time."""

    def __init__(self, situations: Sequence[Situation], count: int, make_folder: Callable[[str], Path]) -> None:
        self.results: dict[str, Future[None]] = {each.name: Future() for each in situations}
        self._make_folder = make_folder
        self._work: queue.SimpleQueue[list[Situation]] = queue.SimpleQueue()
        for kind, group in groupby(situations, key=lambda each: each.on):
            members = list(group)
            for unit in [[each] for each in members] if kind == "main" else [members]:
                self._work.put(unit)
        self._threads = [threading.Thread(target=self._run) for _ in range(count)]
        for thread in self._threads:
            thread.start()

    def close(self) -> None:
        """Try no more, and end all stages."""
        for future in self.results.values():
            future.cancel()
        for thread in self._threads:
            thread.join()

    def _run(self) -> None:
        stages = Stages(self._make_folder)
        try:
            while True:
                for situation in self._work.get_nowait():
                    self._attempt(situation, stages)
        except queue.Empty:
            pass
        finally:
            stages.close()

    def _attempt(self, situation: Situation, stages: Stages) -> None:
        future = self.results[situation.name]
        if not future.set_running_or_notify_cancel():
            return
        try:
            attempt(situation, stages)
        except BaseException as error:
            future.set_exception(error)
        else:
            future.set_result(None)
