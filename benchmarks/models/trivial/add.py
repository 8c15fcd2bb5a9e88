"""The least a model can do."""

from service import model


@model
def add(x: int, y: int) -> int:
    """Add two integers."""
    return x + y
