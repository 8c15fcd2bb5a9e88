"""Leases by Redis's clock: RQ writes the end of a lease by the clock of its own host, and other hosts judge it."""

# mypy: allow-untyped-calls
# (most of RQ's methods carry no types)

from __future__ import annotations

from typing import Any

import redis
from rq.executions import Execution, ExecutionRegistry
from rq.registry import StartedJobRegistry

from service.store.scripts import source


def renew(execution: Execution, registry: StartedJobRegistry, ttl: int, connection: redis.Redis) -> None:
    """Let a lease that RQ has just written end `ttl` seconds from now; `connection` may be a pipeline."""
    keys = [registry.key, ExecutionRegistry.key_template.format(execution.job_id)]
    connection.eval(source("warm_lease"), len(keys), *keys, execution.composite_key, execution.id, ttl)


class LeasedExecution(Execution):
    """An execution whose heartbeats are by Redis's clock."""

    def heartbeat(self, started_job_registry: StartedJobRegistry, ttl: int, pipeline: Any) -> None:
        """As RQ's, in the same transaction."""
        super().heartbeat(started_job_registry, ttl, pipeline)
        renew(self, started_job_registry, ttl, pipeline)
