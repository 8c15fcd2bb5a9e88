"""Fixtures: each stands for one real thing, and ends what it started."""

from __future__ import annotations

import os
import shutil
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
import redis
import rq.serializers
from redis.backoff import NoBackoff
from redis.retry import Retry

from service.embedded import EmbeddedRedis, binary
from tests.deployment import Api, Deployment, deployment
from tests.forgetful import Forgetful


@pytest.fixture(scope="session")
def redis_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedRedis]:
    """A real Redis for the whole run; TEST_REDIS_SERVER names another binary than the default."""
    executable = shutil.which(os.environ.get("TEST_REDIS_SERVER", "")) or binary()
    with EmbeddedRedis(tmp_path_factory.mktemp("redis"), executable) as server:
        yield server


@pytest.fixture
def redis_url(redis_server: EmbeddedRedis) -> Iterator[str]:
    """The URL of a real Redis that is empty."""
    with redis.Redis.from_url(redis_server.url) as client:
        client.flushall()
        yield redis_server.url


@pytest.fixture
def connection(redis_url: str) -> Iterator[redis.Redis]:
    """A client of that Redis."""
    with redis.Redis.from_url(redis_url) as client:
        yield client


@pytest.fixture
def proxy(tmp_path: Path, redis_url: str) -> Iterator[Forgetful]:
    """A proxy before that Redis which can lose answers."""
    each = Forgetful(tmp_path / "proxy.sock", redis_url.removeprefix("unix://"))
    yield each
    each.close()


@pytest.fixture
def through(proxy: Forgetful) -> Iterator[redis.Redis]:
    """A client that tries again, as ours does, through that proxy."""
    with redis.Redis.from_url(proxy.url, retry=Retry(NoBackoff(), 3)) as client:
        yield client


@pytest.fixture
def project() -> Path:
    """The root of the project."""
    return Path(__file__).resolve().parent.parent


@pytest.fixture
def deployed(tmp_path: Path, redis_url: str) -> Iterator[Deployment]:
    """A deployment of this test's own: it writes its models, starts its processes, kills what it likes."""
    with deployment(tmp_path, redis_url) as each:
        yield each


@pytest.fixture
def notes(deployed: Deployment) -> Path:
    """The file that models write to."""
    path = deployed.folder / "notes"
    path.touch()
    deployed.environment["NOTES"] = str(path)
    return path


@pytest.fixture(scope="module")
def service(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Api]:
    """A running service for all tests of a module, on its own Redis: with its MODELS, and its ENVIRONMENT if any."""
    folder = tmp_path_factory.mktemp("service")
    environment = getattr(request.module, "ENVIRONMENT", {})
    executable = shutil.which(os.environ.get("TEST_REDIS_SERVER", "")) or binary()
    with EmbeddedRedis(folder / "redis", executable) as server, deployment(folder, server.url, **environment) as each:
        each.write(request.module.MODELS)
        each.worker()
        api = each.web()
        api.redis_url = server.url  # type: ignore[attr-defined]
        yield api


# Files of these begin first, since tests in them take long, mostly by waiting: one that began last would be waited for
# by all other processes. Within a folder those with many tests are first.
LONG_FIRST = ("hostile", "faults", "browser", "integration")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The order in which files begin; that of the tests of a file stays. `--no-loadscope-reorder` lets it stand."""
    tests = Counter(item.path for item in items)

    def place(item: pytest.Item) -> tuple[int, int, str]:
        folder = item.path.parent.name
        return (
            LONG_FIRST.index(folder) if folder in LONG_FIRST else len(LONG_FIRST),
            -tests[item.path],
            str(item.path),
        )

    items.sort(key=place)


SKIPPED = 6
"""An exit status of its own: what has failed may pass when it runs again (Makefile), what was skipped was not seen."""


def pytest_sessionfinish(session: pytest.Session) -> None:
    """In CI a skipped test is a failed one: what it would have shown was not seen."""
    reporter = session.config.pluginmanager.get_plugin("terminalreporter")
    skipped = reporter.stats.get("skipped", []) if reporter else []
    if os.environ.get("CI") and any("accelerator" not in str(report.longrepr) for report in skipped):
        reporter.write_line("skipped in CI: see above", red=True)
        session.exitstatus = SKIPPED


@pytest.fixture
def pickle_by_default(monkeypatch: pytest.MonkeyPatch) -> None:
    """RQ as an application has it that serves no dashboard of ours: that one makes JSON the process's default."""
    monkeypatch.setattr(rq.serializers, "PickleSerializer", rq.serializers.DefaultSerializer)
