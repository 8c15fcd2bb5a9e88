"""The @model decorator, and the schemas that it makes from annotations."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Annotated, Any

import pytest
from pydantic import Field

from service import model
from service.model import InvalidModel
from service.registry import find_models
from service.testing import run


def test_a_model_stays_callable_as_it_was() -> None:
    @model(timeout=5)
    def add(x: int, y: int = 2) -> int:
        return x + y

    assert add(1) == 3


def test_the_schemas_come_from_the_annotations() -> None:
    @model
    def add(x: Annotated[int, Field(ge=0, description="the first")], y: float = 1.5) -> list[float]:
        return [x, y]

    schema = add.__model__.input_schema()
    assert schema["properties"]["x"] == {"minimum": 0, "description": "the first", "title": "X", "type": "integer"}
    assert schema["properties"]["y"]["default"] == 1.5
    assert schema["required"] == ["x"]
    assert schema["additionalProperties"] is False
    assert add.__model__.output_schema() == {"items": {"type": "number"}, "type": "array"}


def test_a_class_is_named_in_snake_case_and_its_predict_is_what_counts() -> None:
    @model
    class TextEmbedder2:
        """Embeds."""

        def setup(self) -> None: ...

        def predict(self, texts: list[str]) -> list[float]:
            return [1.0]

    assert TextEmbedder2.__model__.name == "text_embedder2"
    assert TextEmbedder2.__model__.description == "Embeds."
    assert list(TextEmbedder2.__model__.input_schema()["properties"]) == ["texts"]


@pytest.mark.parametrize(
    ("annotation", "schema"),
    [
        (Iterator[str], {"type": "string"}),
        (Iterator[int], {"items": {"type": "integer"}, "type": "array"}),
        (Any, {"items": {}, "type": "array"}),
    ],
)
def test_the_output_of_a_generator_is_the_list_or_the_joined_string(annotation: Any, schema: dict[str, Any]) -> None:
    def stream(n: int) -> Any:
        yield n

    stream.__annotations__["return"] = annotation
    model(stream)

    assert stream.__model__.kind == "generator"
    assert stream.__model__.output_schema() == schema


def test_async_models_are_known_as_such() -> None:
    @model
    async def one() -> int:
        return 1

    @model
    async def many() -> AsyncIterator[str]:
        yield "a"

    assert one.__model__.kind == "async"
    assert many.__model__.kind == "async generator"
    assert many.__model__.joins


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"timeout": 0}, "timeout is 0: expected a whole number from 1"),
        ({"timeout": 1.5}, "timeout is 1.5"),
        ({"retries": -1}, "retries is -1"),
        ({"retries": True}, "retries is True"),
        ({"name": "Ümlaut"}, "name is 'Ümlaut'"),
        ({"result_ttl": 0}, "result_ttl is 0"),
    ],
)
def test_an_option_that_cannot_be_is_refused_by_name(options: dict[str, Any], told: str) -> None:
    with pytest.raises(InvalidModel, match=told):
        model(**options)(lambda: 1)


def test_a_model_whose_parameters_have_no_names_is_refused() -> None:
    @model
    def loose(*args: int) -> int:
        return 1

    with pytest.raises(InvalidModel, match="every parameter needs a name"):
        loose.__model__.input_schema()


def write(folder: Path, **files: str) -> None:
    for name, text in files.items():
        (folder / f"{name}.py").write_text(text)


GOOD = "from service import model\n@model\ndef {0}(x: int) -> int:\n    return x\n"


def test_each_file_is_found_and_a_broken_one_does_not_stop_the_others(tmp_path: Path) -> None:
    write(
        tmp_path,
        good=GOOD.format("good"),
        bad="import sys\nsys.exit(3)",
        worse="def f(:",
        wrong="from service import model\n@model\ndef wrong(x: object()) -> int: ...",
        _helper="raise RuntimeError('not a model file')",
    )

    found, broken = find_models(tmp_path)

    assert list(found) == ["good"]
    assert {each.name: each.error for each in broken}.keys() == {"bad", "worse", "wrong"}
    assert "SystemExit: 3 (bad.py, line 2)" in {each.error for each in broken}


def test_two_files_with_a_model_of_one_name_are_told_apart(tmp_path: Path) -> None:
    write(tmp_path, a=GOOD.format("same"), b=GOOD.format("same"))

    found, (broken,) = find_models(tmp_path)

    assert found["same"].description.file == "a.py"
    assert "same is declared in a.py already" in broken.error


def test_a_model_imported_from_another_file_is_not_declared_twice(tmp_path: Path) -> None:
    write(tmp_path, a=GOOD.format("first"), b="from jobs.a import first\n" + GOOD.format("second"))

    found, broken = find_models(tmp_path)

    assert not broken
    assert sorted(found) == ["first", "second"]


def test_the_version_changes_with_the_file_unless_it_is_given(tmp_path: Path) -> None:
    write(tmp_path, a=GOOD.format("a"), b=GOOD.format("b").replace("@model", "@model(version='7')"))
    before = find_models(tmp_path)[0]
    write(tmp_path, a=GOOD.format("a") + "# changed\n", b=GOOD.format("b").replace("@model", "@model(version='7')\n"))
    after = find_models(tmp_path)[0]
    write(tmp_path, _helper="")
    helped = find_models(tmp_path)[0]
    write(tmp_path, _helper="# changed\n")

    assert helped["a"].description.version != find_models(tmp_path)[0]["a"].description.version
    assert before["a"].description.version != after["a"].description.version
    assert before["b"].description.version == after["b"].description.version == "7"


def test_a_missing_library_is_told_with_how_to_install_it(tmp_path: Path) -> None:
    write(tmp_path, heavy="import no_such_library")
    (tmp_path / "heavy.requirements.txt").write_text("no_such_library==1\n")

    _, (broken,) = find_models(tmp_path)

    assert "No module named 'no_such_library'" in broken.error
    assert "heavy.requirements.txt" in broken.error


def in_a_class(**methods: Any) -> Any:
    return type("Greeter", (), {"predict": lambda self, name="": name, **methods})


async def waits(self: Any) -> None: ...


@pytest.mark.parametrize(
    ("target", "told"),
    [
        (in_a_class(setup=waits), "setup of Greeter has to be a plain method"),
        (in_a_class(setup=lambda self, path: None), "setup of Greeter needs path, which nobody gives"),
        (in_a_class(__init__=lambda self, path: None), "__init__ of Greeter needs path, which nobody gives"),
        (in_a_class(predict=lambda: 1), "its first parameter is self"),
        (lambda _name: 1, "parameter _name of m: an input cannot be called so"),
        (lambda model_config: 1, "parameter model_config of m: an input cannot be called so"),
    ],
)
def test_what_could_only_fail_later_is_refused_when_it_is_declared(target: Any, told: str) -> None:
    with pytest.raises(InvalidModel, match=told):
        model(name="m")(target).__model__.input_schema()


def test_predict_may_be_a_static_or_a_class_method() -> None:
    for wrap in (staticmethod(lambda x: x), classmethod(lambda cls, x: x)):
        assert run(model(name="m")(in_a_class(predict=wrap)), {"x": 7}).output == 7


def test_parameters_may_have_any_name() -> None:
    @model
    def odd(json: int, schema: int, copy: int, self: int, model_fields: int = 1) -> int:
        return json + schema + copy + self + model_fields

    assert run(odd, {"json": 1, "schema": 1, "copy": 1, "self": 1}).output == 5
