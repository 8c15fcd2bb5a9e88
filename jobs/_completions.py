"""The chat completions of an OpenAI-compatible server, as tokens or as an error that a job understands.

What may pass raises Retry: no connection, 408, 429, 5xx, an answer that breaks off. What would not
raises Fatal, with the server's words. The key is in none of them.
"""

import json
import logging
from collections.abc import AsyncIterator
from functools import cache
from ssl import SSLContext
from typing import Any

import httpx

from service import Fatal, Retry

# A server that loads its model, or reads a long prompt, is silent for minutes before the first token.
TIMEOUT = httpx.Timeout(10, read=300)
PAUSE = 2  # seconds before another try, if the server names none
DONE = b"data: [DONE]"

logging.getLogger("httpx").setLevel(logging.WARNING)  # else each request is a line in the job's log


class Completions:
    """A server, by its base URL (which ends in /v1) and its key, if it wants one."""

    def __init__(self, base_url: str, key: str = "") -> None:
        self._url = base_url.rstrip("/") + "/chat/completions"
        self._key = key.strip()

    async def stream(self, **request: Any) -> AsyncIterator[str]:
        """Post the request and give each token as it comes. Raises Retry, Fatal."""
        headers = {"Authorization": f"Bearer {self._key}"} if self._key else {}
        try:
            async with (
                httpx.AsyncClient(timeout=TIMEOUT, headers=headers, verify=_certificates()) as client,
                client.stream("POST", self._url, json={**request, "stream": True}) as response,
            ):
                if not response.is_success:
                    await response.aread()
                    raise self._refusal(response)
                async for token in self._tokens(response):
                    yield token
        except (httpx.InvalidURL, httpx.UnsupportedProtocol):
            raise Fatal("the base URL is no http:// or https:// address") from None
        except httpx.TransportError as error:  # its own words hold the key, if that makes no valid header
            raise Retry(f"the connection to the server failed: {type(error).__name__}", after=PAUSE) from None

    async def _tokens(self, response: httpx.Response) -> AsyncIterator[str]:
        async for data in _events(response):
            event = json.loads(data)
            if "error" in event:
                raise Retry(f"the server broke off: {self._reason(event)}", after=PAUSE)
            for choice in event["choices"]:
                if token := choice["delta"].get("content"):
                    yield token

    def _refusal(self, response: httpx.Response) -> Retry | Fatal:
        try:
            reason = self._reason(response.json())
        except ValueError:
            reason = self._reason(response.text)
        message = f"the server answered {response.status_code}: {reason}"
        if response.status_code not in (408, 429) and response.status_code < 500:
            return Fatal(message)
        after = response.headers.get("Retry-After", "")
        return Retry(message, after=int(after) if after.isdecimal() else PAUSE)

    def _reason(self, answer: Any) -> str:
        try:
            reason = str(answer["error"]["message"])
        except (KeyError, TypeError):  # not OpenAI's shape, or no JSON: all of it
            reason = str(answer)
        return (reason.replace(self._key, "***") if self._key else reason)[:500]


@cache
def _certificates() -> SSLContext:
    """Who is trusted, read once: a client of its own for each job would read them all anew, for 20 ms and more."""
    return httpx.create_ssl_context()


async def _events(response: httpx.Response) -> AsyncIterator[bytes]:
    """The JSON of each event up to [DONE]. Raises Retry if that does not come."""
    rest = b""
    async for chunk in response.aiter_bytes():  # not aiter_lines: it also splits at a token's U+2028
        *lines, rest = (rest + chunk).split(b"\n")
        for line in lines:
            if line.rstrip() == DONE:
                return
            if line.startswith(b"data:"):
                yield line.removeprefix(b"data:")
    if rest.rstrip() != DONE:
        raise Retry("the answer broke off before its end", after=PAUSE)
