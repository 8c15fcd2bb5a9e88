"""The models of the services that are tried: one of each kind that runs in its own way."""

MODELS = """
    import asyncio
    import time
    from collections.abc import Iterator
    from service import model, progress

    @model
    def sleeps(name: str, seconds: float = 0.0) -> str:
        for _ in progress(range(10)):
            time.sleep(seconds / 10)
        return name

    @model
    def streams(name: str, parts: int = 20) -> Iterator[str]:
        for number in range(parts):
            yield name if number == 0 else "."

    @model(concurrency=8)
    async def waits(name: str, seconds: float = 0.0) -> str:
        await asyncio.sleep(seconds)
        print(name)
        return name

    @model
    def large(name: str, filler: str = "", size: int = 1) -> str:
        return name + "x" * size

    @model(max_batch_size=4, batch_timeout=0.05)
    def together(name: list[str]) -> list[str]:
        return name

    @model(retries=3, backoff=1)
    def stumbles(name: str, until: float = 0.0) -> str:
        if time.monotonic() < until:
            raise RuntimeError("not yet")
        return name

    @model
    def victim(name: str, seconds: float = 0.0) -> str:
        time.sleep(seconds)
        return name
"""

LARGE = 100_000


def input_of(model: str, name: str) -> dict[str, object]:
    """A small input of a model that is one of LOADED."""
    more = {"large": {"filler": "y" * LARGE, "size": LARGE}, "streams": {"parts": 20}}
    return {"name": name, **more.get(model, {})}


def output_of(model: str, name: str) -> object:
    """What it gives for that."""
    return {"large": name + "x" * LARGE, "streams": name + "." * 19}.get(model, name)


LOADED = ("sleeps", "streams", "waits", "large", "together")
"""The models that the load asks for; `victim` is for jobs that a situation spoils."""

SCHEMAS = """
    import os
    from typing import Annotated, Any
    from pydantic import Field, WithJsonSchema
    from service import model

    @model
    def slug(slug: Annotated[str, Field(pattern=r"^([a-z0-9]+-?)+$")]) -> str:
        return slug

    @model
    def unique(items: set[int | str]) -> int:
        return len(items)

    @model
    def letters(text: Annotated[str, Field(pattern=r"^\\p{L}+$")]) -> str:
        return text

    @model
    def remote(x: Annotated[Any, WithJsonSchema({"$ref": f"http://127.0.0.1:{os.environ['NOBODY']}/schema"})]) -> str:
        return ""
"""
"""Models whose schemas are dangerous, or not the ones of every reader."""
