"""How many sockets each peer carries: shared by `jobs` and `fanout`."""

from __future__ import annotations

import math
import sys
from argparse import Namespace
from collections.abc import Callable, Mapping
from functools import partial

from measure import Figures, interleaved, number, table, times
from redis_server import RedisServer

from relay_parts.peers import PEERS_OF_OURS, Peer
from relay_parts.step import LIMIT, Step, Timing, greatest, step

MOST = 18_000  # of open files and of ports on loopback
COARSE, FINE = 1.5, 1.15  # from step to step; as soon as a round before has said where to look
FINEST, FINEST_QUICK = 1.08, 1.3


class Search:
    """The greatest number of sockets of each peer, once a round, and all steps on the way."""

    def __init__(
        self, options: Namespace, first: Callable[[Peer], int], jobs: Callable[[int], int], timing: Timing
    ) -> None:
        """`jobs`: on how many jobs so many sockets are."""
        self._first = first
        self._jobs = jobs
        self._timing = Timing(2.0, timing.measured / 2) if options.quick else timing
        self._finest = FINEST_QUICK if options.quick else FINEST
        self._found: dict[str, int] = {}
        self._steps: list[tuple[str, Step]] = []
        self._peers = chosen(options)
        self._rounds = options.rounds

    def run(self, title: str) -> bool:
        """Print the tables; whether all that a server of ours sent was whole."""
        with RedisServer() as server:
            figures = interleaved(self._rounds, {name: partial(self._measure, name, server) for name in self._peers})
        self._show(title, figures)
        bad = [got for name, got in self._steps if self._peers[name].ours and _faulty(got)]
        for got in bad:
            print(f"WRONG: ours, {got.sockets:,} sockets: {got.missing} events missing, {got.again} again", flush=True)
        return not bad and all(name in figures for name, peer in self._peers.items() if peer.ours)

    def _measure(self, name: str, server: RedisServer) -> Mapping[str, float]:
        peer = self._peers[name]
        first, factor = (self._found[name], FINE) if name in self._found else (self._first(peer), COARSE)

        def measured(sockets: int) -> Step:
            got = step(peer, server, sockets, self._jobs(sockets), self._timing)
            self._steps.append((name, got))
            print(f"  {name}: {_sentence(got)}", file=sys.stderr, flush=True)
            return got

        best = greatest(measured, first, factor, self._finest, MOST)
        self._found[name] = best.sockets
        return {
            "sockets": best.sockets,
            "p50": best.p50 * 1000,
            "p99": best.p99 * 1000,
            "cpu": best.cpu * 100,
            "memory": best.memory,
        }

    def _show(self, title: str, figures: Mapping[str, Figures]) -> None:
        naive, asgi = (figures.get(name, {}).get("sockets") for name in ("naive", "starlette"))
        table(
            f"{title}, p99 < {LIMIT * 1000:.0f} ms",
            ["server, one process", "sockets", "x naive", "x Starlette", "p50 ms", "p99 ms", "CPU %", "kB a socket"],
            (
                [
                    self._peers[name].label,
                    each["sockets"],
                    times(each["sockets"], naive),
                    times(each["sockets"], asgi),
                    *(each[quantity] for quantity in ("p50", "p99", "cpu", "memory")),
                ]
                for name, each in figures.items()
            ),
        )
        table(
            f"{title}: all steps",
            ["server", "sockets", "verdict", "p50 ms", "p99 ms", "CPU %", "kB a socket"]
            + ["generator: CPU %", "publisher late, p99 ms", "Redis, p99 ms", "probes wait, p99 ms", "others, CPU %"],
            ([name, *_row(got)] for name, got in self._steps),
        )
        if disturbed := sum(got.disturbed for _, got in self._steps):
            print(f"\n{disturbed} of {len(self._steps)} steps failed while others used the cores, and were repeated.")


def chosen(options: Namespace) -> dict[str, Peer]:
    """Those of --only; all without it."""
    picked = {name: peer for name, peer in PEERS_OF_OURS.items() if not options.only or name in options.only}
    if not picked:
        sys.exit(f"error: none of {', '.join(options.only)} is among {', '.join(PEERS_OF_OURS)}")
    return picked


def _faulty(got: Step) -> bool:
    # An overloaded server may be too late with some, or close a socket that then comes again; never may it repeat.
    return bool(got.again) or bool(got.missing and not got.closed and got.p99 < LIMIT)


def _row(got: Step) -> list[str]:
    seconds = (got.p50, got.p99)
    waits = (got.late, got.redis, got.away)
    return [
        f"{got.sockets:,}",
        got.verdict,
        *map(_ms, seconds),
        f"{got.cpu:.0%}".rstrip("%"),
        number(got.memory),
        f"{got.generator:.0%}".rstrip("%"),
        *map(_ms, waits),
        f"{got.others:.0%}, {got.others_of_load:.0%}".replace("%", ""),
    ]


def _sentence(got: Step) -> str:
    return (
        f"{got.sockets:,} sockets: {got.verdict}; p50 {_ms(got.p50)} ms, p99 {_ms(got.p99)} ms, CPU {got.cpu:.0%}, "
        f"{number(got.memory)} kB a socket; generator {got.generator:.0%}, publisher {_ms(got.late)} ms late, "
        f"Redis {_ms(got.redis)} ms, probes wait {_ms(got.away)} ms; others {got.others:.0%}, {got.others_of_load:.0%}"
    )


def _ms(seconds: float) -> str:
    return "never" if math.isinf(seconds) else number(seconds * 1000)
