"""What the operating system must do for a child process of ours."""

from __future__ import annotations

import ctypes
import signal
import sys

PR_SET_PDEATHSIG = 1


def die_with_parent(signum: int = signal.SIGKILL) -> None:
    """Ask the kernel to send `signum` to this process when the thread that started it ends. Linux only.

    Source: prctl(2), PR_SET_PDEATHSIG. Elsewhere it does nothing: a closed pipe must tell the child.
    """
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signum)
