"""The tests of RQ's own suite that differ on WarmWorker, and why: checked both ways by `python -m tests.rq_suite`."""

DIFFERS: dict[str, str] = {}
