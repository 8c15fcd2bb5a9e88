"""Webhooks: what a caller asked for at submit, and the deliveries that lua/webhook.lua made of it.

A delivery is a job of its own, of the built-in model `webhooks`: its tries, back-off and recovery are a job's.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from service.settings import Settings
from service.store.events import TERMINAL, dumps
from service.store.job import ENTRY_POINT, ID, Job, UnreadableJob
from service.store.retry_policy import RetryPolicy

ID_PREFIX = "webhook_"
"""What their ids start with."""
TIMEOUT = 20
"""Seconds that one try may run as a job; it limits itself to 15."""
LARGEST_BODY = 20_000 - 200
"""Bytes, in ASCII; the rest is room for the last braces."""


@dataclass(frozen=True)
class Webhook:
    """A URL to be called for events of its job: those of its end, `started` or `retrying`."""

    url: str
    events: Sequence[str] = tuple(sorted(TERMINAL))

    def field(self, settings: Settings) -> str:
        """As the job's hash keeps it: with all that webhook.lua needs to make a delivery of it."""
        retries = len(settings.webhook_backoff)
        fields = {
            "version": "built-in",
            "timeout": TIMEOUT,
            "result_ttl": settings.result_ttl,
            "failure_ttl": settings.failure_ttl,
            "retries": retries,
            "retries_left": retries,
            "retry_policy": RetryPolicy(backoff=tuple(map(int, settings.webhook_backoff)) or 0).to_json(),
        }
        return dumps(
            {
                "url": self.url,
                "events": list(self.events),
                "entry": ENTRY_POINT,
                "largest": LARGEST_BODY,
                "fields": [str(each) for pair in fields.items() for each in pair],
            }
        )


def delivery_ids(job: Job) -> list[str]:
    """The deliveries that were made for a job, oldest first."""
    ids = job.fields.get("deliveries", "").split()
    return [each for each in ids if each.startswith(ID_PREFIX) and ID.fullmatch(each)]


def delivery_json(delivery: Job, root: str = "") -> dict[str, Any]:
    """A delivery as it is shown: what was sent where, each try, and what comes next; `root` is where the service is."""
    url, body = _call(delivery)
    shown = delivery.to_json()
    base = f"{root}/v1/jobs/{delivery.fields.get('webhook_of')}/deliveries"
    return {
        "id": delivery.id,
        "event": delivery.fields.get("webhook_event"),
        "url": url,
        "body": body,
        "status": shown["status"],
        "done": shown["done"],
        "delivered": shown["status"] == "finished",
        "response": shown["output"],
        "error": shown["error"],
        "attempts": shown["attempts"],
        "next_attempt_at": shown["scheduled_at"],
        "created_at": shown["created_at"],
        "ended_at": shown["ended_at"],
        "urls": {"self": base, "redeliver": f"{base}/{delivery.id}/redeliver"},
    }


def _call(delivery: Job) -> tuple[Any, Any]:
    """URL and body of a delivery; None where somebody has made something else of it."""
    try:
        value = delivery.call()[1]
        return value.get("url"), json.loads(value.get("body", "null"))
    except (UnreadableJob, ValueError, TypeError, RecursionError):
        return None, None
