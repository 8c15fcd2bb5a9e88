"""The relay against its peers, on one Redis of its own: prints Markdown tables.

Usage: .venv/bin/python benchmarks/relay.py [--part jobs,fanout,...] [--only naive,ours,...] [--rounds 3] [--quick]

jobs     the most sockets, each on its own job at 10 events/s, that one web process carries
fanout   the same, all on one job
idle     10,000 sockets on which nothing happens: time, memory, CPU, threads (ours)
callers  what POST and GET take beside 5,000 who wait (ours)
writer   the events/s that one worker writes, and what progress adds to a job (ours)

The server has a core of its own; Redis and all that makes load have another. A figure is the median of the
rounds, with the least and the greatest. Exit code 1 if an event of ours was missing, came twice or out of order,
or a part could not measure ours. A step of `jobs` and `fanout` waits for a quiet machine, and one that fails while
others work is repeated; where they never pause, `nice -n -10` before it (as root) helps.
"""

from __future__ import annotations

import argparse
import importlib
import os
import resource
import signal
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PARTS = ("jobs", "fanout", "idle", "callers", "writer")


def main() -> None:
    options = _options()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that what was started is ended
    sys.path.append(str(ROOT))
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    install = importlib.import_module("install")
    install.peers()
    machine = importlib.import_module("relay_parts.machine")
    os.sched_setaffinity(0, {machine.LOAD_CORE})
    print(f"{os.cpu_count()} cores, Python {sys.version.split()[0]}, {install.redis_version()} on loopback;")
    print(f"{options.rounds} rounds, each server once in each: median (least-greatest).")
    good = True
    for part in options.part:
        good &= importlib.import_module(f"relay_parts.{part}").run(options)
    sys.exit(0 if good else 1)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Measure the relay and its peers.")
    parser.add_argument("--part", type=_parts, default=PARTS, metavar="A,B", help=f"of {', '.join(PARTS)}; all")
    parser.add_argument("--only", type=_names, default=(), metavar="A,B", help="these only (relay_parts/peers.py)")
    parser.add_argument("--rounds", type=int, default=3, help="how often each is measured; 3")
    parser.add_argument("--waiters", type=int, default=10_000, help="sockets of `idle`; half as many in `callers`")
    parser.add_argument("--quick", action="store_true", help="shorter and coarser: to see that it works")
    return parser.parse_args()


def _names(text: str) -> tuple[str, ...]:
    return tuple(name.strip() for name in text.split(",") if name.strip())


def _parts(text: str) -> tuple[str, ...]:
    names = _names(text)
    if unknown := [name for name in names if name not in PARTS]:
        raise argparse.ArgumentTypeError(f"no part {', '.join(unknown)}")
    return names


if __name__ == "__main__":
    main()
