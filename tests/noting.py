"""Models that note what they do in a file, so that a test can tell what ran, how often and in which order."""

from __future__ import annotations

from typing import Any

from tests.deployment import Api

NOTED = """
    import os, time
    from pathlib import Path
    from service import model

    def note(text):
        with open(os.environ["NOTES"], "a") as file:
            file.write(f"{text}\\n")
"""
"""The beginning of a model file; the fixture `notes` is the file that it writes to."""

FOLDER = """
    @model
    def first(name: str = "", seconds: float = 0) -> str:
        time.sleep(seconds)
        note(name)
        return name

    @model
    def second(name: str = "") -> str:
        note(name)
        return name

    @model
    def third(name: str = "") -> str:
        note(name)
        return name
"""
"""Three models that note the name they are given."""


def state(api: Api, name: str) -> Any:
    response = api.http.get(f"/v1/models/{name}")
    assert response.status_code == 200
    return response.json()
