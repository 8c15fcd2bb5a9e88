"""Every key and channel in Redis: its type, its writer, its end.

Those of RQ keep RQ's names, so that its own tools read and write them. All begin with one of the prefixes that
NAMESPACE gives, in Lua too (scripts.py). A channel also has the number of the database: Redis itself has channels for
all its databases together.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable

import redis

from service.namespace import RQ, SERVICE

JOB_ID_PATTERN = "[A-Za-z0-9_-]{1,128}"
JOB_ID = re.compile(JOB_ID_PATTERN.encode())
"""What the id of a job may be, RQ's too; anything else in a list of ids was written by nobody of ours."""
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


def rq_commands(worker_name: str) -> str:
    """Channel: RQ's commands to one worker, JSON. RQ's own tools publish here, whatever their database."""
    return f"{RQ}:pubsub:{worker_name}"


# --- ours ---------------------------------------------------------------------------------------

JOBS = f"{SERVICE}:jobs"
"""Sorted set: ids of all jobs -> time of submit. Written by submit.lua; swept by recovery.py."""

START_DEADLINES = f"{SERVICE}:start-deadlines"
"""Sorted set: ids of the jobs that may wait so long only -> unix time. Written by submit.lua."""

MODELS = f"{SERVICE}:models"
"""Hash: model -> its description, JSON. Written by report.lua; outlives workers by MODEL_TTL (forget.lua)."""

RENEWED = f"{SERVICE}:models:renewed"
"""Sorted set: model -> when a worker last said that it has it, unix time. Written by report.lua and forget.lua."""

PAUSED = f"{SERVICE}:paused"
"""Set: the names of the queues that operators have paused. Written by operations.py; read by turn.lua."""

APART = f"{SERVICE}:apart"
"""String: there while jobs wait for a worker with their version of a model. Written by apart.lua; expires."""

PROBE = f"{SERVICE}:probe"
"""String: what is written to see whether Redis takes writes. Expires."""

RECOVERY = f"{SERVICE}:recovery"
"""String: the worker that holds the recovery loop. Expires if it dies."""


def events(job_id: str) -> str:
    """Stream: the job's event log. Expires with the job."""
    return f"{SERVICE}:job:{job_id}:events"


def known(job_id: str) -> str:
    """String: the fingerprint of what this job was asked for with. Outlives the job by tombstone_ttl: its id then
    answers 410, not 404."""
    return f"{SERVICE}:job:{job_id}:known"


def idempotency(key: str) -> str:
    """String: `<job id> <fingerprint>` that a caller's idempotency key gave. Written by submit.lua; expires."""
    return f"{SERVICE}:idempotency:{hashlib.sha256(key.encode()).hexdigest()}"


def jobs_of(model: str) -> str:
    """Sorted set: as JOBS, of one model."""
    return f"{SERVICE}:jobs:{model}"


def granted(worker_name: str) -> str:
    """String: `<turn id> <queue> <job id> ...` that turn.lua gave last, so that asking again gives the same."""
    return f"{SERVICE}:worker:{worker_name}:granted"


def apart(queue_name: str, version: str) -> str:
    """Sorted set: ids of jobs that wait for a worker with this version of their model -> until when, unix time.
    Written by apart.lua and turn.lua; expires."""
    return f"{SERVICE}:apart:{queue_name}:{json.dumps(version)}"


def serving(model: str) -> str:
    """Hash: worker -> JSON {state, error, rate, version, until}. Written by workers; stale fields go when read."""
    return f"{SERVICE}:model:{model}:workers"


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


class Channels:
    """The channels of one database."""

    def __init__(self, connection: redis.Redis) -> None:
        database = int(connection.connection_pool.connection_kwargs.get("db") or 0)
        self.prefix = f"{SERVICE}@{database}" if database else SERVICE
        self.wake = f"{self.prefix}:wake"
        """A queue's name, when a job is put into it, or when it is paused no longer."""
        self.submitted = f"{self.prefix}:submitted"
        """`<model> <job id>` of each job that is accepted."""

    def events(self, job_id: str) -> str:
        """Each entry of a job's event log, `<id> <type> <data>`."""
        return f"{self.prefix}:job:{job_id}:events"

    def commands(self, worker_name: str) -> str:
        """Commands of this service to one worker, JSON as RQ's."""
        return f"{self.prefix}:worker:{worker_name}:commands"


def job_ids(members: Iterable[bytes]) -> list[str]:
    """The ids of jobs in a list, a set or `<job id>:<execution id>` of a registry; without what can be none."""
    ids = (member.partition(b":")[0] for member in members)
    return [job_id.decode() for job_id in ids if JOB_ID.fullmatch(job_id)]
