"""A rude model beside well-behaved ones: none of these fails, is tried twice, waits long, or shows a word of another's.

    RUDE_JOBS=500 POLITE_JOBS=10000 RUDE_MINUTES=10 .venv/bin/python -m pytest -s tests/faults/test_rude.py

is the long form; it prints its seed (RUDE_SEED), which gives the same jobs in the same order.
"""

from __future__ import annotations

import json
import os
import random
import threading
import time
from pathlib import Path

import pytest

from tests.deployment import Api, Deployment
from tests.polite import POLITE, Asked, Polite, copy_examples, language_model
from tests.rude_model import ASYNC_KINDS, KINDS, RUDE, all_kinds

RUDE_JOBS, POLITE_JOBS = int(os.environ.get("RUDE_JOBS", "25")), int(os.environ.get("POLITE_JOBS", "250"))
MINUTES = float(os.environ.get("RUDE_MINUTES", "0.4"))
SEED = int(os.environ.get("RUDE_SEED", "12"))


def planned(chosen: random.Random) -> list[tuple[float, Asked]]:
    """When to submit which job; one kind of harm comes as often as another."""
    polite = Polite(chosen)
    hows = [("rude", how) for how in all_kinds(KINDS)] + [("rude_async", how) for how in all_kinds(ASYNC_KINDS)]
    chosen.shuffle(hows)
    plan = [(60 * MINUTES * chosen.random(), polite.job()) for _ in range(POLITE_JOBS)]
    for number in range(RUDE_JOBS):
        model, how = hows[number % len(hows)]
        asked = Asked(model, {"name": f"rude-{number}", "how": how}, lambda _: True)
        plan.append((60 * MINUTES * number / RUDE_JOBS, asked))
    return sorted(plan, key=lambda each: each[0])


def submit(api: Api, plan: list[tuple[float, Asked]]) -> None:
    began, never = time.monotonic(), threading.Event()
    for at, asked in plan:
        never.wait(max(0.0, began + at - time.monotonic()))
        asked.id = api.submit(asked.model, input=asked.input)["id"]


@pytest.mark.timeout(240 + MINUTES * 120)
def test_what_a_rude_model_does_reaches_no_other_job(deployed: Deployment, project: Path) -> None:
    copy_examples(project, deployed.jobs_dir)
    deployed.write(POLITE, "polite.py")
    deployed.write(RUDE, "rude.py")
    with language_model() as url:
        deployed.worker(LLM_BASE_URL=url)
        api = deployed.web()
        plan = planned(random.Random(SEED))
        submit(api, plan)
        import traceback; out = []
        for _, asked in plan:
            try:
              r = api.http.get(f"/v1/jobs/{asked.id}", params={"wait": 60}).json()
              ok = bool(r["status"] == "finished" and asked.right(r["output"]))
            except Exception: traceback.print_exc(); ok = False
            out.append([asked.model, asked.input, sorted(asked.logs), ok, r, api.log(asked.id)])
        json.dump(out, open("/tmp/rude_out.json", "w"))
        open("/tmp/rude_worker.log","w").write(deployed.processes[0].log.read_text())
