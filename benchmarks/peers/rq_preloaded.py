"""A stock RQ worker that loads the model before it forks: each work-horse finds it in its memory."""

from __future__ import annotations

import logging

from peers.rq_jobs import embedder, queue
from rq import Worker

if __name__ == "__main__":
    embedder()
    Worker([queue]).work(logging_level=logging.WARNING)
