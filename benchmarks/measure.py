"""Rounds, medians and tables."""

from __future__ import annotations

import statistics
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field


class NotMeasured(Exception):
    """Something cannot be measured; the message says why."""


@dataclass
class Figure:
    """One quantity of one peer, once per round."""

    values: list[float] = field(default_factory=list)

    @property
    def median(self) -> float:
        return statistics.median(self.values)

    def __str__(self) -> str:
        if not self.values:
            return ""
        return f"{number(self.median)} ({number(min(self.values))}-{number(max(self.values))})"


Figures = Mapping[str, Figure]


def interleaved(rounds: int, peers: Mapping[str, Callable[[], Mapping[str, float]]]) -> dict[str, dict[str, Figure]]:
    """Measure each peer once a round. One that cannot be measured is named on stderr and left out from then on."""
    figures: dict[str, dict[str, Figure]] = {}
    left = dict(peers)
    for number_of_round in range(rounds):
        for name in list(left):
            try:
                measured = left[name]()
            except NotMeasured as error:
                print(f"not measured: {name}: {error}", file=sys.stderr)
                del left[name]
                continue
            for quantity, value in measured.items():
                figures.setdefault(name, {}).setdefault(quantity, Figure()).values.append(value)
            shown = ", ".join(f"{quantity} {number(value)}" for quantity, value in measured.items())
            print(f"round {number_of_round + 1}: {name}: {shown}", file=sys.stderr)
    return figures


def times(figure: Figure | None, base: Figure | None) -> str:
    """How often a median holds that of the base; nothing if there is no base."""
    return f"{number(figure.median / base.median)}x" if figure and base else ""


def number(value: float) -> str:
    """With as many digits as mean something."""
    if abs(value) >= 100:
        return f"{value:.0f}"
    return f"{value:.1f}" if abs(value) >= 10 else f"{value:.2f}"


def table(title: str, header: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Print it as Markdown; the first column holds words, the others numbers."""
    print(f"\n### {title}\n")
    print("|", " | ".join(header), "|")
    print("|---|" + "---:|" * (len(header) - 1))
    for row in rows:
        print("|", " | ".join(map(str, row)), "|", flush=True)
