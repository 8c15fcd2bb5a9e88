"""Processes of the service are killed, frozen or signalled."""

from __future__ import annotations

import os
import signal
import time
from concurrent.futures import ThreadPoolExecutor

from tests.deployment import Api, children, eventually, until
from tests.hostile.redis_answers import a_job_meanwhile
from tests.hostile.situation import situation
from tests.hostile.stage import Stage

LEASE = 3.0
"""Of the workers of all stages."""
MANY = 1_600
"""Jobs that are due at once: moved within two seconds they are, and a little; at 200 a second they are not."""


# --- on a running service -----------------------------------------------------------------------------


@situation("D", touches="workers", again=True)
def a_work_horse_is_killed(stage: Stage) -> None:
    for worker in stage.workers:
        for horse in stage.horses(worker.pid):
            stage.kill(horse)
        until(lambda pid=worker.pid: len(children(pid)) == 1)  # type: ignore[misc]


@situation("D", touches="workers", again=True)
def a_worker_is_killed(stage: Stage) -> None:
    stage.kill(stage.workers[0].pid)
    stage.workers[0].wait()


@situation("D", touches="web", silent=True)
def the_web_process_that_serves_is_killed(stage: Stage) -> None:
    stage.kill(stage.web_pid)
    eventually(lambda: stage.until_ready(10))


@situation("D", touches="web", silent=True)
def the_web_process_is_frozen(stage: Stage) -> None:
    with stage.stopped(stage.web_pid):
        time.sleep(4)


@situation("D", touches="workers web", silent=True)
def everything_but_redis_is_frozen_for_a_moment(stage: Stage) -> None:
    with a_job_meanwhile(stage), stage.stopped(*stage.processes().values()):
        time.sleep(2)


@situation("D")
def signals_that_mean_nothing(stage: Stage) -> None:
    """A terminal changes its size, somebody closes a pipe."""
    for pid in stage.processes().values():
        for number in (signal.SIGWINCH, signal.SIGCHLD, signal.SIGURG, signal.SIGCONT, signal.SIGPIPE):
            os.kill(pid, number)


@situation("B9", touches="workers redis", again=True)
def the_holder_of_the_recovery_loop_and_redis_die_at_once(stage: Stage) -> None:
    """Within two leases and a little the job that the dead worker ran has ended, or runs anew."""
    with stage.long_job("sleeps") as job_id:
        name = stage.api.started(job_id)["attempts"][-1]["worker"]
        number = next(each for each, known in stage.names.items() if known == name)
        stage.redis.set("service:recovery", name, ex=10)
        began = time.monotonic()
        stage.kill(stage.workers[number].pid)
        stage.restart_redis()
        done = stage.api.done(job_id, within=25)
        assert (done["status"], done["error"]["type"]) == ("failed", "lost"), done
        assert time.monotonic() - began < 3 * LEASE + 8, f"{time.monotonic() - began:.1f} s"


@situation("B9", touches="records")
def many_retries_are_due_in_the_same_second(stage: Stage) -> None:
    stage.redis.sadd("service:paused", "victim")
    try:
        with ThreadPoolExecutor(4) as callers:
            ids = [each for part in callers.map(lambda _: _victims(stage, MANY // 4), range(4)) for each in part]
        due = time.time() + 0.5
        with stage.redis.pipeline() as pipeline:
            pipeline.delete("rq:queue:victim")
            for job_id in ids:
                pipeline.hset(f"rq:job:{job_id}", "status", "scheduled")
            pipeline.zadd("rq:scheduled:victim", dict.fromkeys(ids, due))
            pipeline.execute()
        until(lambda: stage.redis.llen("rq:queue:victim") == MANY, within=15)
    finally:
        stage.redis.srem("service:paused", "victim")
    until(lambda: stage.redis.llen("rq:queue:victim") == 0, within=120)  # in turn with the jobs of the load


def _victims(stage: Stage, count: int) -> list[str]:
    """The ids of so many jobs that wait."""
    own = Api(stage.api.port)
    try:
        return [own.submit("victim", input={"name": "due"})["id"] for _ in range(count)]
    finally:
        own.http.close()
