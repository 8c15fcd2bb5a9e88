"""Types that JSON cannot carry are refused when the file is imported, in one sentence that says what to do."""

from __future__ import annotations

import io
import os
from base64 import b64decode
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Annotated, Any, BinaryIO, NamedTuple, NewType

import numpy as np
import pytest
from pydantic import Base64Bytes, BaseModel, BeforeValidator, Field, FilePath, SecretBytes, field_validator
from typing_extensions import TypedDict

from service.model import InvalidModel, model

PHOTO = NewType("PHOTO", bytes)
Image = type("Image", (), {"__module__": "PIL.Image"})
PngImageFile = type("PngImageFile", (Image,), {"__module__": "PIL.PngImagePlugin"})


class Inner(BaseModel):
    photo: Annotated[bytes, Field(max_length=10)] | None = None
    again: list[Inner] = []


@dataclass
class Record:
    inner: dict[str, Inner]


class Pair(NamedTuple):
    where: PurePosixPath


class Typed(TypedDict):
    photo: bytes


class Decoding(BaseModel):
    photo: bytes

    @field_validator("photo", mode="before")
    @classmethod
    def decode(cls, value: Any) -> Any:
        return b64decode(value)


class Bytes(bytes):
    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: Any) -> Any:
        return handler(str)


def declared(hint: Any, returned: Any = int, **options: Any) -> Any:
    def predict(x: Any) -> Any: ...

    predict.__annotations__.update({"x": hint, "return": returned})
    return model(**options)(predict).__model__


@pytest.mark.parametrize(
    ("hint", "said"),
    [
        (
            bytes,
            "input x of predict is bytes, which JSON cannot carry, and there are no files yet: take pydantic.Base64",
        ),
        (bytearray, "input x of predict is bytes"),
        (list[bytes | None], "input x of predict is bytes"),
        (PHOTO, "input x of predict is bytes"),
        (Path, "input x of predict is Path, which JSON cannot carry, and there are no files yet: take a str"),
        (FilePath, "input x of predict is Path"),
        (Inner, "input x.photo of predict is bytes"),
        (Record, "input x.inner.photo of predict is bytes"),
        (Typed, "input x.photo of predict is bytes"),
        (os.PathLike, "input x of predict is Path"),
        (Callable[[int], int], "one of them is none that JSON can carry"),
        (Pair, "input x.where of predict is Path"),
        (
            Image,
            "input x of predict is PIL.Image, which JSON cannot carry, and there are no files yet: take pydantic.B",
        ),
        (dict[str, PngImageFile], "input x of predict is PIL.Image"),
        (np.ndarray, "numpy.ndarray is none that JSON can carry: use what it is made of"),
        (BinaryIO, "typing.BinaryIO is none that JSON can carry"),
        (io.BytesIO, "BytesIO is none that JSON can carry"),
    ],
)
def test_an_input_that_json_cannot_carry_is_refused_with_what_to_do(hint: Any, said: str) -> None:
    with pytest.raises(InvalidModel) as refused:
        declared(hint).input_schema()

    assert said in str(refused.value)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("hint", "said"),
    [
        (
            bytes,
            "the output of predict is bytes, which JSON cannot carry, and there are no files yet: return a str, ba",
        ),
        (Iterator[bytes], "the output of predict is bytes"),
        (AsyncIterator[Path], "the output of predict is Path"),
        (list[Image], "the output of predict is PIL.Image"),
        (tuple[int, Inner], "the output.photo of predict is bytes"),
    ],
)
def test_so_is_an_output(hint: Any, said: str) -> None:
    with pytest.raises(InvalidModel, match=said):
        declared(int, hint).output_schema()


@pytest.mark.parametrize(
    "hint", [Base64Bytes, SecretBytes, Decoding, Annotated[bytes, BeforeValidator(b64decode)], Bytes, list[Base64Bytes]]
)
def test_what_says_itself_how_it_comes_from_json_is_taken(hint: Any) -> None:
    assert declared(hint).input_schema()["properties"]["x"]


def test_a_row_of_a_batch_is_looked_at_too() -> None:
    with pytest.raises(InvalidModel, match=r"an input.photo of predict is bytes"):
        declared(list[Inner], list[int], max_batch_size=2).input_schema()
