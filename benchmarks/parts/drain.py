"""10,000 jobs of five models and three priorities: none lost, none run twice, each model's in order."""

from __future__ import annotations

import os
import signal
import tempfile
import time
from argparse import Namespace
from collections import Counter
from dataclasses import replace
from pathlib import Path

import redis
from install import ROOT
from measure import NotMeasured
from peers.catalog import HERE, TRIVIAL
from processes import Running
from redis_server import RedisServer
from runs import LOOK, until

from parts import fewer
from service.store import keys
from service.store.jobs import Submission

JOBS = 10_000
MODELS = ("plain", "loaded", "stream", "waiting", "together")
EVENTS = {"stream": "queued started output finished"}
LANES = {"waiting": "concurrent"}
"""A model that waits runs beside the others: its jobs of low priority hold up nobody else's of high priority."""
BOUND = "queued started finished"
SHOWN = 5  # faults of a kind

Expected = dict[str, tuple[str, str, int]]
"""Job id -> model, priority, number."""


def run(options: Namespace) -> bool:
    print("\n### Nothing lost, nothing twice, in order\n")
    with RedisServer() as server, tempfile.TemporaryDirectory() as folder:
        notes = Path(folder) / "notes"
        try:
            expected, seconds = _drain(server, notes, fewer(JOBS, options))
        except NotMeasured as error:
            print(f"WRONG: {error}")
            return False
        lines = [tuple(line.split()) for line in notes.read_text().splitlines()]
        faults = [*_runs(expected, lines), *_order(lines), *_jobs(server.client, expected)]
    for fault in faults:
        print("WRONG:", fault)
    if not faults:
        print(
            f"OK: {len(expected):,} jobs of {len(MODELS)} models and {len(keys.PRIORITIES)} priorities in "
            f"{seconds:.1f} s; each ran once, has one attempt, its output and its events; the order is kept."
        )
    return not faults


def _drain(server: RedisServer, notes: Path, count: int) -> tuple[Expected, float]:
    os.environ["BENCH_REDIS"] = server.url  # which peers.ours reads when it is imported
    from peers import ours

    wanted = [
        (MODELS[number % len(MODELS)], keys.PRIORITIES[number // len(MODELS) % len(keys.PRIORITIES)], number)
        for number in range(count)
    ]
    ids = ours.in_bulk(
        [
            Submission(model, "", {"priority": priority, "number": number}, timeout=300, priority=priority)
            for model, priority, number in wanted
        ]
    )
    peer = replace(TRIVIAL["ours"], env={"JOBS_DIR": str(HERE / "models/mixed"), "NOTES": str(notes)})
    queues = [keys.queue_name(model, priority) for model in MODELS for priority in keys.PRIORITIES]

    def over() -> bool:
        counts = (server.client.zcard(keys.registry(name, each)) for each in queues for name in ("finished", "failed"))
        return sum(counts) >= count

    log = notes.with_suffix(".log")
    with Running(peer.command(server), peer.environment(server), ROOT, log, signal.SIGTERM) as running:
        seconds = until(over, running, LOOK * 5) - running.started
        time.sleep(1.0)  # what would run a second time does so now
        code = running.end()
    if code:
        raise NotMeasured(f"the worker ended with code {code}: {running.last_words()}")
    return dict(zip(ids, wanted, strict=True)), seconds


def _runs(expected: Expected, lines: list[tuple[str, ...]]) -> list[str]:
    ran = Counter(lines)
    wanted = {(model, priority, str(number)) for model, priority, number in expected.values()}
    return [
        *_some("never ran", sorted(wanted - ran.keys())),
        *_some("ran more than once", sorted(line for line, times in ran.items() if times > 1)),
        *_some("ran and was never queued", sorted(ran.keys() - wanted)),
    ]


def _order(lines: list[tuple[str, ...]]) -> list[str]:
    last: dict[tuple[str, str], int] = {}
    lanes: dict[str, list[int]] = {}
    overtaken = []
    for model, priority, number in lines:
        if int(number) < last.get((model, priority), -1):
            overtaken.append((model, priority, number))
        last[model, priority] = int(number)
        lanes.setdefault(LANES.get(model, "one at a time"), []).append(keys.PRIORITIES.index(priority))
    late = sum(map(_misplaced, lanes.values()))
    return [
        *_some("began after a later job of its model and priority", overtaken),
        *([f"{late} jobs: began out of the order of their priorities"] if late else []),
    ]


def _misplaced(ranks: list[int]) -> int:
    """How many must be taken out so that the rest is in order: one that came too early makes no other late."""
    longest = dict.fromkeys(range(len(keys.PRIORITIES)), 0)
    for rank in ranks:
        longest[rank] = 1 + max(longest[each] for each in range(rank + 1))
    return len(ranks) - max(longest.values())


def _jobs(client: redis.Redis, expected: Expected) -> list[str]:
    with client.pipeline(transaction=False) as pipeline:
        for job_id in expected:
            pipeline.hmget(keys.job(job_id), "status", "attempts")
            pipeline.xlen(keys.results(job_id))
            pipeline.xrange(keys.events(job_id))
        answers = iter(pipeline.execute())
    states, results, events = [], [], []
    for model, priority, number in expected.values():
        if (state := next(answers)) != [b"finished", b"1"]:
            states.append((model, priority, number, state))
        if (length := next(answers)) != 1:
            results.append((model, priority, number, length))
        log = [(fields[b"type"].decode(), fields[b"data"].decode()) for _, fields in next(answers)]
        kinds = " ".join(kind for kind, _ in log)
        output = f"[{number * 2}]" if kinds == EVENTS["stream"] else str(number * 2)
        if kinds not in (BOUND, EVENTS["stream"]) or f'"output":{output}' not in log[-1][1]:
            events.append((model, priority, number, log))
    return [
        *_some("has another status or number of attempts", states),
        *_some("has no result, or several", results),
        *_some("has other events or another output", events),
    ]


def _some(what: str, which: list) -> list[str]:
    return [f"{len(which)} jobs: {what}, such as {which[:SHOWN]}"] if which else []
