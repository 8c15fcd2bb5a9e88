"""What must be there first: the peers, in a virtual environment of their own, and a redis-server."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
OURS = ROOT / ".venv/bin"
PEERS = HERE / ".venv/bin"
REQUIREMENTS = HERE / "requirements.txt"
EMBED_REQUIREMENTS = ROOT / "jobs/embed.requirements.lock"


def peers() -> None:
    """Install the peers into benchmarks/.venv, unless what is there is up to date."""
    marker = PEERS.parent / "ready"
    wanted = REQUIREMENTS.read_text() + EMBED_REQUIREMENTS.read_text()
    if marker.exists() and marker.read_text() == wanted:
        return
    print("installing the peers into benchmarks/.venv", file=sys.stderr)
    if not (PEERS / "python").exists():
        subprocess.run([sys.executable, "-m", "venv", str(PEERS.parent)], check=True)
    install = [str(PEERS / "pip"), "install", "--quiet", "--disable-pip-version-check"]
    subprocess.run([*install, "-r", str(REQUIREMENTS)], check=True)
    subprocess.run([*install, "--no-deps", "-r", str(EMBED_REQUIREMENTS)], check=True)
    marker.write_text(wanted)


def redis_version() -> str:
    """Of the redis-server on PATH."""
    path = shutil.which("redis-server")
    if path is None:
        sys.exit("error: no redis-server on PATH: install one")
    text = subprocess.run([path, "--version"], capture_output=True, text=True, check=True).stdout
    return "Redis " + text.split("v=")[1].split()[0]
