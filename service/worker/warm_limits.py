"""What a job's hash says may be anything: times beyond what Redis and the system take fail far from their cause."""

from __future__ import annotations

from rq.job import Job

LONGEST = 315_360_000
"""Seconds, ten years."""

TIMES = ("timeout", "result_ttl", "failure_ttl", "ttl")


def within_limits(job: Job) -> bool:
    """Shorten the times of a job that are too long. Returns whether there were none."""
    long = [name for name in TIMES if (getattr(job, name) or 0) > LONGEST]
    for name in long:
        setattr(job, name, LONGEST)
    return not long
