"""Each situation of the table befalls a service that others use at the same time: it goes on as before.

`pytest tests/hostile/test_situations.py -k A4` takes those of one row; HOSTILE_LANES=1 one after the other.
"""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from tests.hostile.lanes import Lanes
from tests.hostile.situation import Situation
from tests.hostile.tables import SITUATIONS

LANES = int(os.environ.get("HOSTILE_LANES", "4"))
# Those that need a stage of their own first: each of those groups is one piece of work.
TABLE = sorted(SITUATIONS.values(), key=lambda each: (each.on == "main", each.on))


@pytest.fixture(scope="module")
def lanes(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lanes]:
    """Those situations that are to be tried, which are under way from now on."""
    items = [item for item in request.session.items if item.module is request.module]
    tmp_path_factory.getbasetemp()  # made before the lanes ask for it, each in a thread: pytest has no lock there
    lanes = Lanes([item.callspec.params["situation"] for item in items], LANES, tmp_path_factory.mktemp)
    yield lanes
    lanes.close()


@pytest.mark.timeout(400)  # with those that come before it on the same stage
@pytest.mark.parametrize("situation", TABLE, ids=lambda each: f"{each.row}-{each.name}")
def test_a_service_goes_on_though(situation: Situation, lanes: Lanes) -> None:
    lanes.results[situation.name].result()
