"""What the FastAPI peers take, the same as ours."""

from pydantic import BaseModel


class Input(BaseModel):
    x: int
    y: int


class Submit(BaseModel):
    input: Input
