"""A webhook's signature, as Standard Webhooks has it: whoever shares a secret with us can tell that it is ours.

Source: https://github.com/standard-webhooks/standard-webhooks/blob/main/spec/standard-webhooks.md
"""

from __future__ import annotations

import binascii
import hmac
import secrets
from base64 import b64decode, b64encode
from collections.abc import Sequence

PREFIX = "whsec_"
SHORTEST, LONGEST = 24, 64  # bytes of a secret


def parse_secret(text: str) -> bytes:
    """The key that a secret stands for. Raises ValueError, which does not repeat it."""
    key = b""
    if text.startswith(PREFIX):
        try:
            key = b64decode(text.removeprefix(PREFIX), validate=True)
        except (binascii.Error, ValueError):
            key = b""
    if not SHORTEST <= len(key) <= LONGEST:
        raise ValueError(f"a secret should be {PREFIX} and the base64 of {SHORTEST} to {LONGEST} bytes")
    return key


def new_secret() -> str:
    """A secret that nobody can guess."""
    return PREFIX + b64encode(secrets.token_bytes(32)).decode()


def headers(keys: Sequence[bytes], id: str, timestamp: int, body: bytes) -> dict[str, str]:
    """The headers of one try; `timestamp` is its unix time in seconds, `id` the same for every try.

    Each key gives a signature: while a secret is changed, receivers know the old one or the new one. Without
    a key nothing is signed.
    """
    told = {"webhook-id": id, "webhook-timestamp": str(timestamp)}
    if keys:
        signed = f"{id}.{timestamp}.".encode() + body
        told["webhook-signature"] = " ".join(f"v1,{_signature(key, signed)}" for key in keys)
    return told


def _signature(key: bytes, signed: bytes) -> str:
    return b64encode(hmac.digest(key, signed, "sha256")).decode()
