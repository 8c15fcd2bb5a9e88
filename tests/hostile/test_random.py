"""Situations of all rows befall one service at the same time, at random: no process ends, nothing is lost or stuck.

`HOSTILE_MINUTES=20 HOSTILE_SEED=7 .venv/bin/python -m pytest -s tests/hostile/test_random.py` is the long form. A seed
gives the same situations in the same order; the moments at which they meet are the machine's.
"""

from __future__ import annotations

import os
import random
from pathlib import Path

import pytest

from tests.hostile.at_once import AtOnce
from tests.hostile.load import load
from tests.hostile.situation import assert_well, before
from tests.hostile.stage import Stage
from tests.hostile.tables import SITUATIONS

MINUTES = float(os.environ.get("HOSTILE_MINUTES", "0.75"))
SEED = int(os.environ.get("HOSTILE_SEED", str(random.randrange(10**6))))
SUBMITTERS = 3


@pytest.mark.timeout(240 + MINUTES * 90)
def test_no_process_ends_and_nothing_is_lost_whatever_happens_at_the_same_time(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert SITUATIONS
    stage = Stage(tmp_path)
    happens = AtOnce(stage, random.Random(SEED))
    try:
        was = before(stage)
        with load(stage.api, stage.ledger, SEED, SUBMITTERS):
            happens.run(MINUTES * 60)
        assert not happens.broken, happens.broken
        assert_well(stage, was, again=happens.again, silent=True)
    except BaseException as error:
        error.add_note(stage.logs())
        raise
    finally:
        with capsys.disabled():
            print(f"\nHOSTILE_SEED={SEED} HOSTILE_MINUTES={MINUTES:g}: {len(stage.ledger.jobs)} jobs")
            print(f"  befell: {dict(happens.counts)}\n  answers: {dict(stage.ledger.answers)}")
        stage.close()
