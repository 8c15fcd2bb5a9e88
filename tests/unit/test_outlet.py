"""A process's own output: nothing that its reader does, or does not, holds up whoever writes."""

from __future__ import annotations

import contextlib
import os
import pty
import re
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from service.output import Outlet

LINE = b"x" * 99 + b"\n"


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    reader, writer = os.pipe()
    yield reader, writer
    for end in (reader, writer):
        with contextlib.suppress(OSError):
            os.close(end)


def fill(outlet: Outlet) -> None:
    for _ in range(20_000):  # 2 MB
        outlet.write(LINE)


def test_a_full_pipe_drops_lines_and_says_so_when_it_is_read_again(pipe: tuple[int, int]) -> None:
    reader, writer = pipe
    outlet = Outlet(writer)
    fill(outlet)
    kept = os.read(reader, 2**20)

    outlet.write(b"read again\n")

    more = os.read(reader, 2**20)
    while b"read again" not in more:
        more += os.read(reader, 2**20)
    said = re.findall(rb"\n\[(\d+) lines were not written here: nobody read them\]\n", kept + more)
    assert sum(map(int, said)) == 20_000 - (kept + more).count(LINE)
    assert 1 <= len(said) <= 2  # it may just have had room for the first


def test_the_one_that_gave_the_pipe_may_still_wait_for_it(pipe: tuple[int, int]) -> None:
    Outlet(pipe[1])

    assert os.get_blocking(pipe[1])


@pytest.mark.parametrize("end", ["pipe", "socket", "terminal"])
def test_a_reader_that_has_gone_or_stands_still_is_no_error(end: str) -> None:
    if end == "socket":
        pair = [each.detach() for each in socket.socketpair()]
    else:
        pair = list(os.pipe() if end == "pipe" else pty.openpty())
    reader, writer = pair
    outlet = Outlet(writer)
    fill(outlet)

    os.close(reader)

    fill(outlet)
    os.close(writer)
    outlet.write(LINE)


def test_a_file_gets_all_of_it_in_order(tmp_path: Path) -> None:
    path = tmp_path / "log"
    with path.open("wb") as file:
        outlet = Outlet(file.fileno())
        outlet.write_text("first\n")
        os.write(file.fileno(), b"another's\n")
        outlet.write_text("y" * 10_000 + "\ud800\n")

    assert path.read_bytes() == b"first\nanother's\n" + b"y" * 10_000 + b"\\ud800\n"
