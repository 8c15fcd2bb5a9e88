"""The embedding model alone, in one process and without a queue: what no queue can exceed.

Usage: python bare.py SECONDS. Prints sentences a second as JSON: one at a time, and 32 at a time.
"""

from __future__ import annotations

import json
import sys
import time

from embedding import embedder, sentence

AT_ONCE = 32


def main() -> None:
    seconds = float(sys.argv[1])
    model = embedder()
    model.many([sentence(number) for number in range(AT_ONCE)])  # warm
    print(json.dumps({"one": _rate(1, seconds), "batches": _rate(AT_ONCE, seconds)}))


def _rate(size: int, seconds: float) -> float:
    model = embedder()
    done = 0
    began = time.monotonic()
    while time.monotonic() < began + seconds:
        texts = [sentence(number) for number in range(done, done + size)]
        if size == 1:
            model.one(texts[0])
        else:
            model.many(texts)
        done += size
    return done / (time.monotonic() - began)


if __name__ == "__main__":
    main()
