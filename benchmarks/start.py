"""How long `make run` takes until Redis, web and worker answer, once everything is installed.

Usage: .venv/bin/python benchmarks/start.py [rounds]. Prints each round, and the median and the range.
"""

from __future__ import annotations

import os
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def start_and_stop(data_dir: str) -> float:
    """Seconds from `make run` to its last line."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    began = time.monotonic()
    process = subprocess.Popen(
        ["make", "run"],  # noqa: S607 -- the one on PATH, as a user would
        cwd=ROOT,
        env={**os.environ, "PORT": str(port), "DATA_DIR": data_dir},
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    assert process.stdout is not None
    ready = any(line.startswith("Ctrl-C") for line in process.stdout)
    seconds = time.monotonic() - began
    os.killpg(process.pid, signal.SIGINT)
    process.wait()
    if not ready:
        sys.exit("make run ended before all answered")
    return seconds


def main() -> None:
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 5
    with tempfile.TemporaryDirectory() as data_dir:
        start_and_stop(data_dir)  # installs what is missing
        seconds = [start_and_stop(data_dir) for _ in range(rounds)]
    print("seconds:", " ".join(f"{each:.2f}" for each in seconds))
    spread = f"{min(seconds):.2f} to {max(seconds):.2f}"
    print(f"median {statistics.median(seconds):.2f} s, {spread}, {os.cpu_count()} cores")


if __name__ == "__main__":
    main()
