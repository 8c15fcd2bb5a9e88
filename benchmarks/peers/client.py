"""Queues jobs, or times them one by one, with the library of a peer; runs in that peer's environment.

Usage: python -m peers.client MODULE queue TASK COUNT
       python -m peers.client MODULE latency TASK COUNT poll|native
The second prints the seconds from before the submit to the result, of each job, as JSON.
"""

from __future__ import annotations

import importlib
import json
import random
import sys
import time
from types import ModuleType

POLL = 0.0002
WARM_UP = 20
DEADLINE = 60


def main() -> None:
    name, action, task, count, *way = sys.argv[1:]
    peer = importlib.import_module(f"peers.{name}")
    if action == "queue":
        peer.submit_many(task, int(count))
        return
    for number in range(WARM_UP):
        _time(peer, task, number, "poll")
    pause = random.Random(1)  # noqa: S311 -- no secret
    seconds = []
    for number in range(int(count)):
        time.sleep(pause.uniform(0.002, 0.006))  # until the worker is idle again, at no fixed beat
        seconds.append(_time(peer, task, number, way[0]))
    print(json.dumps(seconds))


def _time(peer: ModuleType, task: str, number: int, way: str) -> float:
    began = time.perf_counter()
    handle = peer.submit(task, number)
    if way == "native":
        peer.wait(handle)
    else:
        while not peer.stored(handle):
            if time.perf_counter() > began + DEADLINE:
                sys.exit("the result does not come")
            time.sleep(POLL)
    return time.perf_counter() - began


if __name__ == "__main__":
    main()
