"""The worker against its peers, on one Redis of its own: prints Markdown tables.

Usage: .venv/bin/python benchmarks/worker.py [--part trivial,latency,...] [--only rq,ours,...] [--rounds 5] [--quick]

Every round measures each peer once, so that what disturbs the machine disturbs all alike. A figure is the
median of the rounds, with the least and the greatest. Exit code 1 if `drain` finds a fault.
"""

from __future__ import annotations

import argparse
import importlib
import os
import signal
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PARTS = ("trivial", "latency", "embed", "depth", "start", "drain")


def main() -> None:
    options = _options()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that what was started is ended
    sys.path.append(str(ROOT))
    install = importlib.import_module("install")
    install.peers()
    print(f"{os.cpu_count()} cores, Python {sys.version.split()[0]}, {install.redis_version()} on loopback,")
    print(f"nothing written to disk; {options.rounds} rounds, each peer once in each: median (least-greatest).")
    good = True
    for part in options.part:
        good &= importlib.import_module(f"parts.{part}").run(options)
    sys.exit(0 if good else 1)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Measure the worker and its peers.")
    parser.add_argument("--part", type=_parts, default=PARTS, metavar="A,B", help=f"of {', '.join(PARTS)}; all")
    parser.add_argument("--only", type=_names, default=(), metavar="A,B", help="these peers only (peers/catalog.py)")
    parser.add_argument("--rounds", type=int, default=5, help="how often each is measured; 5")
    parser.add_argument("--quick", action="store_true", help="a tenth of the jobs: to see that it works")
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
