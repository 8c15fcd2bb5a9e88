"""RQ's own test suite, run on WarmWorker: `python -m tests.rq_suite`."""
