"""Callers who do nothing wrong, while others do: they submit, watch, and ask whether the service lives."""

from __future__ import annotations

import http.client
import random
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import count
from typing import Any

import httpx
import websocket

from tests.deployment import Api
from tests.hostile.models import LOADED, input_of, output_of
from tests.watchers import BROKEN, TERMINAL, Event, Refused, over_event_stream, over_websocket

ACCEPTED_WITHIN = 45.0
WATCHED_FOR = 60.0
_NUMBERS = count()


@dataclass
class Asked:
    """A job as its caller knows it."""

    name: str
    model: str
    id: str = ""
    accepted_at: float = 0.0
    watched: bool = False
    seen: list[Event] = field(default_factory=list, repr=False)
    """What its watcher saw."""
    gone: bool = False
    """Whether its watcher was told that there is no such job."""


class Ledger:
    """All jobs that were asked for, and what callers met that they should not."""

    def __init__(self) -> None:
        self.jobs: list[Asked] = []
        self.answers: Counter[str] = Counter()
        self.wrong: list[str] = []
        """Answers that no caller should get, whatever happens."""
        self.given_up = False
        """Whether it is known already that something is wrong, so that nobody waits any longer."""
        self.silent = 0.0
        """Seconds, the longest that the service did not say that it lives."""

    def submit(self, api: Api, model: str, name: str = "") -> Asked:
        """Submit a job as a careful caller does: again, with the same key, until it is accepted."""
        asked = Asked(name or f"{model}-{next(_NUMBERS)}", model)
        self.jobs.append(asked)
        deadline = time.monotonic() + ACCEPTED_WITHIN
        while not asked.id and not self.given_up:
            if time.monotonic() > deadline:
                self.wrong.append(f"{asked.name} was not accepted within {ACCEPTED_WITHIN:g} s: {self.answers}")
                break
            self._try(api, asked)
        return asked

    def _try(self, api: Api, asked: Asked) -> None:
        try:
            value = input_of(asked.model, asked.name)
            answer = api.post(asked.model, headers={"Idempotency-Key": asked.name}, input=value)
        except httpx.HTTPError as error:
            self.answers[type(error).__name__] += 1
            time.sleep(0.1)
            return
        self.answers[str(answer.status_code)] += 1
        if answer.status_code in (200, 202):
            asked.id, asked.accepted_at = answer.json()["id"], time.monotonic()
            return
        if answer.status_code not in (404, 429, 503):  # 404: the models are not published again yet
            self.wrong.append(f"submit: {answer.status_code} {answer.text[:300]}")
        if answer.status_code == 503 and "Retry-After" not in answer.headers:
            self.wrong.append(f"submit: 503 without Retry-After: {answer.text[:300]}")
        time.sleep(0.2)

    def watch(self, api: Api, asked: Asked, rng: random.Random) -> None:
        """Watch a job to its end, and come back whenever the connection is lost."""
        asked.watched = True
        deadline = time.monotonic() + WATCHED_FOR
        while time.monotonic() < deadline and not (asked.gone or self.given_up):
            try:
                with rng.choice((over_websocket, over_event_stream))(
                    api, asked.id, f"?after={asked.seen[-1]['id'] if asked.seen else 0}"
                ) as events:
                    asked.seen.extend(event for event in events if event["type"] != "snapshot")
                if asked.seen and asked.seen[-1]["type"] in TERMINAL:
                    return
            except Refused as refused:
                asked.gone = refused.args[0] in (404, 410)
                if refused.args[0] == 204:
                    return
            except BROKEN as error:
                asked.gone = getattr(error, "code", 0) in (4404, 4410) or _status(error) in (404, 410)
            time.sleep(0.1)


def _status(error: Exception) -> int:
    return int(getattr(error, "status_code", 0)) if isinstance(error, websocket.WebSocketBadStatusException) else 0


def ask_whether_it_lives(port: int, ledger: Ledger, ends: threading.Event) -> None:
    """Ask for /healthz on a new connection, five times a second, and note the longest silence."""
    answered = time.monotonic()
    while not ends.wait(0.2):
        answered = max(answered, time.monotonic() - 0.3)  # this very process may have been late
        while not ends.is_set() and not _lives(port):
            ledger.silent = max(ledger.silent, time.monotonic() - answered)
            time.sleep(0.05)
        ledger.silent = max(ledger.silent, time.monotonic() - answered)
        answered = time.monotonic()


def _lives(port: int) -> bool:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=1)
    try:
        connection.request("GET", "/healthz")
        return connection.getresponse().status == 200
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


@contextmanager
def load(api: Api, ledger: Ledger, seed: int = 0, submitters: int = 1, pause: float = 0.15) -> Iterator[None]:
    """Within it jobs of all kinds are submitted, each third one is watched, and the service is asked if it lives."""
    ends = threading.Event()
    ledger.silent, ledger.wrong = 0.0, []
    ledger.answers.clear()
    watchers: list[threading.Thread] = []

    def submit(number: int) -> None:
        rng = random.Random(f"{seed} {number}")
        own = Api(api.port)
        own.http.timeout = httpx.Timeout(10)
        while not ends.is_set():
            asked = ledger.submit(own, rng.choice(LOADED))
            if asked.id and rng.random() < 0.3:
                watchers.append(threading.Thread(target=ledger.watch, args=(own, asked, rng), daemon=True))
                watchers[-1].start()
            ends.wait(rng.uniform(0, 2 * pause))
        own.http.close()

    threads = [threading.Thread(target=submit, args=(number,), daemon=True) for number in range(submitters)]
    threads.append(threading.Thread(target=ask_whether_it_lives, args=(api.port, ledger, ends), daemon=True))
    for thread in threads:
        thread.start()
    try:
        yield
    except BaseException:
        ledger.given_up = True
        raise
    finally:
        ends.set()
        for thread in threads:
            thread.join()
        _join(watchers, ledger)


def _join(watchers: list[threading.Thread], ledger: Ledger) -> None:
    ends_at = time.monotonic() + (0 if ledger.given_up else WATCHED_FOR + 5)
    for thread in watchers:
        thread.join(max(0.0, ends_at - time.monotonic()))
    if not ledger.given_up and any(thread.is_alive() for thread in watchers):
        ledger.wrong.append("a watcher was told nothing any more")


def expected(asked: Asked) -> Any:
    """The output of a job that has finished."""
    return output_of(asked.model, asked.name)
