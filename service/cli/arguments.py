"""What may be written on the command line. It imports no command: they are imported when they are chosen."""

from __future__ import annotations

import argparse
from typing import Any

OPERATIONS = ("queues", "workers", "pause", "resume", "purge", "requeue", "drain")


def parser() -> argparse.ArgumentParser:
    """All commands and their options."""
    top = argparse.ArgumentParser(prog="python -m service", description="A job service for AI models, on RQ.")
    commands = top.add_subparsers(dest="command", required=True, metavar="command", parser_class=_Parser)
    each = commands.add_parser("up", help="embedded Redis if none is set, web and workers, from the Procfile")
    each.add_argument("--workers", type=_count, metavar="N", help="run N workers; default: WORKERS, else 1")
    each.add_argument("--reload", action="store_true", help="take changed files in JOBS_DIR up at once")
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
    commands.add_parser("repair", help="cut off what cannot be read of the embedded Redis's data; keeps a copy")
    _add_run(commands)
    _add_operations(commands)
    return top


class _Parser(argparse.ArgumentParser):
    """Fields of an input may stand before and after options, as in `run add x=1 --timeout 5 y=2`."""

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        found, rest = super().parse_known_args(args, namespace)
        if hasattr(found, "fields"):
            found.fields = [*found.fields, *(word for word in rest if word == "-" or not word.startswith("-"))]
            rest = [word for word in rest if word != "-" and word.startswith("-")]
        return found, rest


def _add_run(commands: Any) -> None:
    each = commands.add_parser("run", help="a model in this process, without Redis: its output is printed as JSON")
    each.add_argument("model", metavar="MODEL", help="its name")
    each.add_argument("fields", nargs="*", default=[], metavar="NAME=VALUE", help="its input; - is standard input")
    each.add_argument("--input", metavar="FILE", help="a file with the input as JSON; - is standard input")
    each.add_argument("--timeout", type=_seconds, metavar="SECONDS", help="instead of the model's; 0: none")
    each.add_argument("--fresh", type=_count, default=0, metavar="N", help="N times, each in a new process")


def _add_operations(commands: Any) -> None:
    commands.add_parser("queues", help="all queues: what waits, runs and has failed in each")
    commands.add_parser("workers", help="all workers and what each does")
    for name, what in (
        ("pause", "let workers take no job of a model or a queue; what waits there goes on waiting"),
        ("resume", "let them take its jobs again"),
        ("purge", "cancel all jobs of a model or a queue that wait"),
    ):
        each = _operation(commands, name, what, "NAME", "the model, all its queues, or a queue")
        each.add_argument("--queue", action="store_true", help="NAME is a queue, though a model is called so too")
    each = _operation(commands, "requeue", "run the failed jobs of a model again", "MODEL", "the model")
    each.add_argument("--stopped", action="store_true", help="those too that were stopped")
    _operation(
        commands, "drain", "let a worker end when its jobs are over", "WORKER", "its name, as `workers` shows it"
    )


def _operation(commands: Any, name: str, what: str, metavar: str, which: str) -> argparse.ArgumentParser:
    each: argparse.ArgumentParser = commands.add_parser(name, help=what)
    each.add_argument("name", metavar=metavar, help=which)
    each.add_argument("--yes", action="store_true", help="do not ask")
    return each


def _names(text: str) -> frozenset[str]:
    return frozenset(name.strip() for name in text.split(",") if name.strip())


def _seconds(text: str) -> float:
    try:
        number = float(text)
    except ValueError:
        number = -1
    if not 0 <= number < float("inf"):
        raise argparse.ArgumentTypeError(f"{text!r} is no number of seconds")
    return number


def _count(text: str) -> int:
    number = int(text) if text.isdigit() else 0
    if not 1 <= number <= 256:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number from 1 to 256")
    return number
