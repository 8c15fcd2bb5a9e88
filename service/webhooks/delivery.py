"""The built-in model `webhooks`: a job of it is one delivery, and has tries, back-off and recovery as any job.

What the receiver must know to leave out what it had already is in webhook-id: it is the same for every try.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

from service.model import Fatal, Retry, model
from service.webhooks import MODEL
from service.webhooks.address import AddressRefused, Allowed, parse_allowed
from service.webhooks.answer import Answer
from service.webhooks.destination import InvalidUrl
from service.webhooks.sender import LONGEST_TRY, NoAnswer, post
from service.webhooks.signature import headers, parse_secret

AT_ONCE = 50
GONE = 410


class DeliveryFailed(Retry):
    """This try failed, and a later one may not: the job's back-off says when, or the receiver's Retry-After.

    A Retry, so that the job's error is the message alone, without the name of a class of ours.
    """


class Gone(Fatal):
    """The receiver wants no webhooks at this URL any more; webhook.lua looks for the type."""

    type = "gone"


@model(name=MODEL, timeout=int(LONGEST_TRY) + 5, concurrency=AT_ONCE)
async def webhooks(id: str, url: str, body: str) -> dict[str, Any]:
    """Deliver a webhook: POST its JSON to its URL, signed as Standard Webhooks has it."""
    keys, allowed = _configured or _by_settings()
    data = body.encode()
    try:
        answer = await post(url, headers(keys, id, int(time.time()), data), data, allowed)
    except (InvalidUrl, AddressRefused) as error:
        raise Fatal(str(error)) from None
    except NoAnswer as error:
        raise DeliveryFailed(str(error)) from None
    return _accepted(answer)


_Configured = tuple[tuple[bytes, ...], Allowed]
_configured: _Configured | None = None


def configure(secrets: Sequence[str], allow: Sequence[str]) -> None:
    """What WEBHOOK_SECRET and WEBHOOK_ALLOW say, in a work-horse: its environment has no secrets."""
    global _configured
    _configured = tuple(map(parse_secret, secrets)), parse_allowed(allow)


def _by_settings() -> _Configured:
    """In the process of a stock RQ worker: a work-horse of ours has no use for what reads settings, which is large."""
    from service.settings import Settings

    settings = Settings()
    configure(settings.webhook_secret, settings.webhook_allow)
    assert _configured is not None
    return _configured


def _accepted(answer: Answer) -> dict[str, Any]:
    """What the job returns. Raises DeliveryFailed, Gone."""
    if 200 <= answer.status < 300:
        return {"status": answer.status, "seconds": answer.seconds}
    message = _sentence(answer)
    if answer.status == GONE:
        raise Gone(f"{message}; no more is sent")
    if answer.retry_after is not None:
        raise DeliveryFailed(message, after=answer.retry_after)
    raise DeliveryFailed(message)


def _sentence(answer: Answer) -> str:
    said = f"the receiver answered {answer.status}"
    if 300 <= answer.status < 400 and answer.location is not None:
        return f"{said}: redirects are not followed: Location {answer.location}"
    return f"{said}: {answer.excerpt}" if answer.excerpt else said
