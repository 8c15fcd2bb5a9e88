"""Assertions of the tables say what they compared, as those of test modules do."""

import pytest

TABLES = "callers slow_callers requests redis_answers records clocks neighbours processes up"

pytest.register_assert_rewrite(*(f"tests.hostile.{name}" for name in ("situation", "stage", "load", *TABLES.split())))
