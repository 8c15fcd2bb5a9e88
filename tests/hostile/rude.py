"""A model that shares a work-horse with others does what it should not: rows M1 (it forks), M2 (it spoils the streams),
M3 (it leaves threads), M5 (it writes to the link)."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from tests.deployment import children
from tests.hostile.situation import situation
from tests.hostile.stage import Stage
from tests.watchers import log_of


def _rude(stage: Stage, how: str, error: str | None = None) -> None:
    """A few jobs of it, and what follows them sees none of their words."""
    for number in range(4):
        job = stage.api.submit("rude", wait=25, input={"name": f"rude-{number}", "how": how})
        assert (job["error"] or {}).get("type") == error, job
        after = stage.api.submit("sleeps", wait=25, input={"name": "after", "seconds": 0.5})
        assert after["output"] == "after", after
        told = [event["data"] for event in log_of(stage.api, after["id"]) if event["type"] in ("log", "progress")]
        assert not [data for data in told if "SECRET" in str(data) or "from" in str(data)], told


@situation("M1")
def a_model_forks_pools_beside_its_progress(stage: Stage) -> None:
    _rude(stage, "pools")


@situation("M1")
def a_forked_child_comes_back_from_a_model(stage: Stage) -> None:
    _rude(stage, "comes_back")


@situation("M2")
def a_model_closes_its_streams_and_descriptors(stage: Stage) -> None:
    _rude(stage, "closes")


@situation("M2")
def a_model_and_its_children_write_below_python(stage: Stage) -> None:
    _rude(stage, "writes")


@situation("M3", touches="workers")
def a_model_leaves_threads_that_talk(stage: Stage) -> None:
    with _other_work_horses(stage):
        _rude(stage, "leaves_threads")


@situation("M5", touches="workers", again=True)
def a_model_writes_to_the_link(stage: Stage) -> None:
    with _other_work_horses(stage):
        _rude(stage, "breaks_the_link", error="crashed")


@contextmanager
def _other_work_horses(stage: Stage) -> Iterator[None]:
    """Within it workers replace theirs, under whichever number."""
    try:
        yield
    finally:
        stage.killed |= {worker.pid for worker in stage.workers}
        stage.killed |= {horse for worker in stage.workers for horse in children(worker.pid)}
