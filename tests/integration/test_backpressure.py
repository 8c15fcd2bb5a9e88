"""A full queue, and a Redis that would lose what it is given: both are said before anything is lost."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest
import redis

from service.embedded import EmbeddedRedis
from tests.deployment import Api, Deployment, eventually

MODELS = """
    import time
    from service import model

    @model(max_queued=5)
    def bounded(seconds: float = 0) -> None:
        time.sleep(seconds)

    @model
    def other() -> None: ...
"""


def offline(deployed: Deployment, **environment: str) -> Api:
    """A service whose models are known, with no worker that takes their jobs."""
    deployed.write(MODELS)
    worker = deployed.worker()
    api = deployed.web(**environment)
    eventually(lambda: api.http.get("/v1/models/bounded").raise_for_status())
    worker.terminate()
    worker.wait()
    return api


def test_a_full_queue_refuses_what_it_has_no_room_for_and_keeps_the_rest(
    deployed: Deployment, connection: redis.Redis
) -> None:
    api = offline(deployed)

    with ThreadPoolExecutor(12) as pool:
        answers = list(pool.map(lambda n: api.post("bounded", priority=("high", "default", "low")[n % 3]), range(24)))

    accepted = [answer for answer in answers if answer.status_code == 202]
    refused = [answer for answer in answers if answer.status_code == 429]
    assert (len(accepted), len(refused)) == (5, 19)
    for answer in refused:
        assert answer.headers["Content-Type"] == "application/problem+json"
        assert answer.json()["type"] == "/problems/queue-full"
        assert answer.json()["detail"] == "5 jobs of bounded wait: no more than 5 may"
        assert int(answer.headers["Retry-After"]) >= 1
    assert len(api.http.get("/v1/jobs?limit=100").json()["jobs"]) == 5
    assert connection.zcard("service:jobs") == 5
    assert api.post("other").status_code == 202
    deployed.worker()
    for answer in accepted:
        assert api.done(answer.json()["id"])["status"] == "finished"


def test_a_job_that_was_accepted_is_given_again_though_the_queue_is_full(deployed: Deployment) -> None:
    api = offline(deployed)
    key = {"Idempotency-Key": "first"}
    first = api.submit("bounded", headers=key)
    for _ in range(4):
        api.submit("bounded")
    assert api.post("bounded").status_code == 429

    again = api.post("bounded", headers=key)

    assert (again.status_code, again.json()["id"]) == (202, first["id"])
    assert again.headers["Idempotent-Replayed"] == "true"


def test_what_a_refused_submit_would_have_been_may_be_submitted_later_under_its_key(deployed: Deployment) -> None:
    api = offline(deployed)
    for _ in range(5):
        api.submit("bounded")
    key = {"Idempotency-Key": "later"}
    assert api.post("bounded", headers=key).status_code == 429

    deployed.worker()

    def accepted() -> httpx.Response:
        answer = api.post("bounded", headers=key)
        assert answer.status_code == 202, answer.text
        return answer

    answer = eventually(accepted)
    assert "Idempotent-Replayed" not in answer.headers
    assert api.done(answer.json()["id"])["status"] == "finished"


def test_max_queued_holds_for_models_that_say_nothing(deployed: Deployment) -> None:
    api = offline(deployed, MAX_QUEUED="1")

    assert [api.post("other").status_code for _ in range(2)] == [202, 429]
    assert [api.post("bounded").status_code for _ in range(6)] == 5 * [202] + [429]


def test_retry_after_follows_the_rate_at_which_jobs_end(deployed: Deployment) -> None:
    deployed.write(MODELS)
    deployed.worker(LEASE="3")
    api = deployed.web(LEASE="3")

    def refusal() -> int:
        for _ in range(20):
            answer = api.post("bounded", input={"seconds": 0.2})
            if answer.status_code == 429:
                return int(answer.headers["Retry-After"])
        raise AssertionError("it was never full")

    # Nobody knows a rate yet; then about 5 jobs a second end.
    assert refusal() >= 1
    eventually(lambda: _at_most(refusal(), 10), within=30)


def _at_most(value: int, most: int) -> None:
    assert value <= most


@pytest.mark.parametrize(
    ("setting", "value", "said"),
    [
        ("maxmemory-policy", "allkeys-lru", "maxmemory-policy is allkeys-lru"),
        ("appendonly", "no", "appendonly is no"),
        ("appendfsync", "no", "appendfsync is no"),
    ],
)
def test_readyz_warns_of_a_redis_that_may_lose_jobs(tmp_path: Path, setting: str, value: str, said: str) -> None:
    with EmbeddedRedis(tmp_path / "redis") as server:
        deployed = Deployment(tmp_path, server.url)
        try:
            deployed.write(MODELS)
            deployed.worker()
            api = deployed.web()
            assert api.http.get("/readyz").json()["warnings"] == []
            with redis.Redis.from_url(server.url) as connection:
                connection.config_set(setting, value)

            answer = api.http.get("/readyz")

            assert answer.status_code == 200
            (warning,) = answer.json()["warnings"]
            assert warning.startswith(said)
            deployed.web()
            assert f"this Redis may lose jobs: {said}" in deployed.processes[-1].log.read_text()  # type: ignore[attr-defined]
        finally:
            deployed.close()
