"""The README's commands, run as they stand there, do what the README shows."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.deployment import ROOT, Api, deployment

README = ROOT / "README.md"
BLOCK = re.compile(r"```console\n(.*?)```", re.DOTALL)
BY_CI = ("make ", "python -m pytest")  # what runs this test, or is what CI runs

# What is different each time.
VOLATILE = [
    (r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}", "<id>"),
    (r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", "<time>"),
    (r"\b\d{13}-\d+\b", "<event>"),
    (r"((?<=worker.: .)|(?<=worker.:.))\w[\w-]+(?=['\"])", "<worker>"),
    (r"\b[0-9a-f]{12}\b", "<version>"),
    (r"(?m)^(Updated: |\S+ \(\S+ \S+ \d+\): ).*$", r"<status>"),
    (r"http://127\.0\.0\.1:\d+|ws://127\.0\.0\.1:\d+", "<service>"),
]


def normal(text: str) -> str:
    for pattern, name in VOLATILE:
        text = re.sub(pattern, name, text)
    return text.strip()


def commands() -> list[tuple[str, str]]:
    """Each command of the console blocks, and the output shown below it."""
    found: list[tuple[list[str], list[str]]] = []
    for block in BLOCK.findall(README.read_text()):
        open_quote = False
        for line in block.splitlines():
            continued = bool(found) and (found[-1][0][-1].endswith("\\") or open_quote) and not found[-1][1]
            if line.startswith("$ ") or continued:
                line = line.removeprefix("$ ")
                if continued:
                    found[-1][0].append(line)
                else:
                    found.append(([line], []))
                    open_quote = False
                open_quote ^= line.count("'") % 2 == 1
            else:
                found[-1][1].append(line)
    return [("\n".join(command), "\n".join(shown)) for command, shown in found]


@pytest.fixture
def running(tmp_path: Path, redis_url: str) -> Iterator[Api]:
    with deployment(tmp_path, redis_url) as each:
        for file in ("add.py", "countdown.py"):
            shutil.copy(ROOT / "jobs" / file, each.jobs_dir)
        each.worker()
        yield each.web()


def test_the_readme_commands_do_what_the_readme_shows(running: Api, redis_url: str) -> None:
    run = [(command, shown) for command, shown in commands() if not command.startswith(BY_CI)]
    assert len(run) >= 5
    script = "\n".join(f"{command}\necho '---'" for command, _ in run)
    script = script.replace(":8000", f":{running.port}").replace("unix:///home/me/service/data/redis.sock", redis_url)

    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", script], cwd=ROOT, capture_output=True, text=True, timeout=90
    )

    assert done.returncode == 0, done.stderr
    outputs = done.stdout.split("---\n")
    for (command, shown), output in zip(run, outputs, strict=False):
        assert normal(output) == normal(shown), command


def test_the_readme_is_short_enough_to_be_read() -> None:
    assert len(README.read_text().splitlines()) < 175
