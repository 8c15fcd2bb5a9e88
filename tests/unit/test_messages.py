"""What a supervisor believes of what its work-horse says."""

from __future__ import annotations

import contextlib
import signal
import socket
import struct
import threading
import time
from typing import Any

import pytest

from service.worker.link import Link, LinkClosed, Unreadable
from service.worker.messages import checked

FAILURE = {
    "error": {"type": "model_error", "message": "ValueError"},
    "traceback": "",
    "exceptions": ["ValueError"],
    "again": True,
    "after": None,
}


@pytest.mark.parametrize(
    "message",
    [
        {"models": [{"name": "a"}], "broken": []},
        {"ready": "a", "seconds": 1.5},
        {"unloaded": "a"},
        {"failed": "a", **FAILURE},
        {"job": 1, "begun": True},
        {"job": 1, "interrupted": True},
        {"job": 1, "finished": "null"},
        {"job": 1, "events": [["log", "{}"], ["progress", "{}"]], "meta": "{}"},
        {"job": 1, **FAILURE, "after": 2.5},
        {"a word": "of a later version"},
    ],
)
def test_what_a_work_horse_says_is_believed(message: dict[str, Any]) -> None:
    assert checked(message) is message


@pytest.mark.parametrize(
    "message",
    [
        {"models": 5},
        {"models": [1], "broken": []},
        {"ready": None},
        {"failed": "a", "error": "no"},
        {"job": 1},
        {"job": 1, "finished": {"no": "text"}},
        {"job": 1, "events": 5},
        {"job": 1, "events": [["finished", "{}"]]},
        {"job": 1, "events": [["log", {}]]},
        {"job": 1, "events": [[["log"], "{}"]]},
        {"job": 1, "events": [["log", "{}"]], "meta": 5},
        {"job": 1, **FAILURE, "after": "soon"},
        {"job": 1, **FAILURE, "exceptions": [1]},
        {"job": 1, "error": None},
    ],
)
def test_what_makes_no_sense_is_unreadable(message: dict[str, Any]) -> None:
    with pytest.raises(Unreadable):
        checked(message)


@pytest.mark.parametrize("data", [b"\xff\xff\xff\xff", struct.pack("!I", 2) + b"[]", struct.pack("!I", 1) + b"{"])
def test_what_is_no_message_closes_a_link(data: bytes) -> None:
    ours, theirs = socket.socketpair()
    link = Link(ours, longest=1000)
    with theirs:
        theirs.sendall(data)
        with pytest.raises(LinkClosed):
            list(link.messages())
    link.close()


@pytest.mark.parametrize("size", [10, 10_000, 100_000])
def test_a_signals_handler_that_raises_leaves_no_half_message(size: int) -> None:
    ours, theirs = socket.socketpair()
    here, there = Link(ours), Link(theirs)
    heard: list[Any] = []

    def listen() -> None:
        with contextlib.suppress(LinkClosed):
            while True:
                heard.append(here.receive()["text"])
                time.sleep(0.0005)  # so that the other side has to wait

    listener = threading.Thread(target=listen)
    listener.start()
    sending: set[int] = set()  # a signal may come late: then it is to raise nothing here

    def interrupt(*_: object) -> None:
        if sending:
            raise TimeoutError

    before = signal.signal(signal.SIGALRM, interrupt)
    for number in range(400):
        text = f"{number}:{'x' * size}"
        with contextlib.suppress(TimeoutError):
            sending.add(number)
            signal.setitimer(signal.ITIMER_REAL, 0.00001 * (number % 50 + 1))
            there.send({"text": text})
            sending.clear()
        sending.clear()
    signal.setitimer(signal.ITIMER_REAL, 0)
    signal.signal(signal.SIGALRM, before)
    there.send({"text": "last"})
    there.close()
    listener.join()
    here.close()

    assert heard[-1] == "last"
    assert all(len(text.partition(":")[2]) == size for text in heard[:-1])
