"""The documentation says what the code does."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from service.cli.main import COMMANDS, parser
from service.registry import find_models
from service.relay import websocket
from service.settings import Settings
from service.web.problems import TITLES

DOCS = Path(__file__).resolve().parents[2] / "docs"


def text(name: str) -> str:
    return (DOCS / name).read_text()


def blocks(language: str) -> list[str]:
    """The examples of the page for authors."""
    return re.findall(rf"```{language}\n(.*?)```", text("models.md"), re.DOTALL)


@pytest.mark.parametrize("name", Settings.model_fields)
def test_every_setting_is_documented_with_its_default_and_meaning(name: str) -> None:
    field = Settings.model_fields[name]
    shown = " ".join(field.default) if isinstance(field.default, tuple) else str(field.default)
    default = f"`{shown}`" if shown else ""

    assert f"| `{name.upper()}` | {default} | {field.description} |" in text("operating.md")


def test_every_type_of_problem_is_documented() -> None:
    assert [kind for kind in TITLES if f"`{kind}`" not in text("http.md")] == []


def test_every_close_code_is_documented() -> None:
    codes = (websocket.DONE, websocket.POLICY, websocket.TOO_LARGE, websocket.INTERNAL, websocket.RESTART)
    codes += (websocket.TRY_LATER, websocket.BAD_REQUEST, websocket.UNKNOWN_JOB, websocket.TOO_SLOW)
    codes += (websocket.GONE_JOB,)

    assert [int(code) for code in re.findall(r"^\| (\d{4}) \|", text("events.md"), re.MULTILINE)] == sorted(codes)


def test_every_command_and_its_options_are_documented_and_have_help() -> None:
    (commands,) = (action for action in parser()._actions if action.choices)
    choices: Any = commands.choices
    for name, command in choices.items():
        assert f"python -m service {name}" in text("operating.md")
        for action in command._actions:
            assert action.help, (name, action.dest)
            if action.dest != "help" and action.option_strings:
                assert f"--{action.dest}" in text("operating.md"), (name, action.dest)
    assert set(choices) == set(COMMANDS)


def test_the_models_in_the_documentation_can_be_served(tmp_path: Path) -> None:
    for number, code in enumerate(blocks("python")):
        if "\n@model" in code:
            (tmp_path / f"example{number}.py").write_text(code)

    found, broken = find_models(tmp_path)

    assert not broken
    assert sorted(found) == ["charge", "double", "greeter", "shout"]


def test_links_between_pages_lead_somewhere() -> None:
    pages = [DOCS.parent / "README.md", *DOCS.glob("*.md")]
    for page in pages:
        for target in re.findall(r"\]\((?!https?:)([^)#]+)", page.read_text()):
            assert (page.parent / target).exists(), (page.name, target)
