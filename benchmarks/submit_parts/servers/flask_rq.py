"""Flask and stock RQ: no schema, no idempotency, no event log."""

import os

from flask import Flask, request
from redis import Redis
from rq import Queue

from submit_parts.servers.tasks import add

app = Flask(__name__)
queue = Queue(connection=Redis.from_url(os.environ["REDIS_URL"]))


@app.post("/jobs")
def submit() -> tuple[dict[str, str], int]:
    job = queue.enqueue(add, **request.get_json()["input"])
    return {"id": job.id}, 202
