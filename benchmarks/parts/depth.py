"""Whether a long queue slows the worker down: the rate with 1,000 jobs queued and with 200,000."""

from __future__ import annotations

from argparse import Namespace
from functools import partial
from statistics import median

from measure import Figure, NotMeasured, interleaved, table, times
from peers.catalog import TRIVIAL
from redis_server import RedisServer
from runs import SETTLED, client, drain, worker

from parts import fewer

SHALLOW, DEEP, DRAINED = 1_000, 200_000, 20_000
AT_ONCE = 20_000  # queued by one call, which has a time limit
LOOK = 0.002  # 1,000 jobs take a fraction of a second
REPEATS = 3  # in a round, for the same reason


def run(options: Namespace) -> bool:
    deep, drained = fewer(DEEP, options), fewer(DRAINED, options)
    # Two servers: one that holds 200,000 jobs for somebody else would be no fair measure of a short queue.
    with RedisServer() as small, RedisServer() as large:
        figures = interleaved(
            options.rounds,
            {"shallow": partial(_shallow, small), "deep": partial(_deep, large, deep, drained)},
        )
    shallow, longer = figures.get("shallow"), figures.get("deep")
    if not shallow or not longer:
        return True
    base = shallow["rate"]
    rows: list[tuple[str, Figure]] = [
        (f"{SHALLOW:,} queued", base),
        (f"{deep:,} queued, the first {SHALLOW:,}", longer["first"]),
        (f"{deep:,} queued, the first {drained:,}", longer["rate"]),
    ]
    table(
        "Depth of the queue (ours, trivial jobs)",
        ["", "jobs/s", f"x that with {SHALLOW:,}"],
        ([label, figure, times(figure, base)] for label, figure in rows),
    )
    return True


def _shallow(server: RedisServer) -> dict[str, float]:
    peer = TRIVIAL["ours"]
    rates = []
    for _ in range(REPEATS):
        server.clear()
        client(peer, server, "queue", "add", SHALLOW)
        with worker(peer, server) as running:
            rates.append(drain(peer, server, running, SHALLOW // SETTLED, SHALLOW, LOOK)["rate"])
    return {"rate": median(rates)}


def _deep(server: RedisServer, deep: int, drained: int) -> dict[str, float]:
    peer = TRIVIAL["ours"]
    missing = deep - int(server.client.llen("rq:queue:add"))  # what the round before has taken, or all
    while missing > 0:
        client(peer, server, "queue", "add", min(AT_ONCE, missing))
        missing -= AT_ONCE
    server.client.delete("rq:finished:add")  # the count of results starts at 0 again
    with worker(peer, server) as running:
        first = drain(peer, server, running, SHALLOW // SETTLED, SHALLOW, LOOK)["rate"]
        # A worker that was killed in the round before may have left jobs that run now: no matter which ones.
        rate = drain(peer, server, running, SHALLOW, drained, LOOK)["rate"]
    if not server.client.llen("rq:queue:add"):
        raise NotMeasured("the queue was drained")
    return {"first": first, "rate": rate}
