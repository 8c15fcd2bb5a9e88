"""What a supervisor believes of what its work-horse says."""

from __future__ import annotations

import socket
import struct
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
