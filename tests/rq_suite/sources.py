"""Where RQ's tests come from: the source distribution of the version that is installed, from the package index."""

from __future__ import annotations

import subprocess
import sys
import tarfile
from importlib.metadata import version
from pathlib import Path

WANTED = ("tests/", "pyproject.toml", "tox.ini", "README.md")
DOWNLOAD_DEADLINE = 180.0


class NoTests(Exception):
    """RQ's tests can't be had; the message says why and what to do."""


def download(folder: Path) -> Path:
    """RQ's source distribution, in `folder`. Raises NoTests."""
    wanted = f"rq=={version('rq')}"
    # What pip builds to learn the metadata stays in an environment of its own.
    command = [sys.executable, "-m", "pip", "download", wanted, "--no-binary", "rq", "--no-deps", "--dest", str(folder)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=DOWNLOAD_DEADLINE)
        why = done.stderr.strip().splitlines()[-1:] or [f"exit code {done.returncode}"]
    except subprocess.TimeoutExpired:
        why = [f"no answer within {DOWNLOAD_DEADLINE:.0f} s"]
    found = list(folder.glob("rq-*.tar.gz"))
    if not found:
        raise NoTests(
            f"pip can't download the source distribution of {wanted} ({why[0]}): see that the package index is "
            "reachable (PIP_INDEX_URL), or download it elsewhere and name the file: --source rq-x.y.z.tar.gz"
        )
    return found[0]


def unpack(archive: Path, folder: Path) -> None:
    """RQ's tests, without RQ: what is tested is what is installed. Raises NoTests."""
    try:
        with tarfile.open(archive) as packed:
            top = packed.getnames()[0].split("/")[0]
            if top != f"rq-{version('rq')}":
                raise NoTests(f"{archive.name} holds {top}, but rq {version('rq')} is installed: they must be the same")
            for member in packed.getmembers():
                member.name = member.name.removeprefix(f"{top}/")
                if member.name.startswith(WANTED):
                    packed.extract(member, folder, filter="data")
    except (OSError, tarfile.TarError, IndexError) as error:
        raise NoTests(f"{archive} is no source distribution of RQ ({error})") from None
    if not (folder / "tests" / "test_worker.py").exists():
        raise NoTests(f"{archive.name} has no tests")
