"""What an operator has done on the command line: printed, and left in the log of a worker."""

from __future__ import annotations

import argparse
import contextlib
import getpass
import os
import socket

import redis

from service.store.workers import Workers


def tell(connection: redis.Redis, options: argparse.Namespace, outcome: str) -> None:
    """Print what was done by a command about a model, a queue or a worker, and leave a line of it."""
    print(outcome)
    leave_a_line(connection, options.command, options.name, outcome)


def leave_a_line(connection: redis.Redis, operation: str, on: str, outcome: str) -> None:
    """Have a worker log who did what to what; without one nobody does."""
    who = {"user": _user(), "host": socket.gethostname()}
    with contextlib.suppress(redis.exceptions.RedisError):  # it is done, whoever hears of it
        Workers(connection).tell(operation, {"on": on, "outcome": outcome, **who})


def _user() -> str:
    """Who gave the command, also through sudo."""
    try:
        name = getpass.getuser()
    except (KeyError, OSError):  # a container's user need not have a name
        name = str(os.getuid())
    behind = os.environ.get("SUDO_USER")
    return f"{name} (sudo by {behind})" if behind else name
