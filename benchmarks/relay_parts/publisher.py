"""Publishes events at a fixed rate, spread evenly, from a process of its own; says how late it was."""

from __future__ import annotations

import gc
import multiprocessing
import socket
import time
from dataclasses import dataclass
from multiprocessing.connection import Connection
from multiprocessing.context import SpawnProcess

import redis

from service.process import die_with_parent
from service.store import keys

INTERVAL = 0.1  # seconds between two events of a job
SLOTS = 100  # in an interval: each has its share of the jobs, so that no burst is made

# As prelude.lua's emit, for many jobs in one call: else the calls would cost more than the events.
# A job gets a few hundred events at most, so nothing is trimmed and a server that is late can still read them.
_SCRIPT = """
local data = '{"index":' .. ARGV[1] .. ',"length":1000,"fraction":0.25,"unit":"step","message":"training",'
  .. '"metrics":{"loss":0.125,"at":' .. ARGV[2] .. '}}'
for _, stream in ipairs(KEYS) do
  local id = redis.call("XADD", stream, "MAXLEN", "~", 1000, "*", "type", "progress", "data", data)
  redis.call("PUBLISH", stream, id .. " progress " .. data)
end
return #KEYS
"""


@dataclass(frozen=True)
class Published:
    """One call: all times are time.monotonic()."""

    due: float
    sent: float
    answered: float


class Publisher:
    """Its process; `begin` says when the first event is due, `end` waits for the last one."""

    def __init__(self, url: str, job_ids: list[str], ticks: int) -> None:
        context = multiprocessing.get_context("spawn")  # fork: the child would hold all our sockets open
        self._ours, theirs = context.Pipe()
        self._process: SpawnProcess = context.Process(target=_publish, args=(url, job_ids, ticks, theirs), daemon=True)
        self._process.start()
        theirs.close()
        self._ours.recv()  # it is ready

    @property
    def pid(self) -> int:
        return int(self._process.pid or 0)

    @property
    def over(self) -> bool:
        return self._ours.poll() or not self._process.is_alive()

    def begin(self, moment: float) -> None:
        self._ours.send(moment)

    def end(self) -> list[Published]:
        published: list[Published] = self._ours.recv()
        self._process.join()
        return published

    def kill(self) -> None:
        if self._process.is_alive():
            self._process.kill()
            self._process.join()


def _publish(url: str, job_ids: list[str], ticks: int, parent: Connection) -> None:
    die_with_parent()
    client = redis.Redis.from_url(url)
    script = client.script_load(_SCRIPT)
    slots = min(SLOTS, len(job_ids))
    calls = [_call(script, job_ids[slot::slots]) for slot in range(slots)]
    at = client.connection_pool.connection_kwargs
    with socket.create_connection((at["host"], at["port"])) as connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        parent.send("ready")
        begin = parent.recv()
        gc.disable()
        published = [
            _send(connection, calls[slot], begin + (tick + slot / slots) * INTERVAL, tick)
            for tick in range(ticks)
            for slot in range(slots)
        ]
    parent.send(published)


def _send(connection: socket.socket, call: bytes, due: float, tick: int) -> Published:
    wait = due - time.monotonic()
    if wait > 0:
        time.sleep(wait)
    sent = time.monotonic()
    connection.sendall(call + _bulk(b"%d" % tick) + _bulk(b"%d" % (sent * 1e6)))
    answer = connection.recv(200)
    if not answer.startswith(b":"):
        raise RuntimeError(f"Redis answers {answer!r}")
    return Published(due, sent, time.monotonic())


def _call(script: bytes | str, job_ids: list[str]) -> bytes:
    """All of the command but its last two arguments: made once, sent each time."""
    sha = script.encode() if isinstance(script, str) else script
    parts = [b"EVALSHA", sha, b"%d" % len(job_ids), *(keys.events(job_id).encode() for job_id in job_ids)]
    return b"*%d\r\n" % (len(parts) + 2) + b"".join(map(_bulk, parts))


def _bulk(value: bytes) -> bytes:
    return b"$%d\r\n%s\r\n" % (len(value), value)
