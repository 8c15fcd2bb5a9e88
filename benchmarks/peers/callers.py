"""64 callers of LitServe. Usage: python -m peers.callers PORT COUNT. Prints the rate after the first tenth."""

from __future__ import annotations

import http.client
import json
import sys
import threading
import time
from collections.abc import Iterator

from embedding import sentence

CALLERS = 64
LOOK = 0.01  # a batch ends at once: all of it that ends by then, as for those whose results are counted in Redis
HEADERS = {"Content-Type": "application/json"}


def main() -> None:
    port, count = map(int, sys.argv[1:])
    _until_ready(port)
    numbers = iter(range(count))
    ended: list[float] = []
    callers = [threading.Thread(target=_call, args=(port, numbers, ended)) for _ in range(CALLERS)]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join()
    if len(ended) < count:
        sys.exit(f"{count - len(ended)} of {count} calls failed")
    ended.sort()
    began = ended[count // 10 - 1] + LOOK
    before = sum(1 for each in ended if each <= began)
    print(json.dumps((count - before) / (ended[-1] - began)))


def _call(port: int, numbers: Iterator[int], ended: list[float]) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    for number in numbers:
        connection.request("POST", "/predict", json.dumps({"text": sentence(number)}), HEADERS)
        answer = connection.getresponse()
        body = answer.read()
        if answer.status != 200:
            raise RuntimeError(f"{answer.status}: {body[:200]!r}")
        json.loads(body)
        ended.append(time.monotonic())


def _until_ready(port: int) -> None:
    deadline = time.monotonic() + 60
    while True:
        try:
            connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
            connection.request("GET", "/health")
            if connection.getresponse().status == 200:
                return
        except OSError:
            pass
        if time.monotonic() > deadline:
            sys.exit("LitServe does not answer")
        time.sleep(0.1)


if __name__ == "__main__":
    main()
