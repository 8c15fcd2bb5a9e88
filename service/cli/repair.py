"""`repair`: the embedded Redis's data, when it is damaged, up to where it can be read."""

from __future__ import annotations

import argparse

from service import append_only
from service.data_folder import Lock, prepare, told
from service.settings import Settings


def run(options: argparse.Namespace, settings: Settings) -> int:
    """Keep a copy, cut off the rest, and say so. Raises Failure."""
    data_dir = settings.data_dir.resolve()
    prepare(data_dir)
    lock = Lock(data_dir)
    try:
        with told(data_dir):
            print(append_only.repair(data_dir / "redis"))
    finally:
        lock.release()
    return 0
