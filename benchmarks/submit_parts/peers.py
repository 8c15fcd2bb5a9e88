"""Which web processes take jobs, where each takes them, and in which list of Redis they then are."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from install import OURS, PEERS
from relay_parts.peers import Peer

THREADS = 16  # of gunicorn: the service's default


@dataclass(frozen=True)
class Taker:
    """One web process that accepts jobs."""

    web: Peer
    path: str
    queue: str
    """Key of the Redis list that the jobs are in."""


_GUNICORN = (
    "gunicorn --bind 127.0.0.1:{{port}} --worker-class gthread --threads {threads} --keep-alive 75 --no-control-socket "
    "--log-level warning submit_parts.servers.{app}:app"
)
_UVICORN = (  # both in C, as uvicorn[standard] installs them
    "uvicorn --host 127.0.0.1 --port {{port}} --loop uvloop --http httptools --no-access-log --log-level warning "
    "submit_parts.servers.{app}:app"
)


def _peer(label: str, command: str, app: str, queue: str) -> Taker:
    # 0, 0: the sockets with which the relay's search would begin.
    return Taker(Peer(label, PEERS, command.format(app=app, threads=THREADS), 0, 0), "/jobs", queue)


TAKERS: Mapping[str, Taker] = {
    "flask-rq": _peer("Flask, gunicorn, RQ `Queue.enqueue`", _GUNICORN, "flask_rq", "rq:queue:default"),
    "fastapi-rq": _peer("FastAPI, uvicorn, RQ `Queue.enqueue`", _UVICORN, "fastapi_rq", "rq:queue:default"),
    "fastapi-celery": _peer("FastAPI, uvicorn, Celery `delay`", _UVICORN, "fastapi_celery", "celery"),
    "ours": Taker(
        Peer(
            "**ours**: validation, event log, idempotency key",
            OURS,
            "python -m service web",
            0,
            0,
            {"WEB_THREADS": str(THREADS), "LOG_LEVEL": "warning"},
            True,
        ),
        "/v1/models/add/jobs",
        "rq:queue:add",
    ),
}
