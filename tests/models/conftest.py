"""Fixtures of the tests of the models that come with the service."""

from collections.abc import Iterator
from typing import Any

import pytest

from service.progress import reporter


@pytest.fixture
def reported() -> Iterator[list[dict[str, Any]]]:
    """What the model reports as its progress, in order."""
    states: list[dict[str, Any]] = []

    class Reporter:
        def progress(self, state: dict[str, Any]) -> None:
            states.append(state)

    token = reporter.set(Reporter())
    yield states
    reporter.reset(token)
