"""Which values of an input are secret, by its schema; and how they are hidden and put back."""

from __future__ import annotations

import copy
from typing import Annotated, Any

import pytest
from pydantic import BaseModel, Field, Secret, SecretBytes, SecretStr, ValidationError

from service.model import model
from service.secret_fields import MASK, Mask, SecretFields, restored
from service.web.input_check import InputCheck


class Login(BaseModel):
    user: str
    key: SecretStr
    children: list[Login] = []


class Plain(BaseModel):
    key: str = ""
    default: SecretStr | None = None
    writeOnly: str = ""  # noqa: N815


Own = Annotated[str, Field(json_schema_extra={"writeOnly": True})]


OF_THE_AUTHOR = SecretStr("of the author")


@model
def everything(
    token: SecretStr = OF_THE_AUTHOR,
    raw: SecretBytes | None = None,
    pin: Secret[int] | None = None,
    own: Own = "of the author",
    maybe: SecretStr | None = None,
    login: Login | None = None,
    either: Login | Plain | str = "",
    many: list[SecretStr] | None = None,
    named: dict[str, SecretStr] | None = None,
    pair: tuple[str, SecretStr] | None = None,
    box: Own | dict[str, Any] = "",
    n: int = 0,
) -> None: ...


SCHEMA = everything.__model__.input_schema()
LOGIN = {"user": "me", "key": "k1", "children": [{"user": "you", "key": "k2"}]}
SHOWN_LOGIN = {"user": "me", "key": MASK, "children": [{"user": "you", "key": MASK}]}


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        ({"n": 1}, {"n": 1}),
        ({"token": "t", "raw": "r", "pin": 4711, "own": "o"}, {"token": MASK, "raw": MASK, "pin": MASK, "own": MASK}),
        ({"maybe": None}, {"maybe": None}),
        ({"maybe": "m"}, {"maybe": MASK}),
        ({"login": LOGIN}, {"login": SHOWN_LOGIN}),
        ({"either": LOGIN}, {"either": SHOWN_LOGIN}),
        ({"either": "none"}, {"either": "none"}),
        ({"either": {"default": "d", "writeOnly": "w"}}, {"either": {"default": MASK, "writeOnly": "w"}}),
        ({"many": ["a", "b"], "named": {"a": "b"}}, {"many": [MASK, MASK], "named": {"a": MASK}}),
        ({"pair": ["a", "b"]}, {"pair": ["a", MASK]}),
        ({"box": {"a": [1, 2]}}, {"box": MASK}),
        (
            {"login": {"user": "me", "key": "k", "pasword": "p"}},
            {"login": {"user": "me", "key": MASK, "pasword": MASK}},
        ),
    ],
)
def test_each_secret_is_taken_out_and_put_back(value: dict[str, Any], shown: dict[str, Any]) -> None:
    before = copy.deepcopy(value)

    masked, kept = SecretFields(SCHEMA).split(value)

    assert masked == shown
    assert value == before
    assert restored(copy.deepcopy(masked), kept) == value


def test_what_has_no_secrets_is_left_as_it_is() -> None:
    @model
    def plain(x: int, default: str = "writeOnly") -> None: ...

    fields, value = SecretFields(plain.__model__.input_schema()), {"x": 1}

    assert not fields.any
    assert fields.split(value) == (value, [])
    assert fields.split(value)[0] is value


def test_a_schema_does_not_tell_the_authors_secrets() -> None:
    assert "of the author" not in str(SCHEMA)
    assert "token" not in SCHEMA.get("required", [])


@pytest.mark.parametrize("schema", [None, True, [], {"properties": None}, {"properties": [1]}, {"$ref": "#/$defs/no"}])
def test_a_schema_that_is_none_hides_nothing_and_breaks_nothing(schema: Any) -> None:
    assert SecretFields(schema).split({"a": [{"b": 1}]}) == ({"a": [{"b": 1}]}, [])
    both = {"allOf": [schema, {"properties": {"s": {"writeOnly": True}}}]}
    assert SecretFields(both).split({"s": 1, "t": {}})[0] == {"s": MASK, "t": MASK}


def test_a_mistake_near_a_secret_quotes_nothing() -> None:
    fields = SecretFields(SCHEMA)
    check = InputCheck("everything", SCHEMA, lambda path: fields.hides(path))
    secret = "hunter2 and more"  # noqa: S105 -- of a test

    for value in (
        {"token": [secret]},
        {"login": secret},
        {"login": {"user": 1, "key": {"a": secret}}},
        {"either": {"key": {"a": secret}}},
        {"many": secret},
        {"pair": [1, secret, 3]},
        {"pin": secret},
    ):
        found = list(check.mistakes(value))
        assert found
        assert secret not in str(found)
    assert "is not of type" in str(list(check.mistakes({"n": "three"})))


def test_a_secret_is_hidden_in_whatever_form_a_text_has_it() -> None:
    key = 'first line "quoted"\nsecond line of it'
    mask = Mask([key, 4711, True, "ab", {"x": ["nested-secret"]}])

    text = f"{key} {key!r} second line of it 4711 True ab nested-secret"

    assert mask(text) == f"{MASK} '{MASK}' {MASK} {MASK} True ab {MASK}"
    assert mask.json('{"message":"a 4711"}') == f'{{"message":"a {MASK}"}}'
    assert not Mask([])


def test_what_pydantic_shows_of_a_long_secret_is_hidden_too() -> None:
    class Wanted(BaseModel):
        key: str
        other: int

    key = "sk-" + "".join(f"{number}-" for number in range(100, 130))
    with pytest.raises(ValidationError) as refused:
        Wanted.model_validate({"key": key})
    text = str(refused.value)
    assert key[:12] in text

    masked = Mask([key])(text)

    assert not [part for part in range(len(key) - 8) if key[part : part + 8] in masked], masked
    assert "Field required" in masked
