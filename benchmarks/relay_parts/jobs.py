"""The most sockets, each on its own job at 10 events a second, that one web process carries."""

from __future__ import annotations

from argparse import Namespace

from relay_parts.carry import Search
from relay_parts.step import Timing


def run(options: Namespace) -> bool:
    search = Search(options, first=lambda peer: peer.jobs, jobs=lambda sockets: sockets, timing=Timing(5.0, 8.0))
    return search.run("Sockets, each on its own job at 10 events/s")
