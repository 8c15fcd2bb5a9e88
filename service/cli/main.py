"""The command line: `python -m service up | web | worker | run | models | config`, and what operations.py has.

Exit codes: 0 done, 1 failed, with one line that says why, 2 wrong usage.
"""

from __future__ import annotations

import gc
import sys
from importlib import import_module
from pathlib import Path
from types import ModuleType

from service.cli.arguments import OPERATIONS, parser
from service.cli.terminal import have_standard_streams
from service.failure import Failure
from service.settings import InvalidSettings, Settings

# The module of each, imported when it is chosen: a worker has no use for a web server's.
COMMANDS = {
    "up": "up",
    "web": "web",
    "worker": "worker",
    "models": "models",
    "run": "run",
    "config": "config",
    "repair": "repair",
    **dict.fromkeys(OPERATIONS, "operations"),
}


def main(arguments: list[str] | None = None) -> None:
    """Run one command and exit."""
    have_standard_streams()
    options = parser().parse_args(arguments)
    try:
        if options.command == "up":
            import_module("service.cli.env_file").load(Path(".env"))
        settings = Settings()
        code: int = _module(options.command).run(options, settings)
    except (InvalidSettings, Failure) as error:
        print(f"error: {error}", file=sys.stderr)
        code = 1
    except KeyboardInterrupt:
        code = 130
    sys.exit(code)


def _module(command: str) -> ModuleType:
    """The module of a command. What it loads stays: the collector need not look at it again and again, now or later."""
    gc.disable()
    try:
        return import_module(f"service.cli.{COMMANDS[command]}")
    finally:
        gc.freeze()
        gc.enable()
