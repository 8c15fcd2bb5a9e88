"""Imported by every Python of this run: WarmWorker stands where RQ's tests say Worker or SimpleWorker.

And what they call port 6379 is the run's own Redis: they flush its databases.
"""

from __future__ import annotations

import os
from typing import Any

import redis.connection
import rq
import rq.worker

OWN_PORT = int(os.environ["RQ_SUITE_PORT"])
AS_IT_WAS = redis.connection.Connection.__init__


def on_own_port(self: redis.connection.Connection, *args: Any, **kwargs: Any) -> None:
    AS_IT_WAS(self, *args, **kwargs)
    if self.port == 6379:  # here and not in the pool's arguments: the tests look at those
        self.port = OWN_PORT


redis.connection.Connection.__init__ = on_own_port  # type: ignore[method-assign]

if os.environ["RQ_SUITE_WORKER"] == "warm":
    from service.worker import WarmWorker

    for module in (rq, rq.worker):
        module.Worker = module.SimpleWorker = WarmWorker  # type: ignore[attr-defined,misc]
