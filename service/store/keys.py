"""Every key and channel in Redis: its type, its writer, its end.

Those of RQ keep RQ's names, so that its own tools read and write them; RQ's prefix is RQ_KEY_PREFIX.
"""

from __future__ import annotations

import hashlib

from rq.command import PUBSUB_CHANNEL_TEMPLATE
from rq.defaults import RQ_KEY_PREFIX as RQ

PRIORITIES = ("high", "default", "low")


# --- RQ's ---------------------------------------------------------------------------------------

QUEUES = f"{RQ}:queues"
"""Set: the keys of all queues ever used. Written by submit.lua; never cleaned, as in RQ."""

WORKERS = f"{RQ}:workers"
"""Set: the keys of all workers. Written by RQ's registration, and cleaned by it."""

SUSPENDED = f"{RQ}:suspended"
"""String: present while `rq suspend` holds all workers. Written by RQ only."""


def job(job_id: str) -> str:
    """Hash: the job, RQ's fields and ours (job.py). Expires when the job is over for its ttl."""
    return f"{RQ}:job:{job_id}"


def dependents(job_id: str) -> str:
    """Set: ids of the jobs that wait for this one. Written by RQ; expires with the job."""
    return f"{RQ}:job:{job_id}:dependents"


def dependencies(job_id: str) -> str:
    """Set: ids of the jobs this one waits for. The double colon is RQ's. Expires with the job."""
    return f"{RQ}:job::{job_id}:dependencies"


def results(job_id: str) -> str:
    """Stream: an entry for each outcome, the last one counts. Written by turn.lua; expires with the job."""
    return f"{RQ}:results:{job_id}"


def queue(name: str) -> str:
    """List: ids of the queued jobs, the next one at the left."""
    return f"{RQ}:queue:{name}"


def registry(status: str, queue_name: str) -> str:
    """Sorted set: ids of the jobs of a queue in a status; `wip` holds `<job id>:<execution id>` -> lease end."""
    return f"{RQ}:{status}:{queue_name}"


def execution(job_id: str, execution_id: str) -> str:
    """Hash: one run of a job. Written by turn.lua; deleted when it ends, expires if its worker dies."""
    return f"{RQ}:execution:{job_id}:{execution_id}"


def executions(job_id: str) -> str:
    """Sorted set: execution ids of a job -> expiry. Written by turn.lua; expires if its worker dies."""
    return f"{RQ}:executions:{job_id}"


def worker(name: str) -> str:
    """Hash: a worker. Written by RQ's registration; expires if the worker dies."""
    return f"{RQ}:worker:{name}"


def worker_executions(name: str) -> str:
    """Set: `<job id>:<execution id>` a worker runs. Written by turn.lua; expires if the worker dies."""
    return f"{RQ}:worker:{name}:executions"


def commands(worker_name: str) -> str:
    """Channel: RQ's commands to one worker, JSON."""
    return str(PUBSUB_CHANNEL_TEMPLATE % worker_name)


# --- ours ---------------------------------------------------------------------------------------

JOBS = "service:jobs"
"""Sorted set: ids of all jobs -> time of submit. Written by submit.lua; swept by recovery.py."""

START_DEADLINES = "service:start-deadlines"
"""Sorted set: ids of the jobs that may wait so long only -> unix time. Written by submit.lua."""

MODELS = "service:models"
"""Hash: model -> its description, JSON. Written by workers; outlives them."""

PAUSED = "service:paused"
"""Set: the names of the queues that operators have paused. Written by operations.py; read by turn.lua."""

WAKE = "service:wake"
"""Channel: a queue's name, when a job is put into it, or when it is paused no longer."""

SUBMITTED = "service:submitted"
"""Channel: `<model> <job id>` of each job that is accepted."""

PROBE = "service:probe"
"""String: what is written to see whether Redis takes writes. Expires."""

RECOVERY = "service:recovery"
"""String: the worker that holds the recovery loop. Expires if it dies."""


def events(job_id: str) -> str:
    """Stream: the job's event log; and the channel on which each entry is told. Expires with the job."""
    return f"service:job:{job_id}:events"


def known(job_id: str) -> str:
    """String: the fingerprint of what this job was asked for with. Outlives the job by tombstone_ttl: its id then
    answers 410, not 404."""
    return f"service:job:{job_id}:known"


def idempotency(key: str) -> str:
    """String: `<job id> <fingerprint>` that a caller's idempotency key gave. Written by submit.lua; expires."""
    return f"service:idempotency:{hashlib.sha256(key.encode()).hexdigest()}"


def jobs_of(model: str) -> str:
    """Sorted set: as JOBS, of one model."""
    return f"service:jobs:{model}"


def granted(worker_name: str) -> str:
    """String: `<turn id> <queue> <job id> ...` that turn.lua gave last, so that asking again gives the same."""
    return f"service:worker:{worker_name}:granted"


def serving(model: str) -> str:
    """Hash: worker -> JSON {state, error, until}. Written by workers; stale fields go when read."""
    return f"service:model:{model}:workers"


def queue_name(model: str, priority: str) -> str:
    """The queue of a model's jobs of one priority."""
    return model if priority == "default" else f"{model}-{priority}"


def queues_of(model: str) -> list[str]:
    """The queues of a model, in the order of PRIORITIES."""
    return [queue_name(model, priority) for priority in PRIORITIES]


def model_of(queue_name: str) -> str:
    """The model whose jobs a queue holds."""
    return queue_name.partition("-")[0]


def place(queue_name: str) -> int:
    """The place of a queue's priority among PRIORITIES, by the queue's name."""
    _, _, priority = queue_name.partition("-")
    return PRIORITIES.index(priority or "default")


def lifecycle(job_id: str) -> list[str]:
    """The keys that live and end with a job, in the order in which prelude.lua names them."""
    return [job(job_id), events(job_id), known(job_id), results(job_id), dependents(job_id), dependencies(job_id)]
