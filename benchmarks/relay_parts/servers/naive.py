"""What is written by hand with Flask: a thread, and a Redis connection of its own, for each socket."""

import os

import redis
from flask import Flask
from flask_sock import Sock

app = Flask(__name__)
sock = Sock(app)


@sock.route("/v1/jobs/<job_id>/events")
def events(ws, job_id):
    """Each event from now on; there is no snapshot, and no log is read."""
    with redis.Redis.from_url(os.environ["REDIS_URL"]).pubsub(ignore_subscribe_messages=True) as pubsub:
        pubsub.subscribe(f"service:job:{job_id}:events")
        for message in pubsub.listen():
            event_id, kind, data = message["data"].decode().split(" ", 2)
            ws.send(f'{{"id":"{event_id}","job_id":"{job_id}","type":"{kind}","data":{data}}}')
