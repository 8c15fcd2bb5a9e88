"""A model that shares a work-horse with others does what it should not: rows M1 (it forks), M2 (it spoils the streams),
M3 (it leaves threads), M4 (it leaves its process changed), M5 (it gets at the link), M6 (it raises groups), M7 (it
returns what JSON cannot carry), M8 (it looks for credentials).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from tests.deployment import children
from tests.hostile.situation import situation
from tests.hostile.stage import Stage
from tests.rude_model import ASYNC_KINDS, KINDS, error_of
from tests.watchers import log_of

WORKERS = 2
"""Any of them may have done it."""


def _rude(stage: Stage, hows: str, model: str = "rude") -> None:
    """A job of each, and what follows them sees none of their words; what the load asks for is looked at as always."""
    for number, how in enumerate(hows.split()):
        job = stage.api.submit(model, wait=25, input={"name": f"rude-{number}", "how": how})
        assert (job["error"] or {}).get("type") == error_of(how), job
        assert stage.server.url not in str(job), job
    for _ in range(WORKERS):
        after = stage.api.submit("sleeps", wait=25, input={"name": "after", "seconds": 0.6})
        assert after["output"] == "after", after
        told = [event["data"] for event in log_of(stage.api, after["id"]) if event["type"] in ("log", "progress")]
        assert "SECRET" not in str(told), told


@situation("M1")
def a_model_forks_pools_beside_its_progress(stage: Stage) -> None:
    _rude(stage, "pools")


@situation("M1")
def forked_children_come_back_from_a_model(stage: Stage) -> None:
    _rude(stage, "comes_back raises_in_a_child forks_in_a_thread forks_and_writes")


@situation("M2")
def a_model_closes_its_streams_and_descriptors(stage: Stage) -> None:
    _rude(stage, "closes rewraps detaches without_streams closes_descriptors others_on_descriptors")


@situation("M2")
def a_model_and_its_children_write_below_python(stage: Stage) -> None:
    _rude(stage, "writes floods leaves_a_writer")


@situation("M3", touches="workers")
def a_model_leaves_threads_that_talk(stage: Stage) -> None:
    with _other_work_horses(stage):
        _rude(stage, KINDS["threads"])


@situation("M3", touches="workers")
def a_model_leaves_tasks_that_talk(stage: Stage) -> None:
    with _other_work_horses(stage):
        _rude(stage, ASYNC_KINDS["tasks"], "rude_async")


@situation("M4")
def a_model_leaves_its_process_changed(stage: Stage) -> None:
    _rude(stage, KINDS["state"])


@situation("M4")
def a_model_leaves_processes(stage: Stage) -> None:
    _rude(stage, "leaves_a_child leaves_a_daemon")


@situation("M4", touches="workers")
def a_model_leaves_what_ends_its_process_or_holds_it(stage: Stage) -> None:
    with _other_work_horses(stage):
        _rude(stage, "exits_later holds_on")


@situation("M4", touches="workers")
def a_model_ends_its_process(stage: Stage) -> None:
    with _other_work_horses(stage):
        _rude(stage, "kills_itself crashes exits")


@situation("M5", touches="workers")
def a_model_writes_to_the_link(stage: Stage) -> None:
    with _other_work_horses(stage):
        _rude(stage, "writes_to_the_link closes_all_descriptors")


@situation("M5")
def a_model_patches_json(stage: Stage) -> None:
    _rude(stage, "patches_json patches_json_for_a_while")


@situation("M6")
def a_model_raises_groups_of_exceptions(stage: Stage) -> None:
    _rude(stage, KINDS["groups"])
    _rude(stage, ASYNC_KINDS["groups"], "rude_async")


@situation("M7")
def a_model_returns_what_is_no_json(stage: Stage) -> None:
    _rude(stage, KINDS["values"])


@situation("M8")
def a_model_looks_for_credentials(stage: Stage) -> None:
    _rude(stage, KINDS["credentials"])


@contextmanager
def _other_work_horses(stage: Stage) -> Iterator[None]:
    """Within it workers replace theirs, under whichever number."""
    try:
        yield
    finally:
        stage.killed |= {worker.pid for worker in stage.workers}
        stage.killed |= {horse for worker in stage.workers for horse in children(worker.pid)}
