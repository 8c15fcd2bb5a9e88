"""This worker in RQ's books, so that `rq info`, rq-dashboard and RQ's commands know it.

It is a WarmWorker, where all overrides of RQ internals are, with a loop of its own: the supervisor's.
"""

from __future__ import annotations

import os
import socket
import uuid
from typing import Any

import redis
from rq import worker_registration
from rq.serializers import JSONSerializer
from rq.worker.base import WorkerStatus

from service.store.events import dumps
from service.worker.warm import WarmWorker


class NameTaken(Exception):
    """A living worker has this name."""


class Registration(WarmWorker):
    """The service's worker as far as registration, heartbeats and state go; the supervisor does the work."""

    def __init__(self, queues: list[str], connection: redis.Redis, name: str | None = None) -> None:
        super().__init__(
            queues,
            # Unique: RQ refuses the name of a killed worker until its hash expires.
            name=name or f"{socket.gethostname().split('.')[0]}-{os.getpid()}-{uuid.uuid4().hex[:6]}",
            connection=connection,
            serializer=JSONSerializer,
        )

    def join(self, queues: list[str]) -> None:
        """Register as a worker that listens to these queues. Raises NameTaken."""
        self.queues = [self.queue_class(name, connection=self.connection) for name in queues]
        self._ordered_queues = self.queues[:]
        try:
            self.register_birth()
        except ValueError:
            raise NameTaken(f"a worker named {self.name} lives already: choose another --name, or none") from None
        self.connection.hset(self.key, "draining", 0)  # this field also says that it knows what drain means
        self.idle()

    def listen(self, queues: list[str]) -> None:
        """From now on it listens to these queues."""
        if self.connection.exists(self.key):
            self.connection.hset(self.key, "queues", ",".join(queues))
        self.queues = [self.queue_class(name, connection=self.connection) for name in queues]
        self._ordered_queues = self.queues[:]

    def idle(self) -> None:
        """Say that no job runs."""
        self.set_state(WorkerStatus.IDLE)

    def show(
        self, models: dict[str, str], draining: bool, clock_ahead: float, not_served: list[str], setting_up: str
    ) -> bool:
        """Show, in fields of the worker's hash, how its models (JSON) are, whether it drains (0 or 1), by how many
        seconds the clock of this host is ahead of Redis's, what of its jobs folder is not served (JSON), and the
        model whose setup runs.

        Returns whether it was asked to drain (store/workers.py).
        """
        name, asked = self.connection.hmget(self.key, "hostname", "drain_asked")
        if name is None:  # the hash has expired: the fields would stay without an end
            return False
        ahead = f"{clock_ahead:.3f}"
        fields: dict[Any, Any] = {"models": dumps(models), "draining": int(draining), "clock_ahead": ahead}
        fields |= {"not_served": dumps(not_served), "setting_up": setting_up}
        self.connection.hset(self.key, mapping=fields)
        return asked == b"1"

    def renew(self, ttl: int) -> None:
        """One heartbeat. What has gone meanwhile is written anew: the hash, which expires while this process is frozen,
        and its places in RQ's sets of workers."""
        with self.connection.pipeline() as pipeline:
            pipeline.hexists(self.key, "birth")
            self.heartbeat(ttl, pipeline=pipeline)
            worker_registration.register(self, pipeline)
            known, *_ = pipeline.execute()
        if not known:
            self.join(self.queue_names())
