"""A secret of an input reaches the model, and nobody else: whoever looks at the job sees a mask."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import Any

import redis
from rq.job import Job
from rq.serializers import JSONSerializer

from tests.deployment import Deployment, eventually, until

SECRET = "hunter2-sk-4711"  # noqa: S105 -- of a test
MASK = "**********"
MODELS = """
    import logging
    import os
    import signal
    from urllib.parse import quote
    from pathlib import Path
    from typing import Annotated
    from pydantic import BaseModel, Field, SecretStr, field_validator
    from service import model, progress

    class Login(BaseModel):
        user: str
        key: SecretStr
        own: Annotated[str, Field(json_schema_extra={"writeOnly": True})] = ""

    @model(retries=1, backoff=0)
    def use(login: Login, fail: str = "") -> Login:
        key = login.key.get_secret_value()
        with Path(os.environ["NOTES"]).open("a") as notes:
            print(key, login.own, file=notes)
        if fail:
            print("using", key)
            logging.getLogger("mine").warning("%r", {"key": key})
            progress.update(0.5, message=f"with {key}")
            raise ValueError(f"{fail} {key}")
        return login

    class Picky(BaseModel):
        key: SecretStr

        @field_validator("key")
        def right(cls, value):
            raise ValueError(f"{value.get_secret_value()} is wrong")

    @model
    def picky(login: Picky) -> None: ...

    @model
    def tells(key: SecretStr) -> int:
        key = key.get_secret_value()
        print("printed", key)
        print(f"begun {key[:4]}", end="")
        print(f"{key[4:]} and ended")
        os.write(1, f"raw {key}\\n".encode())
        os.system(f"echo 'a child {key}'")
        progress.update(0.5, **{key: 1.0})
        raise ValueError(f"GET https://example.org/?key={quote(key, safe='')}")

    @model
    async def falls(key: SecretStr) -> int:
        os.write(2, f"dying with {key.get_secret_value()}\\n".encode())
        os.kill(os.getpid(), signal.SIGKILL)

    @model
    def row(pair: tuple[int, SecretStr]) -> int:
        return pair[0]

    @model(max_batch_size=2, batch_timeout=1)
    def together(key: list[SecretStr]) -> list[int]:
        print([each.get_secret_value() for each in key])
        return [1 for _ in key]
"""
LOGIN = {"user": "me", "key": SECRET, "own": SECRET}


def everything_shown(deployed: Deployment, api: Any, job_id: str) -> str:
    """All that is told of a job, by every route that tells of jobs."""
    texts = [
        api.http.get(path, headers=headers).text
        for path in (
            f"/v1/jobs/{job_id}?include=traceback",
            f"/v1/jobs/{job_id}/events",
            "/v1/jobs?include=input,output",
            f"/v1/jobs/{job_id}/deliveries",
            f"/v1/jobs/{job_id}/result",
            f"/dashboard/0/data/job/{job_id}.json",
            f"/dashboard/0/view/job/{job_id}",
        )
        for headers in ({"Accept": "application/json"},)
    ]
    texts.append(api.http.get(f"/v1/jobs/{job_id}/events", headers={"Accept": "text/event-stream"}).text)
    texts.append(json.dumps(api.watch(f"/v1/jobs/{job_id}/events?after=0")[0]))
    texts.append(json.dumps(api.watch(f"/v1/jobs/{job_id}/events")[0]))
    with redis.Redis.from_url(deployed.redis_url) as connection:
        job = Job.fetch(job_id, connection=connection, serializer=JSONSerializer)
        texts += [str(job.description), str(job.args), str(job.kwargs), job.get_call_string() or "", str(job.meta)]
    texts += [process.log.read_text() for process in deployed.processes if "web-" in str(process.log)]
    return "\n".join(texts)


def test_a_secret_is_seen_by_the_model_alone(deployed: Deployment, notes: Any) -> None:
    deployed.write(MODELS)
    deployed.worker()
    api = deployed.web()

    good = api.submit("use", wait=20, input={"login": LOGIN})
    bad = api.done(api.submit("use", input={"login": LOGIN, "fail": "no"})["id"])

    shown = {"user": "me", "key": MASK, "own": MASK}
    assert good["status"] == "finished"
    assert (good["input"], good["output"]) == ({"login": shown}, shown)
    assert bad["error"]["message"] == f"ValueError: no {MASK}"
    assert bad["progress"]["message"] == f"with {MASK}"
    assert len(bad["attempts"]) == 2
    assert notes.read_text() == f"{SECRET} {SECRET}\n" * 3
    for job in (good, bad):
        assert SECRET not in everything_shown(deployed, api, job["id"])
    assert SECRET not in written(deployed)


def written(deployed: Deployment) -> str:
    """What the workers have written to their own output."""
    return "".join(process.log.read_text() for process in deployed.processes if "worker-" in str(process.log))


def test_a_secret_is_in_no_output_of_the_worker_however_it_comes_there(deployed: Deployment, notes: Any) -> None:
    deployed.write(MODELS)
    deployed.worker()
    api = deployed.web()
    secret = SECRET + "/+&"

    failed = api.done(api.submit("tells", input={"key": secret})["id"])
    fallen = api.done(api.submit("falls", input={"key": secret})["id"])

    assert failed["error"]["message"] == f"ValueError: GET https://example.org/?key={MASK}"
    assert failed["metrics"] == {MASK: 1.0}
    assert fallen["error"]["type"] == "crashed"
    for each in (f"printed {MASK}", f"begun {MASK} and ended", f"raw {MASK}", f"a child {MASK}", f"dying with {MASK}"):
        until(lambda each=each: each in written(deployed), 30)
    assert SECRET not in written(deployed)
    assert SECRET not in everything_shown(deployed, api, failed["id"])
    assert SECRET not in everything_shown(deployed, api, fallen["id"])


def test_a_secret_in_the_wrong_place_of_a_row_is_not_quoted(deployed: Deployment, notes: Any) -> None:
    deployed.write(MODELS)
    deployed.worker()
    api = deployed.web()

    refused = api.post("row", input={"pair": [SECRET, 1]})

    assert refused.status_code == 422
    assert SECRET not in refused.text


def test_retry_and_requeue_give_it_to_the_model_again(deployed: Deployment, notes: Any) -> None:
    deployed.write(MODELS)
    deployed.worker()
    api = deployed.web()
    job = api.done(api.submit("use", input={"login": LOGIN, "fail": "no"}, retries=0)["id"])

    def tried(times: int) -> None:
        shown = api.job(job["id"])
        assert shown["done"]
        assert len(shown["attempts"]) == times

    api.http.post(f"/v1/jobs/{job['id']}/retry")
    eventually(lambda: tried(2), 30)
    api.http.post("/v1/models/use/requeue", json={"confirm": "use"})
    eventually(lambda: tried(3), 30)
    with redis.Redis.from_url(deployed.redis_url) as connection:
        Job.fetch(job["id"], connection=connection, serializer=JSONSerializer).requeue()
    eventually(lambda: tried(4), 30)

    assert notes.read_text().splitlines() == [f"{SECRET} {SECRET}"] * 4
    assert SECRET not in everything_shown(deployed, api, job["id"])


def test_what_is_wrong_with_a_secret_is_told_without_it(deployed: Deployment, notes: Any) -> None:
    deployed.write(MODELS)
    deployed.worker()
    api = deployed.web()

    for login in ({"user": "me", "key": [SECRET]}, SECRET, {"user": "me", "key": None, "own": {"a": SECRET}}):
        refused = api.post("use", input={"login": login})
        assert refused.status_code == 422
        assert SECRET not in refused.text
    failed = api.submit("picky", wait=20, input={"login": {"key": SECRET}})
    failed = api.done(failed["id"])
    assert failed["error"]["type"] == "invalid_input"
    assert SECRET not in everything_shown(deployed, api, failed["id"])


def test_a_batch_does_not_show_one_job_the_secrets_of_another(deployed: Deployment, notes: Any) -> None:
    deployed.write(MODELS)
    api = deployed.web()
    deployed.worker(GRACE_PERIOD="1")
    ids = [api.submit("together", input={"key": f"{SECRET}-{n}"})["id"] for n in range(6)]

    for job_id in ids:
        assert api.done(job_id)["status"] == "finished"
        events = api.log(job_id)
        assert any(each["type"] == "log" for each in events)
        assert SECRET not in json.dumps(events)


def test_a_stock_rq_worker_gives_it_to_the_model_too(deployed: Deployment, notes: Any, project: Any) -> None:
    deployed.write(MODELS)
    worker = deployed.worker()
    api = deployed.web()
    worker.terminate()
    worker.wait(timeout=30)
    job = api.submit("use", input={"login": LOGIN})

    code = (
        "import redis, sys; from rq import Queue, SimpleWorker; from rq.serializers import JSONSerializer as J\n"
        "c = redis.Redis.from_url(sys.argv[1]); q = Queue('use', connection=c, serializer=J)\n"
        "SimpleWorker([q], connection=c, serializer=J).work(burst=True)"
    )
    subprocess.run(
        [sys.executable, "-c", code, deployed.redis_url],
        env={**os.environ, **deployed.environment},
        cwd=project,
        check=True,
        timeout=60,
        capture_output=True,
    )

    assert api.job(job["id"])["status"] == "finished"
    assert notes.read_text() == f"{SECRET} {SECRET}\n"
