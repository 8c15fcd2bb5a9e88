"""NAMESPACE: what all keys and channels in Redis begin with, this service's and RQ's, so that services can share one.

RQ takes its prefix from RQ_KEY_PREFIX when it is imported, and never again: this module is imported before it.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Mapping
from types import SimpleNamespace

PATTERN = r"[A-Za-z0-9_.-]{0,64}|[A-Za-z0-9_.-]{0,31}\{[A-Za-z0-9_.-]{1,64}\}[A-Za-z0-9_.-]{0,31}"
"""What a namespace may be. In braces: a hash tag, which keeps all keys in one slot of a Cluster."""


def prefixes(environment: Mapping[str, str]) -> tuple[str, str]:
    """The prefixes of RQ's keys and of our own. Raises ValueError, which says what is wrong with NAMESPACE."""
    namespace, rq = environment.get("NAMESPACE", ""), environment.get("RQ_KEY_PREFIX", "")
    if not re.fullmatch(PATTERN, namespace):
        raise ValueError("expected at most 64 letters, digits, '.', '_' and '-', some of which may be in {}")
    if not namespace:
        # Whoever has given RQ a prefix of its own has ours below it: two such services are apart, too.
        return rq or "rq", f"{rq}:service" if rq not in ("", "rq") else "service"
    if rq not in ("", f"{namespace}:rq"):
        raise ValueError(f"RQ_KEY_PREFIX is {rq!r}, and must be {namespace}:rq, as RQ's own tools need it, or unset")
    return f"{namespace}:rq", f"{namespace}:service"


def check(namespace: str) -> str:
    """Make sure that this is what the keys of this process begin with. Raises ValueError."""
    rq, _ = prefixes({**os.environ, "NAMESPACE": namespace})
    if rq != RQ or sys.modules.get("rq.defaults", _OURS).RQ_KEY_PREFIX != RQ:
        raise ValueError(f"RQ was imported with another prefix before: set RQ_KEY_PREFIX={rq} in the environment")
    return namespace


try:
    RQ, SERVICE = prefixes(os.environ)
    if RQ != "rq":
        os.environ["RQ_KEY_PREFIX"] = RQ
except ValueError:  # Settings, which every process of the service reads first, say so
    RQ, SERVICE = "rq", "service"
_OURS = SimpleNamespace(RQ_KEY_PREFIX=RQ)
