"""Models over HTTP: what workers published, whether anybody serves it, and what becomes of its jobs."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from service.embedded import EmbeddedRedis, binary
from tests.deployment import Api, deployment, eventually
from tests.suspension import suspended

MODELS = """
    from typing import Annotated, Literal
    from pydantic import BaseModel, Field
    from service import model

    class Box(BaseModel):
        width: Annotated[int, Field(gt=0)]

    @model(name="pack", version="7.1", timeout=42, retries=3)
    def anything(boxes: list[Box], size: Literal["s", "l"] = "s") -> Box:
        \'\'\'Pack boxes.

        Bigger ones first.
        \'\'\'
        return boxes[0]

    @model
    class Counter:
        "Counts."

        def setup(self):
            self.calls = 0

        def predict(self) -> int:
            self.calls += 1
            return self.calls
"""

ADD = """
    from service import model

    @model
    def add(x: int, y: int) -> int:
        "Add two integers."
        return x + y
"""

SUBTRACT = """
    @model
    def subtract(x: int, y: int) -> int:
        return x - y
"""

SLOW = """
    import time
    from pathlib import Path
    from service import model

    @model
    class Slow:
        def setup(self):
            while not Path({gate!r}).exists():
                time.sleep(0.01)

        def predict(self) -> str:
            return "loaded"
"""

UNLUCKY = """
    from service import model

    @model
    class Unlucky:
        def setup(self):
            raise RuntimeError("weights are missing")

        def predict(self) -> int:
            return 1
"""


@pytest.fixture(scope="module")
def troubled(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Api]:
    """A service that has model files of every kind, and a web process that has none of them."""
    folder = tmp_path_factory.mktemp("troubled")
    executable = shutil.which(os.environ.get("TEST_REDIS_SERVER", "")) or binary()
    with EmbeddedRedis(folder / "redis", executable) as server, deployment(folder, server.url) as each:
        each.write(ADD + SUBTRACT, "numbers.py")
        each.write(UNLUCKY, "unlucky.py")
        each.write("import no_such_package", "embed.py")
        each.worker()
        yield each.web(JOBS_DIR=str(folder / "nowhere"))


def models(api: Api) -> dict[str, Any]:
    response = api.http.get("/v1/models")
    assert response.status_code == 200, response.text
    listed = response.json()["models"]
    assert [model["name"] for model in listed] == sorted({model["name"] for model in listed})
    return {model["name"]: model for model in listed}


def model(api: Api, name: str) -> Any:
    response = api.http.get(f"/v1/models/{name}")
    assert response.status_code == 200, response.text
    return response.json()


def in_state(api: Api, name: str, state: str, within: float = 15.0) -> Any:
    """The model once it is in a state."""

    def check() -> Any:
        now = model(api, name)
        assert now["state"] == state, now
        return now

    return eventually(check, within)


def end(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    process.wait(timeout=20)


# --- what is said of a model ----------------------------------------------------------------------


def test_a_model_is_described_as_its_author_declared_it(service: Api) -> None:
    pack = model(service, "pack")

    assert (pack["name"], pack["version"]) == ("pack", "7.1")
    assert pack["description"] == "Pack boxes.\n\nBigger ones first."
    assert (pack["timeout"], pack["retries"]) == (42, 3)
    assert pack["urls"] == {"self": "/v1/models/pack", "jobs": "/v1/models/pack/jobs"}


def test_a_model_shows_the_schemas_of_input_and_output(service: Api) -> None:
    pack = model(service, "pack")

    schema = pack["input_schema"]
    assert schema["required"] == ["boxes"]
    assert schema["properties"]["size"]["enum"] == ["s", "l"]
    assert schema["properties"]["size"]["default"] == "s"
    assert schema["$defs"]["Box"]["properties"]["width"]["exclusiveMinimum"] == 0
    assert pack["output_schema"]["properties"]["width"]["type"] == "integer"


def test_the_list_shows_each_model_as_it_shows_itself(service: Api) -> None:
    in_state(service, "counter", "ready")

    assert models(service) == {name: model(service, name) for name in models(service)}


def test_a_model_that_a_worker_serves_is_ready(service: Api) -> None:
    pack = model(service, "pack")

    assert (pack["state"], pack["ready"], pack["workers"], pack["error"]) == ("ready", True, 1, None)


def test_a_model_shows_its_queues_and_how_many_jobs_wait_in_each(service: Api) -> None:
    with suspended(service):
        jobs = [service.submit("counter", priority=priority) for priority in ("default", "low", "low")]

        assert model(service, "counter")["queues"] == [
            {"name": "counter-high", "priority": "high", "depth": 0, "paused": False},
            {"name": "counter", "priority": "default", "depth": 1, "paused": False},
            {"name": "counter-low", "priority": "low", "depth": 2, "paused": False},
        ]
        for job in jobs:
            service.cancel(job["id"])
        assert [queue["depth"] for queue in model(service, "counter")["queues"]] == [0, 0, 0]


def test_a_job_takes_the_defaults_of_its_model(service: Api) -> None:
    job = service.submit("pack", wait=10, input={"boxes": [{"width": 3}]})

    assert (job["timeout"], job["version"], job["output"]) == (42, "7.1", {"width": 3})


def test_a_version_that_nobody_declared_is_that_of_the_file(troubled: Api) -> None:
    published = models(troubled)

    assert published["add"]["version"] == published["subtract"]["version"] != ""
    assert published["add"]["version"] != published["unlucky"]["version"]


@pytest.mark.parametrize("name", ["unknown", "Pack", "PACK", "anything", "pack%00", "%ED%A0%80", "pack-low"])
def test_a_name_that_nobody_published_is_404(service: Api, name: str) -> None:
    shown = service.http.get(f"/v1/models/{name}")
    submitted = service.http.post(f"/v1/models/{name}/jobs", json={"input": {}})

    assert (shown.status_code, submitted.status_code) == (404, 404)
    assert shown.headers["Content-Type"] == submitted.headers["Content-Type"] == "application/problem+json"


# --- who serves it --------------------------------------------------------------------------------


def test_a_web_process_without_a_jobs_folder_serves_the_models_of_its_workers(troubled: Api) -> None:
    assert model(troubled, "add")["description"] == "Add two integers."
    assert troubled.submit("add", wait=10, input={"x": 1, "y": 2})["output"] == 3


def test_a_model_is_loading_until_its_setup_is_done_and_takes_jobs_meanwhile(service: Api, tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    with deployment(tmp_path, service.redis_url) as other:  # type: ignore[attr-defined]
        other.write(SLOW.format(gate=str(gate)))
        other.worker()

        loading = in_state(service, "slow", "loading")
        job = service.submit("slow")
        gate.touch()

        assert loading["ready"] is False
        assert service.done(job["id"])["output"] == "loaded"
        assert in_state(service, "slow", "ready")["ready"] is True


def test_a_model_whose_setup_fails_says_why(troubled: Api) -> None:
    unlucky = in_state(troubled, "unlucky", "failed")

    assert "weights are missing" in unlucky["error"]
    assert unlucky["ready"] is False
    assert unlucky["input_schema"] is not None


def test_a_model_that_nobody_serves_any_more_takes_jobs_which_wait_for_a_worker(service: Api, tmp_path: Path) -> None:
    with deployment(tmp_path, service.redis_url) as other:  # type: ignore[attr-defined]
        other.write(ADD)
        end(other.worker())

        offline = model(service, "add")
        job = service.submit("add", input={"x": 1, "y": 2})
        other.worker()

        assert (offline["state"], offline["ready"], offline["workers"]) == ("offline", False, 0)
        assert offline["input_schema"]["required"] == ["x", "y"]
        assert job["status"] == "queued"
        assert service.done(job["id"])["output"] == 3
        assert model(service, "add")["ready"]


# --- files that cannot be imported ----------------------------------------------------------------


def test_a_file_that_cannot_be_imported_is_listed_with_its_error(troubled: Api) -> None:
    embed = model(troubled, "embed")

    assert models(troubled)["embed"] == embed
    assert (embed["state"], embed["ready"], embed["file"]) == ("failed", False, "embed.py")
    assert "no_such_package" in embed["error"]


def test_a_file_that_cannot_be_imported_keeps_no_other_from_serving(troubled: Api) -> None:
    assert model(troubled, "add")["ready"]
    assert troubled.submit("subtract", wait=10, input={"x": 1, "y": 2})["output"] == -1


def test_a_file_that_never_could_be_imported_takes_no_jobs(troubled: Api) -> None:
    response = troubled.post("embed")

    assert response.status_code == 503
    assert response.headers["Content-Type"] == "application/problem+json"
    assert response.json()["type"] == "/problems/model-unavailable"
    assert troubled.http.get("/v1/jobs", params={"model": "embed"}).json()["jobs"] == []


def test_a_file_that_was_mended_serves_after_the_next_start_of_a_worker(service: Api, tmp_path: Path) -> None:
    with deployment(tmp_path, service.redis_url) as other:  # type: ignore[attr-defined]
        other.write("1 / 0", "mended.py")
        broken = other.worker()
        assert model(service, "mended")["state"] == "failed"
        end(broken)

        other.write(ADD.replace("add", "mended"), "mended.py")
        other.worker()

        assert (model(service, "mended")["state"], model(service, "mended")["error"]) == ("ready", None)
        assert service.submit("mended", wait=10, input={"x": 1, "y": 2})["output"] == 3


def test_a_file_that_broke_keeps_the_description_that_it_had(service: Api, tmp_path: Path) -> None:
    with deployment(tmp_path, service.redis_url) as other:  # type: ignore[attr-defined]
        other.write(ADD.replace("add", "broke"), "broke.py")
        end(other.worker())

        other.write("1 / 0", "broke.py")
        other.worker()

        broke = model(service, "broke")
        assert (broke["state"], broke["ready"]) == ("failed", False)
        assert "ZeroDivisionError" in broke["error"]
        assert broke["input_schema"]["required"] == ["x", "y"]
        assert service.submit("broke", input={"x": 1, "y": 2})["status"] == "queued"


def test_a_broken_file_that_no_worker_meets_any_more_is_forgotten(service: Api, tmp_path: Path) -> None:
    with deployment(tmp_path, service.redis_url) as other:  # type: ignore[attr-defined]
        other.write("1 / 0", "removed.py")
        worker = other.worker()
        assert "removed" in models(service)

        end(worker)

        assert "removed" not in models(service)
        assert service.http.get("/v1/models/removed").status_code == 404
