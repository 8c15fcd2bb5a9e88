"""The jobs that a web process accepts, against its peers, each with a Redis of its own: prints Markdown tables.

Usage: .venv/bin/python benchmarks/submit.py [--only flask-rq,ours,...] [--rounds 5] [--seconds 5]
                                             [--connections 16,32,64]

Every request is a POST of the same input with an Idempotency-Key of its own and is answered 202; only ours looks at
the key. No worker runs. One web process has a core of its own; Redis, which writes an append-only file, and the
callers have another. Every round measures each peer once. A figure is the median of the rounds, with the least and
the greatest. Exit code 1 if ours could not be measured.
"""

from __future__ import annotations

import argparse
import importlib
import os
import signal
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def main() -> None:
    options = _options()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that what was started is ended
    sys.path.append(str(ROOT))
    install = importlib.import_module("install")
    install.peers()
    machine = importlib.import_module("relay_parts.machine")
    os.sched_setaffinity(0, {machine.LOAD_CORE})
    print(f"{os.cpu_count()} cores, Python {sys.version.split()[0]}, {install.redis_version()} on loopback,")
    print("append-only file, written to disk every second;")
    print(f"{options.rounds} rounds, each peer once in each: median (least-greatest).")
    good = importlib.import_module("submit_parts.rates").run(options)
    sys.exit(0 if good else 1)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Measure how fast jobs are accepted.")
    parser.add_argument("--only", type=_names, default=(), metavar="A,B", help="these only (submit_parts/peers.py)")
    parser.add_argument("--rounds", type=int, default=5, help="how often each is measured; 5")
    parser.add_argument("--seconds", type=float, default=5.0, help="for how long each time; 5")
    parser.add_argument(
        "--connections", type=_numbers, default=(32,), metavar="N,M", help="of the callers, a table each; 32"
    )
    return parser.parse_args()


def _names(text: str) -> tuple[str, ...]:
    return tuple(name.strip() for name in text.split(",") if name.strip())


def _numbers(text: str) -> tuple[int, ...]:
    return tuple(map(int, _names(text)))


if __name__ == "__main__":
    main()
