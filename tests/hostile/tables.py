"""All situations: importing this fills the table."""

from __future__ import annotations

import importlib

from tests.hostile.situation import SITUATIONS

TABLES = "callers slow_callers requests redis_answers records clocks neighbours processes up rude"

for _table in TABLES.split():
    importlib.import_module(f"tests.hostile.{_table}")

__all__ = ["SITUATIONS"]
