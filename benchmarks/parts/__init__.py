"""What is measured, a part each."""

from __future__ import annotations

import sys
from argparse import Namespace
from collections.abc import Mapping

from peers.catalog import Peer


def chosen(peers: Mapping[str, Peer], options: Namespace) -> dict[str, Peer]:
    """Those of --only; all without it."""
    picked = {name: peer for name, peer in peers.items() if not options.only or name in options.only}
    if not picked:
        sys.exit(f"error: none of {', '.join(options.only)} is among {', '.join(peers)}")
    return picked


def fewer(count: int, options: Namespace) -> int:
    """A tenth with --quick."""
    return max(4, count // 10) if options.quick else count
