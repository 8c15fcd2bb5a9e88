"""The most sockets on one job at 10 events a second that one web process carries."""

from __future__ import annotations

from argparse import Namespace

from relay_parts.carry import Search


def run(options: Namespace) -> bool:
    search = Search(options, first=lambda peer: peer.watchers, jobs=lambda sockets: 1)
    return search.run("Sockets on one job at 10 events/s")
