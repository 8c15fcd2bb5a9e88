"""FastAPI and stock RQ: a pydantic body, no idempotency, no event log."""

import os

from fastapi import FastAPI
from redis import Redis
from rq import Queue

from submit_parts.servers.body import Submit
from submit_parts.servers.tasks import add

app = FastAPI()
queue = Queue(connection=Redis.from_url(os.environ["REDIS_URL"]))


@app.post("/jobs", status_code=202)
def submit(body: Submit) -> dict[str, str]:
    job = queue.enqueue(add, body.input.x, body.input.y)
    return {"id": job.id}
