"""Random numbers after a job that has seeded them: the next one must not get numbers that it could foretell.

What a job has drawn is no reason to look: only a seed is, and each generator tells it in its own way.
"""

from __future__ import annotations

import random
import sys
from typing import Any

_generator: Any = random.seed.__self__  # type: ignore[attr-defined]
_UNSEEDED_TORCH = 67280421310721
"""What torch's generator begins with: default_rng_seed_val in c10/core/GeneratorImpl.h."""


class Seeds:
    """Those of random, and of numpy and torch once something has imported them."""

    what = "random seeds"
    before = False

    def __init__(self) -> None:
        self._random, self._numpy, self._torch = _Random(), _Numpy(), _Torch()
        self._kinds = (self._random, self._numpy, self._torch)

    def remember(self) -> None:
        for each in self._kinds:
            each.remember()

    def now(self) -> bool:
        """Whether one was seeded."""
        if _generator.gauss_next is not self._random.mark:
            return True
        modules = sys.modules  # most models have neither
        return ("numpy.random" in modules and self._numpy.seeded()) or ("torch" in modules and self._torch.seeded())

    def put_back(self) -> None:
        for each in self._kinds:
            if each.seeded():
                each.forget()


class _Random:
    """Leaves a number for its next gauss(): to seed is to throw that away, to draw other numbers is not."""

    def remember(self) -> None:
        self.mark = _generator.gauss_next = random.SystemRandom().gauss()

    def seeded(self) -> bool:
        return _generator.gauss_next is not self.mark

    def forget(self) -> None:
        random.seed()
        self.remember()


class _Numpy:
    """One that was not seeded by hand knows the sequence from which it has its seed."""

    def __init__(self) -> None:
        self._sequence: Any = None

    def remember(self) -> None:
        if (module := _imported("numpy.random", "get_bit_generator")) is None:
            return
        generator = module.get_bit_generator()
        if generator.seed_seq is None:  # setup has seeded it: the same numbers from one that tells whether a job does
            fresh = type(generator)()
            fresh.state = generator.state
            module.set_bit_generator(fresh)
        self._sequence = module.get_bit_generator().seed_seq

    def seeded(self) -> bool:
        if (module := _imported("numpy.random", "get_bit_generator")) is None:
            return False
        sequence = module.get_bit_generator().seed_seq
        if self._sequence is None:  # a job has imported it
            self._sequence = sequence
        return sequence is None or sequence is not self._sequence

    def forget(self) -> None:
        module = sys.modules["numpy.random"]
        module.set_bit_generator(module.MT19937())
        self.remember()


class _Torch:
    """It tells the seed that it was given last."""

    def __init__(self) -> None:
        self._seed = _UNSEEDED_TORCH

    def remember(self) -> None:
        if (module := _imported("torch", "initial_seed")) is not None:
            self._seed = module.initial_seed()

    def seeded(self) -> bool:
        module = _imported("torch", "initial_seed")
        return module is not None and module.initial_seed() != self._seed

    def forget(self) -> None:
        sys.modules["torch"].seed()
        self.remember()


def _imported(name: str, function: str) -> Any:
    """A module that something has imported, if it has such a function: an old one may not, nor one half imported."""
    module = sys.modules.get(name)
    return module if module is not None and hasattr(module, function) else None
