"""A model whose jobs are as large as their input: it is never run."""

from service import model


@model
def kept(text: str) -> int:
    return len(text)
