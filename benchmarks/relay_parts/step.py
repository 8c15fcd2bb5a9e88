"""One step: so many sockets on a fresh server, events at 10 a second; what came, and how late."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from dataclasses import dataclass

from measure import NotMeasured
from redis_server import RedisServer

from relay_parts.clients import Clients
from relay_parts.machine import LOAD_CORE, SERVER_CORE, busy, cpu
from relay_parts.peers import Peer, Serving, serving
from relay_parts.publisher import INTERVAL, Published, Publisher
from service.settings import Settings
from service.store import keys
from service.store.jobs import Jobs, Submission

LIMIT = 0.1  # seconds, of p99
PROBES = 300
SETTLE = 1.5  # after the last handshake: a peer subscribes after it, and reads no log
CATCH_UP = 10.0
HOPELESS = 4  # times the limit: no noise makes that
LATE = 0.02  # seconds, of the generator's own
FULL = 0.9  # of a core
NOISE, NOISE_OF_LOAD = 0.1, 0.3  # of the server's core, and of the other one
TRIES = 4  # of a step that was disturbed; one that failed by little has two
QUIET_WITHIN = 60.0


@dataclass(frozen=True)
class Timing:
    """Seconds."""

    warm: float
    measured: float


@dataclass(frozen=True)
class Step:
    """What one step gave. Times are seconds, cpu is of a core."""

    sockets: int
    p50: float
    p99: float
    cpu: float
    memory: float
    """kB a socket."""
    again: int
    missing: int
    closed: int
    late: float
    """p99 of how late the publisher was."""
    redis: float
    """p99 of what Redis took for a call."""
    away: float
    """p99 of how long the probes' loop did something else."""
    generator: float
    """cpu of Redis, the publisher and the clients."""
    others: float
    """What anybody else took of the server's core."""
    others_of_load: float
    """And of the other one."""

    @property
    def whole(self) -> bool:
        return not (self.again or self.missing or self.closed)

    @property
    def passed(self) -> bool:
        return self.p99 < LIMIT and self.whole

    @property
    def generator_bound(self) -> bool:
        """It failed, and what loads the server was slow itself: that says nothing of the server."""
        slow = max(self.late, self.redis, self.away) > LATE and self.p99 < LIMIT * HOPELESS
        return not self.passed and (slow or self.generator > FULL)

    @property
    def disturbed(self) -> bool:
        """It failed, and others had more of the cores than they should: unless the server had all of its own."""
        noise = self.others > NOISE or self.others_of_load > NOISE_OF_LOAD
        return not self.passed and noise and self.cpu < FULL

    @property
    def close(self) -> bool:
        """It failed, but by so little that it may pass another time."""
        return not self.passed and self.p99 < LIMIT * HOPELESS

    @property
    def verdict(self) -> str:
        if self.passed:
            return "passed"
        if self.disturbed:
            return "disturbed"
        if self.generator_bound:
            return "generator-bound"
        return "failed" if self.whole else f"failed: {self.missing} missing, {self.again} again, {self.closed} closed"


def submitted(server: RedisServer, count: int) -> list[str]:
    """The ids of new jobs that seem to run: progress is told of no others."""
    jobs = Jobs(server.client, Settings())
    ids = [jobs.submit(Submission("watched", "", {}, timeout=300)).id for _ in range(count)]
    with server.client.pipeline(transaction=False) as pipeline:
        for job_id in ids:
            pipeline.hset(keys.job(job_id), "status", "started")
        pipeline.execute()
    return ids


def step(peer: Peer, server: RedisServer, sockets: int, jobs: int, timing: Timing) -> Step:
    """Raises NotMeasured if the sockets cannot be opened."""
    server.clear()
    ids = submitted(server, jobs)
    with serving(peer, server, sockets) as serves:
        before = serves.memory()
        with Clients(serves.port, [ids[number % jobs] for number in range(sockets)], PROBES) as clients:
            ticks = round((timing.warm + timing.measured) / INTERVAL)
            publisher = Publisher(server.url, ids, ticks)
            try:
                return _timed(serves, server, clients, publisher, timing, before, sockets, ticks)
            finally:
                publisher.kill()


def _timed(
    serves: Serving,
    server: RedisServer,
    clients: Clients,
    publisher: Publisher,
    timing: Timing,
    before: float,
    sockets: int,
    ticks: int,
) -> Step:
    begin = time.monotonic() + SETTLE
    publisher.begin(begin)
    begin += timing.warm
    clients.run(begin)
    clients.timed.away.clear()
    meter = _Meter(serves, server, publisher)
    clients.run(begin + timing.measured)
    used = meter.read()
    memory = (serves.memory() - before) / sockets
    probes = clients.probes  # before any is found closed
    while not publisher.over:
        clients.run(time.monotonic() + 0.05)
    clients.finish(ticks, CATCH_UP)
    end = begin + timing.measured
    calls = [each for each in publisher.end() if begin <= each.due < end]
    latencies = sorted(latency for at, latency in clients.timed.latencies if begin <= at < end)
    expected = max(len(latencies), round(probes * timing.measured / INTERVAL * 0.99))
    timed = clients.timed
    return Step(
        sockets,
        _of_all(latencies, expected, 0.5),
        _of_all(latencies, expected, 0.99),
        used["server"],
        memory,
        timed.faults.again,
        timed.faults.missing,
        timed.closed,
        _p99(calls, lambda each: each.sent - each.due),
        _p99(calls, lambda each: each.answered - each.sent),
        sorted(timed.away)[int(len(timed.away) * 0.99)],
        used["generator"],
        used["others"],
        used["others of load"],
    )


def _of_all(latencies: list[float], expected: int, share: float) -> float:
    """What never came took for ever."""
    place = int(expected * share)
    return latencies[place] if place < len(latencies) else float("inf")


def _p99(calls: list[Published], value: Callable[[Published], float]) -> float:
    values = sorted(map(value, calls))
    return values[int(len(values) * 0.99)] if values else float("inf")


class _Meter:
    """What the cores did from here to `read`."""

    def __init__(self, serves: Serving, server: RedisServer, publisher: Publisher) -> None:
        self._serves = serves
        self._pids = [int(server.client.info("server")["process_id"]), publisher.pid]
        self._at = time.monotonic()
        self._before = self._now()

    def _now(self) -> dict[str, float]:
        return {
            "server": self._serves.cpu(),
            "generator": cpu(self._pids) + time.process_time(),
            "others": busy(SERVER_CORE),
            "others of load": busy(LOAD_CORE),
        }

    def read(self) -> dict[str, float]:
        seconds = time.monotonic() - self._at
        used = {name: (value - self._before[name]) / seconds for name, value in self._now().items()}
        used["others"] = max(0.0, used["others"] - used["server"])
        used["others of load"] = max(0.0, used["others of load"] - used["generator"])
        return used


def greatest(measured: Callable[[int], Step], first: int, factor: float, finest: float, most: int) -> Step:
    """The greatest step that passes: steps by `factor` until one fails, then between the two until `finest`.

    Raises NotMeasured if none passes.
    """
    best: Step | None = None
    low, high, number = 0, 0, min(first, most)
    while True:
        got = _tried(measured, number)
        if got is not None and got.passed:
            best, low = got, number
        else:
            high = number
        if low == most or (low and high and high <= low * finest):
            break
        number = _next(low, high, factor, most)
        if number < 10:
            break
    if best is None:
        raise NotMeasured("not even a few sockets pass")
    return best


def _next(low: int, high: int, factor: float, most: int) -> int:
    if not high:
        return min(most, round(low * factor))
    return round(high / factor) if not low else round((low * high) ** 0.5)


def _tried(measured: Callable[[int], Step], number: int) -> Step | None:
    try:
        for tried in range(1, TRIES + 1):
            _until_quiet()
            got = measured(number)
            if not got.disturbed and not (got.close and tried == 1):
                break
    except NotMeasured as error:
        print(f"  {number:,} sockets: {error}", file=sys.stderr, flush=True)
        return None
    return got


def _until_quiet() -> None:
    """Wait for others to pause; for a minute at most, then it has to do."""
    deadline = time.monotonic() + QUIET_WITHIN
    while time.monotonic() < deadline:
        before = busy(SERVER_CORE), busy(LOAD_CORE)
        time.sleep(2.0)
        if busy(SERVER_CORE) - before[0] < NOISE * 2 and busy(LOAD_CORE) - before[1] < NOISE_OF_LOAD * 2:
            return
