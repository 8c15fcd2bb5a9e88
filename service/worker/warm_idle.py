"""How an idle warm worker notices a job at once, though whoever enqueues it tells nobody.

BLMOVE from a list to the same place of the same list waits for an element and moves it to where it was.
It waits on one list only, so each queue has its own connection, and one select waits for them all. Of very many
queues the last are looked at now and then instead.
"""

# mypy: allow-untyped-calls
# (most of redis-py's methods carry no types)

from __future__ import annotations

import logging
import time
from multiprocessing.connection import wait
from typing import Any

import redis
from redis.connection import Connection
from redis.exceptions import RedisError, ResponseError

BLOCK = 60  # seconds a BLMOVE waits; it stays out when the worker stops waiting, and is there the next time
MOST_WAITED_FOR = 32  # queues with a connection of their own
LOOK = 0.2  # seconds between two looks at the others
REFUSED = 0.5  # seconds until the next look when Redis refuses BLMOVE: no memory, or older than 6.2

log = logging.getLogger("rq.worker")


class Idle:
    """Waits for any of some queues to be other than empty."""

    def __init__(self, connection: redis.Redis, queue_keys: list[str]) -> None:
        self._connection = connection
        self._pool = connection.connection_pool
        self._waiting: dict[str, Connection | None] = dict.fromkeys(queue_keys[:MOST_WAITED_FOR])
        self._refused: set[str] = set()
        self._others = queue_keys[MOST_WAITED_FOR:]

    def wait(self, seconds: float) -> bool:
        """Whether a queue may have a job, waiting so long for it. Raises what redis-py raises."""
        deadline = time.monotonic() + seconds
        while True:
            links = {self._asked(key): key for key in self._waiting}
            left = deadline - time.monotonic()
            sockets: dict[Any, Any] = {link._sock: link for link in links}
            ready = wait(list(sockets), max(min(left, LOOK) if self._others else left, 0))
            answered = [sockets[each] for each in ready]
            if any([self._hears(link, links[link]) for link in answered]):
                return True
            if self._others and self._connection.exists(*self._others):
                return True
            if left <= 0:
                return False

    def _asked(self, key: str) -> Connection:
        link = self._waiting[key]
        if link is None:
            link = self._pool.get_connection()
            try:
                link.send_command("BLMOVE", key, key, "LEFT", "LEFT", BLOCK)
            except BaseException:
                self._drop(link)
                raise
            self._waiting[key] = link
        return link

    def _hears(self, link: Connection, key: str) -> bool:
        self._waiting[key] = None
        try:
            found = link.read_response(disable_decoding=True) is not None
        except ResponseError as error:
            if key not in self._refused:
                log.warning("%s cannot be waited for: %s", key, error)
                self._refused.add(key)
            time.sleep(REFUSED)
            found = True
        except BaseException:
            self._drop(link)
            raise
        self._pool.release(link)
        return found

    def _drop(self, link: Connection) -> None:
        link.disconnect()
        self._pool.release(link)

    def close(self) -> None:
        """Stop waiting."""
        for key, link in self._waiting.items():
            self._waiting[key] = None
            if link is not None:
                try:
                    self._drop(link)
                except RedisError:
                    continue
