"""The command line: `python -m service up | web | worker | models | config`, and what operations.py has.

Exit codes: 0 done, 1 failed, with one line that says why, 2 wrong usage.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable

from service.cli import config, models, operations, up, web, worker
from service.embedded import RedisUnavailable
from service.settings import InvalidSettings, Settings

COMMANDS: dict[str, Callable[[argparse.Namespace, Settings], int]] = {
    "up": up.run,
    "web": web.run,
    "worker": worker.run,
    "models": models.run,
    "config": config.run,
    **operations.COMMANDS,
}


class Failure(Exception):
    """A command cannot go on; the message says why and what to do."""


def parser() -> argparse.ArgumentParser:
    """All commands and their options."""
    top = argparse.ArgumentParser(prog="python -m service", description="A job service for AI models, on RQ.")
    commands = top.add_subparsers(dest="command", required=True, metavar="command")
    each = commands.add_parser("up", help="embedded Redis if none is set, web and one worker, from the Procfile")
    each.add_argument("--reload", action="store_true", help="restart the worker when a file in JOBS_DIR changes")
    commands.add_parser("web", help="the web process")
    each = commands.add_parser("worker", help="a worker")
    each.add_argument("--models", type=_names, default=frozenset(), metavar="A,B", help="serve these models only")
    each.add_argument("--queues", type=_names, default=frozenset(), metavar="A,B", help="take from these queues only")
    each.add_argument("--count", type=_count, default=1, metavar="N", help="run N workers, restart one that dies")
    each.add_argument("--burst", action="store_true", help="end when nothing is queued")
    each.add_argument("--name", help="name in RQ's books; default: host, process and a random part")
    each = commands.add_parser("models", help="the models that workers have published")
    each.add_argument("--forget", metavar="NAME", help="forget a model that no worker has any more")
    commands.add_parser("config", help="every setting: its value, its default and its meaning")
    operations.add_to(commands)
    return top


def main(arguments: list[str] | None = None) -> None:
    """Run one command and exit."""
    options = parser().parse_args(arguments)
    try:
        code = COMMANDS[options.command](options, Settings())
    except (InvalidSettings, RedisUnavailable, Failure, *worker.FAILURES) as error:
        print(f"error: {error}", file=sys.stderr)
        code = 1
    except KeyboardInterrupt:
        code = 130
    sys.exit(code)


def _names(text: str) -> frozenset[str]:
    return frozenset(name.strip() for name in text.split(",") if name.strip())


def _count(text: str) -> int:
    number = int(text) if text.isdigit() else 0
    if not 1 <= number <= 256:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number from 1 to 256")
    return number
