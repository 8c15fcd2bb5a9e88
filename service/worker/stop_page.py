"""Which unit is asked to leave, and whether the worker ends: memory that a supervisor and its work-horse share.

A signal is seen by Python code of the main thread only, and not while that is in C code. A model's threads look here.
"""

from __future__ import annotations

import mmap
import os
import struct
import tempfile

_NUMBER = struct.Struct("=Q")
_ENDING, _UNIT = 0, 8  # where they are
_SIZE = 16


class StopPage:
    """The supervisor's side, which writes."""

    def __init__(self) -> None:
        self.fileno = _file()
        """For the work-horse to inherit."""
        os.truncate(self.fileno, _SIZE)
        self._memory = mmap.mmap(self.fileno, _SIZE)

    def ask(self, unit: int) -> None:
        """This unit of the main lane is asked to leave."""
        _NUMBER.pack_into(self._memory, _UNIT, unit)

    def end(self) -> None:
        """The worker is asked to end."""
        self._memory[_ENDING] = 1

    def close(self) -> None:
        self._memory.close()
        os.close(self.fileno)


class Stops:
    """The work-horse's side, which reads."""

    def __init__(self, fileno: int) -> None:
        self._memory = mmap.mmap(fileno, _SIZE, access=mmap.ACCESS_READ)
        os.close(fileno)

    def asked(self, unit: int) -> bool:
        """Whether a unit of the main lane is asked to leave, or the worker to end."""
        return self.ending or bool(_NUMBER.unpack_from(self._memory, _UNIT)[0] == unit)

    @property
    def ending(self) -> bool:
        """Whether the worker is asked to end."""
        return self._memory[_ENDING] == 1


def _file() -> int:
    if hasattr(os, "memfd_create"):  # Linux: no folder need be writable
        return os.memfd_create("stops")
    with tempfile.TemporaryFile() as file:
        return os.dup(file.fileno())
