"""Settings: read from the environment, checked, told by name."""

from __future__ import annotations

import pytest

from service.cli.main import main
from service.settings import InvalidSettings, Settings


def test_every_setting_has_a_default_and_a_meaning() -> None:
    for name, field in Settings.model_fields.items():
        assert not field.is_required(), name
        assert field.description, name


def test_config_prints_every_setting_with_its_value_and_meaning(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PORT", "9000")

    with pytest.raises(SystemExit) as ended:
        main(["config"])

    printed = capsys.readouterr().out
    assert ended.value.code == 0
    assert "# Port the web process listens on (default: 8000)\nPORT=9000\n" in printed
    assert all(f"\n{name.upper()}=" in printed for name in Settings.model_fields)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("PORT", "0"),
        ("PORT", "http"),
        ("MAX_WAIT", "-1"),
        ("REDIS_URL", "localhost:6379"),
        ("LOG_LEVEL", "loud"),
        ("LEASE", "1"),
    ],
)
def test_a_wrong_value_is_told_with_the_variable_and_the_value(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str
) -> None:
    monkeypatch.setenv(name, value)

    with pytest.raises(InvalidSettings, match=f"{name} is '{value}'"):
        Settings()


@pytest.mark.parametrize("value", ["INFO", "Info", " info "])
def test_a_level_and_a_format_may_be_written_in_capitals(monkeypatch: pytest.MonkeyPatch, value: str) -> None:
    monkeypatch.setenv("LOG_LEVEL", value)
    monkeypatch.setenv("LOG_FORMAT", "JSON")

    assert (Settings().log_level, Settings().log_format) == ("info", "json")


def test_an_empty_variable_means_the_default(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PORT", "")

    assert Settings().port == 8000


def test_allowed_origins_are_separated_by_spaces(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ALLOWED_ORIGINS", "https://a.example http://b.example:8080")

    assert Settings().allowed_origins == ("https://a.example", "http://b.example:8080")


@pytest.mark.parametrize("arguments", [[], ["nothing"], ["worker", "--count", "0"], ["web", "--port", "1"]])
def test_wrong_usage_exits_with_2(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(arguments)

    assert ended.value.code == 2
    assert "usage:" in capsys.readouterr().err
