"""What the log says of the model files that a worker cannot serve."""

from __future__ import annotations

import logging
from collections.abc import Iterable

from service.worker.link import Message

log = logging.getLogger("service.worker")


def tell(not_served: Iterable[Message]) -> None:
    """A line for each, with its traceback; one for all those whose libraries are only not installed yet."""
    without = [each for each in not_served if each["library"]]
    for each in not_served:
        if not each["library"]:
            where = {"line": each["line"]} if each["line"] else {}
            traceback = {"traceback": each["traceback"]} if each["traceback"] else {}
            extra = {"file": each["file"], **where, "error": each["error"], **traceback}
            log.warning("not served", extra=extra)
    if without:
        files = ", ".join(f"{each['file']} (line {each['line']}: no {each['library']})" for each in without)
        log.warning("not served without their libraries", extra={"files": files})
