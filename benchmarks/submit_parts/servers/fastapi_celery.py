"""FastAPI and Celery: a pydantic body, no idempotency, no event log; no result backend, which only costs."""

import os

from celery import Celery
from fastapi import FastAPI

from submit_parts.servers.body import Submit

app = FastAPI()
celery = Celery("bench", broker=os.environ["REDIS_URL"])


@celery.task
def add(x: int, y: int) -> int:
    return x + y


@app.post("/jobs", status_code=202)
def submit(body: Submit) -> dict[str, str]:
    return {"id": add.delay(body.input.x, body.input.y).id}
