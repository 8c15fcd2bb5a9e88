"""What a work-horse may say to its supervisor (link.py): anything else comes from a model that got at the link."""

from __future__ import annotations

from typing import Any

from service.worker.link import Message, Unreadable

_EVENTS = frozenset({"progress", "output", "log"})


def checked(message: Message) -> Message:
    """The message, if all that the supervisor keeps or writes of it is what it should be. Raises Unreadable."""
    try:
        fine = _about_a_job(message) if "job" in message else _about_a_model(message)
    except (LookupError, TypeError, ValueError):
        fine = False
    if not fine:
        raise Unreadable
    return message


def _about_a_job(message: Message) -> bool:
    if "finished" in message:
        return type(message["finished"]) is str
    if "events" in message:
        told = all(kind in _EVENTS and type(data) is str for kind, data in message["events"])
        return told and type(message.get("meta", "")) is str
    return _is_failure(message) if "error" in message else "begun" in message or "interrupted" in message


def _about_a_model(message: Message) -> bool:
    if "models" in message:
        return all(type(each) is dict for each in (*message["models"], *message["broken"]))
    if "failed" in message:
        return type(message["failed"]) is str and _is_failure(message)
    # What is none of these is passed over, as a thread that talks on after its job.
    return all(type(message[word]) is str for word in ("ready", "unloaded", "imports") if word in message)


def _is_failure(message: Message) -> bool:
    texts: list[Any] = [message["error"]["type"], message["error"]["message"], message["traceback"]]
    after = message["after"]
    return (
        all(type(text) is str for text in (*texts, *message["exceptions"]))
        and type(message["again"]) is bool
        and (after is None or type(after) in (int, float))
    )
