"""Jobs over HTTP, on a running service."""

from __future__ import annotations

from tests.deployment import Api

MODELS = """
    import time
    from service import model, progress

    @model(timeout=30)
    def add(x: int, y: int, seconds: float = 0) -> int:
        "Add two integers."
        for _ in progress(range(10)):
            time.sleep(seconds / 10)
        return x + y
"""


def test_a_submitted_job_finishes_with_its_output(service: Api) -> None:
    job = service.submit("add", input={"x": 1, "y": 2})

    assert job["status"] == "queued"
    assert service.done(job["id"])["output"] == 3
