"""What RQ's registries and our indexes must say when all jobs are over: each job in its one place, nothing open."""

from __future__ import annotations

from collections import Counter

import redis

from tests.watchers import TERMINAL

REGISTRY = {"finished": "finished", "failed": "failed", "stopped": "failed", "canceled": "canceled"}


def statuses(connection: redis.Redis) -> dict[str, str]:
    """The status of each job there is, by its id."""
    ids = [member.decode() for member in connection.zrange("service:jobs", 0, -1)]
    return {each: (connection.hget(f"rq:job:{each}", "status") or b"gone").decode() for each in ids}


def assert_all_is_over(connection: redis.Redis) -> None:
    """Every job is over, in the registry of its status and in no other, and expires; nothing is open anywhere."""
    found = statuses(connection)
    assert set(found.values()) <= TERMINAL, Counter(found.values())
    assert {key.decode().split(":")[-1] for key in connection.scan_iter("rq:job:*", count=1000)} == set(found)
    assert _placed(connection) == Counter((each, REGISTRY[status]) for each, status in found.items())
    assert _open(connection) == []
    for each, status in found.items():
        ((_, fields),) = connection.xrevrange(f"service:job:{each}:events", count=1)
        assert fields[b"type"].decode() == status
        assert connection.ttl(f"rq:job:{each}") > 0
        assert connection.ttl(f"service:job:{each}:events") > 0


def _placed(connection: redis.Redis) -> Counter[tuple[str, str]]:
    """How often each job is in each registry of those that are over."""
    places: Counter[tuple[str, str]] = Counter()
    for name in set(REGISTRY.values()):
        for key in connection.scan_iter(f"rq:{name}:*", count=1000):
            places.update((member.decode(), name) for member in connection.zrange(key, 0, -1))
    return places


def _open(connection: redis.Redis) -> list[bytes]:
    """All keys that say that a job waits or runs."""
    patterns = ("rq:queue:*", "rq:wip:*", "rq:scheduled:*", "rq:deferred:*", "rq:execution*", "rq:worker:*:executions")
    found = [key for pattern in patterns for key in connection.scan_iter(pattern, count=1000)]
    return [*found, *connection.keys("service:start-deadlines")]
