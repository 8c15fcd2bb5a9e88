"""Answers of Redis are lost, again and again, while a worker works: each job still runs once and is told of once."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import redis

from tests.deployment import Deployment, until
from tests.forgetful import Forgetful
from tests.noting import NOTED

MODELS = """
    import asyncio
    from collections.abc import Iterator

    @model
    def plain(name: str) -> str:
        note(name)
        return name

    @model(max_batch_size=4)
    def together(name: list[str]) -> list[str]:
        for each in name:
            note(each)
        return name

    @model(concurrency=10)
    async def waits(name: str) -> str:
        note(name)
        await asyncio.sleep(0.01)
        return name

    @model
    def streams(name: str) -> Iterator[str]:
        note(name)
        for part in range(3):
            yield f"{part}"

    @model(retries=1, backoff=0)
    def fails(name: str) -> str:
        note(name)
        raise ValueError(name)
"""
KINDS = {
    "plain": ["queued", "started", "finished"],
    "together": ["queued", "started", "finished"],
    "waits": ["queued", "started", "finished"],
    "streams": ["queued", "started", "output", "output", "output", "finished"],
    "fails": ["queued", "started", "retrying", "queued", "started", "log", "failed"],
}


def test_each_job_runs_once_though_answers_of_redis_are_lost(deployed: Deployment, notes: Path, tmp_path: Path) -> None:
    deployed.write(NOTED + MODELS)
    proxy = Forgetful(tmp_path / "proxy.sock", deployed.redis_url.removeprefix("unix://"))
    worker = deployed.worker(REDIS_URL=proxy.url, LEASE="15")
    api = deployed.web()
    until(lambda: {model["name"] for model in api.http.get("/v1/models").json()["models"]} == set(KINDS))
    proxy.share = 0.3

    jobs: dict[str, str] = {}
    done: dict[str, Any] = {}
    while proxy.lost <= 20:  # a machine with much to do puts more jobs into one request, of which there are fewer then
        first = len(jobs)
        lot = [(model, f"{model}-{first + number}") for number in range(25) for model in KINDS]
        new = {api.submit(model, input={"name": name})["id"]: model for model, name in lot}
        done |= {job_id: api.done(job_id, within=60) for job_id in new}
        jobs |= new

    assert worker.poll() is None
    for job_id, model in jobs.items():
        assert done[job_id]["status"] == ("failed" if model == "fails" else "finished")
        assert [event["type"] for event in api.log(job_id)] == KINDS[model]
    times = Counter(notes.read_text().split())
    assert times == {job["input"]["name"]: 2 if jobs[job_id] == "fails" else 1 for job_id, job in done.items()}
    assert len(times) == len(jobs)
    with redis.Redis.from_url(deployed.redis_url) as connection:
        assert not [key for key in connection.scan_iter("rq:wip:*") if connection.zcard(key)]
    proxy.close()
