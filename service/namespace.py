"""NAMESPACE: what all keys and channels in Redis begin with, this service's and RQ's, so that services can share one.

RQ takes its prefix from RQ_KEY_PREFIX when it is imported, and never again: this module is imported before it.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Mapping

PATTERN = r"[A-Za-z0-9_.-]{0,64}|[A-Za-z0-9_.-]{0,31}\{[A-Za-z0-9_.-]{1,64}\}[A-Za-z0-9_.-]{0,31}"
"""What a namespace may be. In braces: a hash tag, which keeps all keys in one slot of a Cluster."""


class InvalidNamespace(ValueError):
    """NAMESPACE and RQ_KEY_PREFIX cannot be used; the message says why."""


def prefixes(environment: Mapping[str, str]) -> tuple[str, str]:
    """The prefixes of RQ's keys and of this service's own. Raises InvalidNamespace."""
    namespace, rq = environment.get("NAMESPACE", ""), environment.get("RQ_KEY_PREFIX", "")
    if not re.fullmatch(PATTERN, namespace):
        raise InvalidNamespace(
            f"NAMESPACE is {namespace!r}: expected at most 64 letters, digits, '.', '_' and '-', some of them in {{}}"
        )
    if not namespace:
        # Whoever has given RQ a prefix of its own has ours below it: two such services are apart, too.
        return rq or "rq", f"{rq}:service" if rq not in ("", "rq") else "service"
    if rq not in ("", f"{namespace}:rq"):
        raise InvalidNamespace(
            f"NAMESPACE is {namespace!r} and RQ_KEY_PREFIX {rq!r}: unset RQ_KEY_PREFIX, or set it to {namespace}:rq, "
            "as RQ's own tools need it"
        )
    return f"{namespace}:rq", f"{namespace}:service"


RQ, SERVICE = prefixes(os.environ)

if "rq.defaults" in sys.modules and sys.modules["rq.defaults"].RQ_KEY_PREFIX != RQ:
    raise InvalidNamespace(f"RQ was imported before the service: set RQ_KEY_PREFIX={RQ} in the environment")
os.environ["RQ_KEY_PREFIX"] = RQ
