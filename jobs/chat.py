"""Chats with a language model behind any OpenAI-compatible server: Ollama, vLLM, llama.cpp, OpenAI.

The worker's environment says which: LLM_BASE_URL (default: Ollama on this machine), LLM_MODEL
(default: llama3.2) and LLM_API_KEY (default: none).
"""

import asyncio
import os
from collections.abc import AsyncIterator
from typing import Annotated

from pydantic import Field

from jobs._completions import Completions
from service import model


@model(timeout=900, retries=3, concurrency=32)
async def chat(
    prompt: Annotated[str, Field(min_length=1, max_length=100_000)],
    system: Annotated[str, Field(max_length=100_000)] | None = None,
    max_tokens: Annotated[int, Field(ge=1, le=32_768)] = 512,
    temperature: Annotated[float, Field(ge=0, le=2)] = 0.7,
) -> AsyncIterator[str]:
    """Answer a prompt with a language model, token by token."""
    said = {"system": system, "user": prompt}
    url = os.environ.get("LLM_BASE_URL", "http://127.0.0.1:11434/v1")
    async for token in Completions(url, key=os.environ.get("LLM_API_KEY", "")).stream(
        model=os.environ.get("LLM_MODEL", "llama3.2"),
        messages=[{"role": role, "content": content} for role, content in said.items() if content],
        max_tokens=max_tokens,
        temperature=temperature,
    ):
        yield token


if __name__ == "__main__":

    async def main() -> None:
        async for token in chat("Why is the sky blue?"):
            print(token, end="", flush=True)

    asyncio.run(main())
