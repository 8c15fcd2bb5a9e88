"""What a client of a socket for many jobs asks for, checked."""

from __future__ import annotations

import json
from typing import Any, Literal, NamedTuple

from service.model import NAME
from service.store.events import cursor
from service.store.job import ID

MOST_WISHES = 10_000
"""Entries of one message."""

_VERBS: tuple[Literal["subscribe", "unsubscribe"], ...] = ("subscribe", "unsubscribe")


class InvalidMessage(ValueError):
    """What a client said cannot be understood; the argument says where and why."""


class OneJob(NamedTuple):
    """A job by its id, to be watched from a cursor or, without one, from a snapshot."""

    job_id: str
    after: str | None


class AllJobs(NamedTuple):
    """The jobs of a model, or of all of them."""

    model: str | None


class Wish(NamedTuple):
    """One thing that a client has asked for."""

    verb: Literal["subscribe", "unsubscribe"]
    subject: OneJob | AllJobs


def wishes(text: str) -> list[Wish]:
    """What a client's message asks for. Raises InvalidMessage, which says where it is wrong and what is allowed."""
    try:
        message = json.loads(text)
    except (ValueError, RecursionError):
        raise InvalidMessage('expected JSON: {"subscribe": [{"job_id": "..."}]}') from None
    if not isinstance(message, dict) or not message or message.keys() - {"subscribe", "unsubscribe"}:
        raise InvalidMessage('expected an object with "subscribe" or "unsubscribe"')
    lists = {verb: message.get(verb, []) for verb in _VERBS}
    for verb, entries in lists.items():
        if not isinstance(entries, list):
            raise InvalidMessage(f"{verb}: expected a list")
    if sum(map(len, lists.values())) > MOST_WISHES:
        raise InvalidMessage(f"expected at most {MOST_WISHES} entries in one message")
    return [
        Wish(verb, _subject(entry, f"{verb}[{number}]"))
        for verb, entries in lists.items()
        for number, entry in enumerate(entries)
    ]


def _subject(entry: Any, place: str) -> OneJob | AllJobs:
    match entry:
        case {"job_id": str(job_id), "after": str(after), **rest} if not rest:
            return OneJob(_id(job_id, place), _cursor(after, place))
        case {"job_id": str(job_id), **rest} if not rest:
            return OneJob(_id(job_id, place), None)
        case {"model": str(model), **rest} if not rest:
            return AllJobs(_name(model, place))
        case {"all": True, **rest} if not rest:
            return AllJobs(None)
    raise InvalidMessage(f'{place}: expected {{"job_id", "after"}}, {{"model"}} or {{"all": true}}')


def _id(text: str, place: str) -> str:
    if not ID.fullmatch(text):
        raise InvalidMessage(f"{place}: job_id is {text[:64]!r}: expected up to 128 of A-Z, a-z, 0-9, _ and -")
    return text


def _name(text: str, place: str) -> str:
    if not NAME.fullmatch(text):
        raise InvalidMessage(f"{place}: model is {text[:64]!r}: expected a name as in /v1/models")
    return text


def _cursor(text: str, place: str) -> str:
    try:
        return cursor(text)
    except ValueError as error:
        raise InvalidMessage(f"{place}: {error}") from None
