"""A client for Python programs: `from service.client import watch`. It imports nothing else of the service."""

from service.client.watch import Unreachable, WatchError, WatchRefused, watch

__all__ = ["Unreachable", "WatchError", "WatchRefused", "watch"]
