"""Each situation of the table befalls a service that others use at the same time: it goes on as before.

`pytest tests/hostile/test_situations.py -k A4` takes those of one row.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.hostile.load import load
from tests.hostile.situation import Situation, assert_well, before
from tests.hostile.stages import Stages
from tests.hostile.tables import SITUATIONS

TABLE = sorted(SITUATIONS.values(), key=lambda each: each.on)


@pytest.fixture(scope="module")
def stages(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stages]:
    each = Stages(tmp_path_factory.mktemp)
    yield each
    each.close()


@pytest.mark.parametrize("situation", TABLE, ids=lambda each: f"{each.row}-{each.name}")
def test_a_service_goes_on_though(situation: Situation, stages: Stages) -> None:
    stage = stages.get(situation.on)
    was = before(stage)
    try:
        with load(stage.api, stage.ledger):
            situation.do(stage)
            stage.keep()
        assert_well(stage, was, again=situation.again, silent=situation.silent)
    except BaseException:
        stages.drop(situation.on)
        raise
