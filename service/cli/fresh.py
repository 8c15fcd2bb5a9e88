"""`run --fresh N`: a model several times, each in a new process; how long each took, and how much memory."""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path

from service.cli.pairs import STDIN, file_of
from service.cli.terminal import say
from service.process import ending_with_us


def run_fresh(options: argparse.Namespace) -> int:
    """Run it, one process after another; 1 if one of them failed, 2 if it was asked for wrongly."""
    seconds, megabytes = [], []
    with ExitStack() as stack:
        command = _command(options, stack)
        for number in range(1, options.fresh + 1):
            say(f"run {number} of {options.fresh}")
            began = time.monotonic()
            process = subprocess.Popen(command, preexec_fn=ending_with_us())
            code, most = _end_of(process)
            seconds.append(time.monotonic() - began)
            megabytes.append(most / 2**20)
            say(f"run {number} of {options.fresh}: {seconds[-1]:.2f} s, {megabytes[-1]:.0f} MB, exit code {code}")
            if code:
                return code if code > 0 else 1
    say(f"{options.fresh} runs: {_figure(seconds, '.2f')} s, {_figure(megabytes, '.0f')} MB: median (least-greatest)")
    return 0


def _command(options: argparse.Namespace, stack: ExitStack) -> list[str]:
    command = [sys.executable, "-m", "service", "run", options.model]
    command += [word for word in options.fields if word != STDIN]
    if options.timeout is not None:
        command += ["--timeout", str(options.timeout)]
    file = file_of(options)
    if file == STDIN:  # which can be read once only
        copy = Path(stack.enter_context(tempfile.TemporaryDirectory())) / "input.json"
        copy.write_bytes(sys.stdin.buffer.read())
        file = str(copy)
    return [*command, "--input", file] if file else command


def _end_of(process: subprocess.Popen[bytes]) -> tuple[int, int]:
    """Its exit code, and the most memory that it has had, in bytes."""
    try:
        _, status, used = os.wait4(process.pid, 0)
    except KeyboardInterrupt:  # from the terminal, which has told it too
        process.wait()
        raise
    process.returncode = os.waitstatus_to_exitcode(status)
    return process.returncode, used.ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def _figure(values: list[float], form: str) -> str:
    return f"{statistics.median(values):{form}} ({min(values):{form}}-{max(values):{form}})"
