"""The callers of `callers.py`, in a process of their own, so that nothing here is in their way."""

from __future__ import annotations

import http.client
import socket
import threading
import time
from multiprocessing.connection import Connection

from service.process import die_with_parent

CALLERS = 4
PAUSE = 0.05  # seconds between two pairs of calls of one caller: 80 POST and 80 GET a second in all
WARM = 1.0  # seconds at first that do not count


def call_all(port: int, seconds: float, parent: Connection) -> None:
    """Send the seconds that each call took, by method."""
    die_with_parent()
    taken: dict[str, list[float]] = {"POST": [], "GET": []}
    begin = time.monotonic() + 0.2
    failed: list[BaseException] = []

    def caller(number: int) -> None:
        try:
            _call(port, begin + PAUSE * number / CALLERS, seconds, taken)
        except BaseException as error:
            failed.append(error)

    callers = [threading.Thread(target=caller, args=(number,)) for number in range(CALLERS)]
    for each in callers:
        each.start()
    for each in callers:
        each.join()
    if failed:
        raise failed[0]
    parent.send(taken)


def _call(port: int, begin: float, seconds: float, taken: dict[str, list[float]]) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    connection.connect()
    assert connection.sock is not None
    connection.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    due = begin
    while due < begin + WARM + seconds:
        time.sleep(max(0.0, due - time.monotonic()))
        # A call counts from when it was due: one that is held up holds up those behind it.
        location = _answered(connection, "POST", "/v1/models/add/jobs", b'{"input":{"x":1,"y":2}}', 202)
        posted = time.monotonic()
        _answered(connection, "GET", location, None, 200)
        got = time.monotonic()
        if due >= begin + WARM:
            taken["POST"].append(posted - due)
            taken["GET"].append(got - posted)
        due += PAUSE


def _answered(connection: http.client.HTTPConnection, method: str, path: str, body: bytes | None, status: int) -> str:
    connection.request(method, path, body, {"Content-Type": "application/json"} if body else {})
    answer = connection.getresponse()
    text = answer.read()
    if answer.status != status:
        raise RuntimeError(f"{method} {path}: {answer.status} {text[:200]!r}")
    return answer.headers.get("Location", "")
