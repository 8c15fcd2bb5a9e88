"""Every event, once, in order: watchers that are cut off and come back at any point, while the job tells more.

`RESUME_SECONDS=600 RESUME_SEED=7 .venv/bin/python -m pytest tests/faults/test_resume.py` is the long form.
"""

from __future__ import annotations

import os
import random
import signal
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import redis

from tests.deployment import Deployment
from tests.site import Site
from tests.watchers import Event, log_of, watch_with_cuts

MODELS = """
    import random
    import time
    from collections.abc import Iterator
    from service import model, progress

    @model(timeout=3600)
    def tells(count: int, pause: float = 0.01, seed: int = 0) -> Iterator[str]:
        rng = random.Random(seed)
        for number in range(count):
            progress.update(number / count)
            print(f"line {number}")
            yield "x" * rng.choice((1, 10, 1_000, 30_000))
            time.sleep(rng.random() * pause * 2)
"""

SECONDS = float(os.environ.get("RESUME_SECONDS", "10"))
SEED = int(os.environ.get("RESUME_SEED", str(random.randrange(10**6))))


def assert_same(seen: list[Event], log: list[Event]) -> None:
    assert [event["id"] for event in seen] == [event["id"] for event in log], f"seed {SEED}"
    assert seen == log, f"seed {SEED}"


@pytest.fixture
def site(deployed: Deployment) -> Site:
    deployed.write(MODELS)
    deployed.worker()
    return Site(deployed, 2)


def test_a_watcher_that_is_cut_off_after_any_event_misses_and_repeats_none(site: Site) -> None:
    job: dict[str, Any] = site.apis[0].submit("tells", input={"count": 15, "pause": 0.1})

    def cut_once(number: int) -> list[Event]:
        rng = random.Random(SEED + number)
        return watch_with_cuts(site.apis, job["id"], rng, iter([number]), within=SECONDS + 60)

    with ThreadPoolExecutor(24) as pool:
        seen = list(pool.map(cut_once, range(1, 48)))

    log = log_of(site.apis[0], job["id"])
    assert len(log) == 48
    for each in seen:
        assert_same(each, log)


@pytest.mark.timeout(SECONDS + 120)
def test_watchers_that_come_and_go_at_random_while_all_breaks_see_the_log(
    site: Site, connection: redis.Redis, capsys: pytest.CaptureFixture[str]
) -> None:
    with capsys.disabled():
        print(f"\nRESUME_SEED={SEED} RESUME_SECONDS={SECONDS:g}")
    rng = random.Random(SEED)
    count = int(SECONDS * 40)
    job: dict[str, Any] = site.apis[0].submit("tells", input={"count": count, "pause": 0.02, "seed": SEED})
    over = threading.Event()

    def come_and_go(number: int) -> list[Event]:
        mine = random.Random(SEED * 1000 + number)
        cuts = (mine.choice((1, 5, 25, 100, 500)) for _ in iter(int, 1))
        return watch_with_cuts(site.apis, job["id"], mine, cuts if number % 4 else iter(()), within=SECONDS + 60)

    def break_things() -> None:
        while not over.wait(rng.random() * 0.5):
            connection.client_kill_filter(_type="pubsub")
            if rng.random() < 0.2:
                site.restart(rng.randrange(2), rng.choice((signal.SIGKILL, signal.SIGTERM)))

    with ThreadPoolExecutor(17) as pool:
        breaking = pool.submit(break_things)
        try:
            seen = list(pool.map(come_and_go, range(16)))
        finally:
            over.set()
        breaking.result()

    log = log_of(site.apis[0], job["id"])
    assert len(log) > 3 * count * 0.5
    for each in seen:
        assert_same(each, log)
