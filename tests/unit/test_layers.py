"""The order of the parts: each imports only what lies below it."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

SERVICE = Path(__file__).resolve().parents[2] / "service"

# Each line may import from the lines above it, and from itself; a name in one line never from its neighbours.
LAYERS = [
    {"namespace", "own_json"},
    {"failure", "guardian", "redis_url", "secret_fields", "tracebacks", "unusable_types", "model_class"},
    {"process", "append_only", "output"},
    {"data_folder"},
    {"embedded", "settings", "progress", "job"},
    {"model", "logs", "listen", "recorder"},
    {"webhooks", "not_served"},
    {"registry"},
    {"store"},
    {"worker", "relay"},
    {"web"},
    {"alone"},
    {"cli", "client"},
    {"served"},
    {"testing"},
]
# logs writes its times as the store does; settings are checked at start with what reads them later.
SAME_LINE = {("logs", "store"), ("settings", "webhooks")}
LEVEL = {name: level for level, names in enumerate(LAYERS) for name in names}


def part_of(path: Path) -> str:
    return path.relative_to(SERVICE).parts[0].removesuffix(".py")


def imports(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("service."):
            yield node.module.split(".")[1]
        elif isinstance(node, ast.ImportFrom) and node.module == "service":
            yield from (alias.name for alias in node.names)


@pytest.mark.parametrize(
    "path",
    [path for path in sorted(SERVICE.rglob("*.py")) if part_of(path) in LEVEL],
    ids=lambda path: str(path.relative_to(SERVICE)),
)
def test_a_lower_part_never_imports_a_higher_one(path: Path) -> None:
    part = part_of(path)

    wrong = [
        other
        for other in imports(path)
        if other != part and LEVEL[other] >= LEVEL[part] and (part, other) not in SAME_LINE
    ]

    assert not wrong


def test_what_checks_the_settings_of_webhooks_needs_nothing_else_of_the_service() -> None:
    for name in ("__init__", "address", "destination", "signature"):
        assert set(imports(SERVICE / "webhooks" / f"{name}.py")) <= {"webhooks"}


def test_every_part_has_its_place() -> None:
    parts = {part_of(path) for path in SERVICE.rglob("*.py")} - {"__init__", "__main__"}

    assert parts == set(LEVEL)


def test_the_web_process_imports_no_worker_and_no_model() -> None:
    code = "import service.web.app, sys; print(*sys.modules)"

    loaded = subprocess.check_output([sys.executable, "-c", code], cwd=SERVICE.parent, text=True).split()

    assert "service.web.app" in loaded
    assert not [name for name in loaded if name.startswith("service.worker") or name.split(".")[0] == "jobs"]


@pytest.mark.parametrize(
    ("command", "strange"),
    [
        (
            "worker",
            ("flask", "gunicorn", "rq_dashboard", "h11", "service.web", "service.relay", "service.registry"),
        ),
        ("web", ("service.worker", "service.webhooks.sender", "service.cli.up", "jobs")),
        ("up", ("flask", "gunicorn", "rq_dashboard", "service.web", "service.worker")),
        ("run", ("flask", "gunicorn", "rq_dashboard", "service.relay", "jobs")),
        ("config", ("flask", "gunicorn", "rq", "service.web", "service.worker")),
    ],
)
def test_a_command_loads_what_it_needs_and_nothing_of_the_others(command: str, strange: tuple[str, ...]) -> None:
    code = f"import service.cli.main, importlib, sys; importlib.import_module('service.cli.{command}')"

    loaded = subprocess.check_output(
        [sys.executable, "-c", f"{code}; print(*sys.modules)"], cwd=SERVICE.parent, text=True
    ).split()

    assert f"service.cli.{command}" in loaded
    assert [name for name in loaded if any(f"{name}.".startswith(f"{each}.") for each in strange)] == []


def test_a_work_horse_loads_what_runs_models_and_neither_redis_nor_the_settings() -> None:
    strange = ("redis", "rq", "pydantic_settings", "flask", "httpx", "service.settings", "service.store", "service.cli")

    loaded = subprocess.check_output(
        [sys.executable, "-c", "import service.worker.horse, sys; print(*sys.modules)"], cwd=SERVICE.parent, text=True
    ).split()

    assert "service.worker.horse" in loaded
    assert [name for name in loaded if any(f"{name}.".startswith(f"{each}.") for each in strange)] == []


def test_a_model_file_may_import_what_the_package_names() -> None:
    import service

    assert service.__all__ == ["Fatal", "Retry", "job", "jobs", "model", "progress"]
    assert all(hasattr(service, name) for name in service.__all__)
