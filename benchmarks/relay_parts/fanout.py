"""The most sockets on one job at 10 events a second that one web process carries."""

from __future__ import annotations

from argparse import Namespace

from relay_parts.carry import Search
from relay_parts.step import Timing

TIMING = Timing(3.0, 20.0)
"""All wait for the same event: p99 is that of the worst few of 200 events, however many sockets there are."""


def run(options: Namespace) -> bool:
    search = Search(options, first=lambda peer: peer.watchers, jobs=lambda sockets: 1, timing=TIMING)
    return search.run("Sockets on one job at 10 events/s")
