"""`config`: every setting with its value, its default and its meaning."""

from __future__ import annotations

import argparse
from typing import Any

from service.redis_url import without_password
from service.settings import Settings


def run(options: argparse.Namespace, settings: Settings) -> int:
    """Print them, as lines that a shell or an .env file could read."""
    for name, field in Settings.model_fields.items():
        value, default = getattr(settings, name), field.default
        note = "" if value == default else f" (default: {_shown(default) or 'empty'})"
        shown = without_password(value) if name == "redis_url" and value else _shown(value)
        shown = "(set)" if value and not field.repr else shown  # a secret is not for a terminal
        print(f"# {field.description}{note}\n{name.upper()}={shown}\n")
    return 0


def _shown(value: Any) -> str:
    return " ".join(value) if isinstance(value, tuple) else str(value)
