"""A user of Redis that may not do all that the service needs: it is told at start which rule is missing."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import redis

from service.embedded import RedisUnavailable
from service.settings import Settings
from service.store import durability
from service.store.connection import check, check_permissions, connect
from tests.deployment import Deployment, until

Allow = Callable[..., Settings]


@pytest.fixture
def allow(redis_url: str, connection: redis.Redis) -> Iterator[Allow]:
    """Gives the settings of a user with these rights."""
    path = redis_url.removeprefix("unix://")

    def settings(*rules: str) -> Settings:
        connection.execute_command("ACL", "SETUSER", "me", "reset", "on", ">pw", *rules)
        return Settings(redis_url=f"unix://me:pw@{path}")

    yield settings
    connection.execute_command("ACL", "DELUSER", "me")


def start(settings: Settings) -> None:
    with connect(settings) as client:
        check(client, settings)
        check_permissions(client, settings)


def documented() -> list[str]:
    text = (Path(__file__).parents[2] / "docs" / "operating.md").read_text()
    rule = re.search(r"ACL SETUSER service on >PASSWORD (.+)", text)
    assert rule is not None
    return rule[1].split()


ALL = ("+@all", "~*", "&*")


@pytest.mark.parametrize(
    ("rules", "missing"),
    [
        (("+@all", "~*", "resetchannels"), "&service:* &rq:*"),
        (("+@all", "~*", "resetchannels", "&service:*"), "&rq:*"),
        ((*ALL, "-@scripting"), "+eval +evalsha +script|load +script|exists"),
        ((*ALL, "-xadd", "-publish"), "+xadd +publish"),
        ((*ALL, "-subscribe"), "+subscribe"),
        ((*ALL, "-hkeys"), "+hkeys"),  # "key" is in its name
        ((*ALL, "-multi"), "+multi"),
        ((*ALL, "-exec"), "+exec"),
        ((*ALL, "-@write"), "+hset"),
        (("+@all", "&*", "~rq:job:*", "~service:*"), "~rq:*"),
        (("+@all", "&*"), "~rq:* ~service:*"),
        (("+@all", "-@all", "~*", "&*"), "+multi"),
    ],
)
def test_what_is_missing_is_named_with_the_rule_that_gives_it(
    allow: Allow, connection: redis.Redis, rules: tuple[str, ...], missing: str
) -> None:
    settings = allow(*rules)

    with pytest.raises(RedisUnavailable) as told:
        start(settings)

    assert missing in str(told.value), told.value
    assert "ACL SETUSER me " in str(told.value)
    assert "pw@" not in str(told.value)
    assert connection.dbsize() == 0  # trying has written nothing


def test_the_rules_that_are_named_are_enough(allow: Allow, connection: redis.Redis) -> None:
    settings = allow()
    for _ in range(3):  # without MULTI nothing else can be tried
        try:
            start(settings)
        except RedisUnavailable as unavailable:
            rule = re.search(r"ACL SETUSER me (.+)", str(unavailable))
            assert rule is not None
            connection.execute_command("ACL", "SETUSER", "me", *rule[1].split())

    start(settings)


@pytest.mark.parametrize("refused", ["-info", "-config", "-acl", "-client"])
def test_what_is_only_of_use_may_be_refused(allow: Allow, refused: str) -> None:
    start(allow(*ALL, refused))


def test_a_redis_whose_settings_cannot_be_seen_is_said_to_be_one(allow: Allow) -> None:
    with connect(allow(*ALL, "-info")) as client:
        assert "+info" in durability.warnings(client)[0]


def test_a_wrong_password_is_said_to_be_one(allow: Allow) -> None:
    settings = Settings(redis_url=allow(*ALL).redis_url.replace(":pw@", ":wrong@"))

    with pytest.raises(RedisUnavailable, match="password") as told:
        start(settings)

    assert "wrong" not in str(told.value).replace("WRONGPASS", "")


def test_a_process_without_its_rights_ends_with_the_rule(allow: Allow, deployed: Deployment) -> None:
    settings = allow("+@all", "~*", "resetchannels")
    for command in ("web", "worker"):
        process = deployed.run(command, REDIS_URL=settings.redis_url)
        assert process.wait(30) == 1
        lines = process.log.read_text().splitlines()  # type: ignore[attr-defined]
        assert len(lines) == 1
        assert "ACL SETUSER me &service:* &rq:*" in lines[0]


def test_the_documented_user_runs_the_whole_service(allow: Allow, deployed: Deployment) -> None:
    deployed.environment["REDIS_URL"] = allow(*documented()).redis_url
    deployed.write("from service import model\n\n@model\ndef doubles(x: int) -> int:\n    return 2 * x\n")
    worker, api = deployed.worker(), deployed.web()

    job = api.submit("doubles", wait=20, input={"x": 4})

    assert job["output"] == 8
    assert api.watch(f"/v1/jobs/{job['id']}/events")[0][-1]["data"]["status"] == "finished"
    until(lambda: api.http.get("/readyz").status_code == 200)
    for path in (
        "/v1/models",
        "/v1/queues",
        "/v1/workers",
        "/v1/jobs",
        "/dashboard/0/data/jobs/doubles/finished/10/asc/1.json",
    ):
        assert api.http.get(path).status_code == 200, path
    assert api.cancel(api.submit("doubles", input={"x": 1})["id"]).status_code in (200, 202)
    assert "NOPERM" not in worker.log.read_text() + api.process.log.read_text()  # type: ignore[attr-defined]
