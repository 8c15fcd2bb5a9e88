"""Runs RQ's own tests on WarmWorker and compares: `python -m tests.rq_suite [--stock] [--source FILE] [test_file ...]`.

Each lane has a Redis of its own, since the tests flush its databases, and takes one test file after another.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import redis

from service.embedded import binary
from service.process import die_with_parent
from tests.deployment import until
from tests.rq_suite.differs import DIFFERS
from tests.rq_suite.outcomes import Outcome, read, wrong
from tests.rq_suite.sources import NoTests, download, unpack

ROOT = Path(__file__).resolve().parents[2]
SWAP = Path(__file__).resolve().parent / "swap"
LANES = 3  # they mostly wait
RUN_DEADLINE = 900.0  # seconds in which a file may begin
FILE_DEADLINE = 300.0  # seconds for one test file; the longest takes about 60 by itself


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


class Lane:
    """One Redis, and the test files that run on it."""

    def __init__(self, folder: Path, worker: str) -> None:
        self._folder = folder
        (folder / "tmp").mkdir(parents=True)
        port = free_port()
        self._redis = subprocess.Popen(
            [binary(), "--port", str(port), "--bind", "127.0.0.1", "--save", "", "--databases", "32"],
            cwd=folder,
            stdout=subprocess.DEVNULL,
            preexec_fn=die_with_parent,
        )
        until(lambda: self._redis.poll() is None and answers(port))
        self._environment = {
            **{name: value for name, value in os.environ.items() if not name.startswith(("RQ_", "REDIS_", "PYTEST_"))},
            "RQ_SUITE_PORT": str(port),
            "RQ_SUITE_WORKER": worker,
            "RUN_SLOW_TESTS_TOO": "1",
            "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1",
            "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]),
            "TMPDIR": str(folder / "tmp"),
        }

    def run(self, source: Path, name: str, *tests: str) -> tuple[dict[str, Outcome], str]:
        """Run one of the test files, or some of its tests. Returns the outcomes, and what pytest printed."""
        report = self._folder / "report.xml"
        report.unlink(missing_ok=True)
        wanted = [f"tests/{test.replace('::', '.py::', 1)}" for test in tests] or [f"tests/{name}"]
        # RQ's tests first: ours are called `tests`, too.
        environment = {**self._environment, "PYTHONPATH": os.pathsep.join(map(str, (SWAP, source, ROOT)))}
        process = subprocess.Popen(
            [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-q", f"--junitxml={report}", *wanted],
            cwd=source,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
        try:
            printed, _ = process.communicate(timeout=FILE_DEADLINE)
        except subprocess.TimeoutExpired:
            printed = f"{name} did not end within {FILE_DEADLINE:.0f} s"
        finally:
            with contextlib.suppress(ProcessLookupError):  # also what a test has left behind
                os.killpg(process.pid, signal.SIGKILL)
        return (read(report) if report.exists() else {name: "failed"}), printed

    def close(self) -> None:
        self._redis.kill()
        self._redis.wait()


def answers(port: int) -> bool:
    """Whether a Redis is there."""
    with redis.Redis(port=port) as client:
        try:
            return bool(client.ping())
        except redis.exceptions.RedisError:
            return False


class Run:
    """All tests of some files. Prints a line for each file."""

    def __init__(self, source: Path, worker: str, names: list[str]) -> None:
        self._source = source
        self._worker = worker
        self._deadline = time.monotonic() + RUN_DEADLINE
        self._waiting = sorted(names, key=lambda name: (source / "tests" / name).stat().st_size)
        self.outcomes: dict[str, Outcome] = {}
        self.logs: list[str] = []

    def all(self, folder: Path) -> None:
        """Run the files, the largest first, in lanes."""
        lanes = [Lane(folder / f"lane{number}", self._worker) for number in range(LANES)]
        threads = [threading.Thread(target=self._work, args=[lane]) for lane in lanes]
        try:
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
        finally:
            for lane in lanes:
                lane.close()

    def _work(self, lane: Lane) -> None:
        with contextlib.suppress(IndexError):
            while True:
                name = self._waiting.pop()
                if time.monotonic() < self._deadline:
                    self._run_one(lane, name)
                else:
                    print(f"{name} is left out: the run takes too long")
                    self.outcomes[name] = "failed"

    def _run_one(self, lane: Lane, name: str) -> None:
        began = time.monotonic()
        found, printed = lane.run(self._source, name)
        unexpected = failed_of(found) - DIFFERS.keys() - {name}
        if unexpected:
            # Many of RQ's tests wait for a second and then look: on a busy machine some look too early.
            again, printed = lane.run(self._source, name, *unexpected)
            found.update(again)
            for test in unexpected - failed_of(again):
                print(f"passed the second time: {test}")
        self.outcomes.update(found)
        failed = failed_of(found)
        print(f"{name:36} {len(found):4} tests {len(failed):3} failed {time.monotonic() - began:6.1f} s", flush=True)
        if not DIFFERS.keys() >= failed:
            self.logs.append(printed)


def failed_of(outcomes: dict[str, Outcome]) -> set[str]:
    return {test for test, outcome in outcomes.items() if outcome == "failed"}


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.rq_suite", description="Run RQ's own tests on WarmWorker.")
    parser.add_argument("files", nargs="*", help="test files, as test_worker.py; default: all")
    parser.add_argument("--source", type=Path, help="RQ's source distribution; default: downloaded with pip")
    parser.add_argument("--stock", action="store_true", help="run them on RQ's own workers: what fails there too?")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="rq-suite-") as name:
        folder = Path(name)
        source = folder / "source"
        try:
            unpack(options.source or download(folder), source)
        except NoTests as error:
            print(f"error: {error}", file=sys.stderr)
            return 1
        names = options.files or [path.name for path in (source / "tests").glob("test_*.py")]
        run = Run(source, "stock" if options.stock else "warm", names)
        run.all(folder)
    print(*run.logs, sep="\n")
    return verdict(run.outcomes, {} if options.stock else of_files(names))


def of_files(names: list[str]) -> dict[str, str]:
    """The part of the list that is about some of the test files."""
    return {test: why for test, why in DIFFERS.items() if f"{test.partition('::')[0]}.py" in names}


def verdict(outcomes: dict[str, Outcome], differs: dict[str, str]) -> int:
    """Print what came out. Returns the exit code."""
    lines = wrong(outcomes, differs)
    print("\n".join(lines))
    count = {kind: list(outcomes.values()).count(kind) for kind in ("passed", "failed", "skipped")}
    print(
        f"{count['passed']} passed, {count['failed']} failed, {count['skipped']} skipped; {len(differs)} are to differ"
    )
    return 1 if lines else 0


if __name__ == "__main__":
    sys.exit(main())
