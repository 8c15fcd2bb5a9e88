"""Another service on the same Redis: with the same ids, names and keys, it is another service."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

from tests.deployment import Api, Deployment, deployment
from tests.hostile.models import MODELS
from tests.hostile.situation import situation
from tests.hostile.stage import Stage
from tests.watchers import log_of, over_websocket

NEIGHBOURS = {
    "another_database": lambda url: ({}, f"{url}?db=1"),
    "another_prefix_of_rq": lambda url: ({"RQ_KEY_PREFIX": "other"}, url),
    "another_namespace": lambda url: ({"NAMESPACE": "other"}, url),
    "a_namespace_with_a_hash_tag": lambda url: ({"NAMESPACE": "{other}"}, url),
}
"""The settings of a neighbour, and its REDIS_URL."""


@contextmanager
def neighbour(stage: Stage, kind: str) -> Iterator[tuple[Deployment, Api]]:
    """A second service, with a worker of the same name as the first one's."""
    environment, url = NEIGHBOURS[kind](stage.proxy.url)
    folder = stage.folder / f"neighbour-{time.monotonic_ns()}"
    folder.mkdir()
    with deployment(folder, url, **environment) as each:
        each.write(MODELS)
        each.worker("--name", stage.names[0])
        yield each, each.web()


def _assert_apart(stage: Stage, other: Api) -> None:
    """The same id and the same key in both are two jobs; what is done to one is not done to the other."""
    ours, key = stage.api, {"Idempotency-Key": f"shared-{time.monotonic_ns()}"}
    job_id = f"shared-{time.monotonic_ns()}"
    for api, name in ((ours, "ours"), (other, "theirs")):
        body = {"model": "waits", "input": {"name": name, "seconds": 4 if api is ours else 60}}
        got = api.http.put(f"/v1/jobs/{job_id}", json=body)
        assert got.status_code == 202, got.text
        api.started(job_id)
        first = api.submit("sleeps", headers=key, wait=15, input={"name": name})
        assert first["output"] == name, first
    assert other.cancel(job_id).status_code == 202
    assert other.done(job_id)["status"] == "stopped"
    job = ours.done(job_id)
    assert (job["status"], job["output"], len(job["attempts"])) == ("finished", "ours", 1), job
    assert [event["type"] for event in log_of(ours, job_id)].count("queued") == 1


def _is_apart(kind: str) -> None:
    def a_neighbour_has(stage: Stage) -> None:
        with neighbour(stage, kind) as (theirs, other):
            _assert_apart(stage, other)
            got = other.http.post(f"/v1/workers/{stage.names[0]}/drain", json={"confirm": stage.names[0]})
            assert got.status_code == 202, got.text
            theirs.processes[0].wait(timeout=90)

    a_neighbour_has.__name__ = f"a_neighbour_has_{kind}"
    situation("B7", touches="neighbours")(a_neighbour_has)


for _kind in NEIGHBOURS:
    _is_apart(_kind)


def _dies(kind: str) -> None:
    def a_neighbour_dies(stage: Stage) -> None:
        """Its jobs are taken back by its own next worker, whoever holds a recovery loop beside it."""
        with neighbour(stage, kind) as (theirs, other):
            job = other.submit("sleeps", input={"name": "taken back", "seconds": 60}, retries=0)
            other.started(job["id"])
            theirs.processes[0].kill()
            theirs.worker()
            done = other.done(job["id"], within=25)
            assert (done["status"], done["error"]["type"]) == ("failed", "lost"), done

    a_neighbour_dies.__name__ = f"a_worker_of_a_neighbour_dies_that_has_{kind}"
    situation("B7", touches="neighbours")(a_neighbour_dies)


for _kind in ("another_database", "another_prefix_of_rq", "another_namespace"):
    _dies(_kind)


@situation("B7", touches="neighbours")
def a_watcher_sees_a_neighbours_job_of_the_same_id(stage: Stage) -> None:
    with neighbour(stage, "another_database") as (_, other):
        job_id = f"watched-{time.monotonic_ns()}"
        body = {"model": "waits", "input": {"name": "ours", "seconds": 3}}
        assert stage.api.http.put(f"/v1/jobs/{job_id}", json=body).status_code == 202
        stage.api.started(job_id)
        with over_websocket(stage.api, job_id, "?after=0") as events:
            body["input"] = {"name": "theirs", "seconds": 0}
            assert other.http.put(f"/v1/jobs/{job_id}", json=body).status_code == 202
            assert other.done(job_id)["output"] == "theirs"
            seen = list(events)
        assert [event["type"] for event in seen].count("finished") == 1, seen
        assert "theirs" not in str(seen)
        assert stage.api.done(job_id)["output"] == "ours"
