"""Chats with a language model behind any OpenAI-compatible server: Ollama, vLLM, llama.cpp, OpenAI.

Its settings are environment variables of the worker: LLM_BASE_URL (default: Ollama on this machine),
LLM_MODEL (default llama3.2) and LLM_API_KEY (default none).
"""

import asyncio
import json
import logging
import os
from collections.abc import AsyncIterator
from typing import Annotated

import httpx
from pydantic import Field

from service import Fatal, Retry, model

# A model that is being loaded, or a long prompt, keeps silent for minutes before its first token.
TIMEOUT = httpx.Timeout(10, read=300)
logging.getLogger("httpx").setLevel(logging.WARNING)  # else each request is a line in the job's log


@model(timeout=900, retries=3)
async def chat(
    prompt: Annotated[str, Field(min_length=1, max_length=100_000)],
    system: Annotated[str, Field(max_length=100_000)] | None = None,
    max_tokens: Annotated[int, Field(ge=1, le=32_768)] = 512,
    temperature: Annotated[float, Field(ge=0, le=2)] = 0.7,
) -> AsyncIterator[str]:
    """Answer a prompt with a language model, token by token."""
    messages = [{"role": "system", "content": system}] if system else []
    request = {
        "model": os.environ.get("LLM_MODEL", "llama3.2"),
        "messages": [*messages, {"role": "user", "content": prompt}],
        "max_tokens": max_tokens,
        "temperature": temperature,
        "stream": True,
    }
    url = os.environ.get("LLM_BASE_URL", "http://127.0.0.1:11434/v1").rstrip("/") + "/chat/completions"
    key = os.environ.get("LLM_API_KEY", "").strip()
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    try:
        async with (
            httpx.AsyncClient(timeout=TIMEOUT) as client,
            client.stream("POST", url, json=request, headers=headers) as response,
        ):
            if response.is_error:
                raise _refusal(response.status_code, response.headers, await response.aread(), key)
            async for line in response.aiter_lines():
                ...
    except httpx.TransportError:
        raise Retry("x") from None
