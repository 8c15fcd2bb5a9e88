"""Checks what callers send: the fields of a submit, and the input against the model's published schema."""

from __future__ import annotations

import json
import time
from functools import cached_property, lru_cache
from typing import Annotated, Any, Literal, TypeVar

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError
from pydantic_core import PydanticCustomError

from service.model import LONGEST_DELAY, LONGEST_TIMEOUT, MOST_RETRIES
from service.secret_fields import SecretFields
from service.store.models import Models
from service.store.retry_policy import RetryPolicy
from service.web.input_check import InputCheck
from service.web.mistakes import MOST_ERRORS, mistakes, pointer, summary
from service.web.problems import Problem

LARGEST_METADATA = 16 * 1024
LONGEST_TTL = 10 * 365 * 86_400
RECENT = 1.0
"""Seconds for which a web process goes on with a description that it has read."""

WebhookEvent = Literal["started", "retrying", "finished", "failed", "stopped", "canceled"]
Body = TypeVar("Body", bound="SubmitBody")
Seconds = Annotated[int, Field(ge=1, le=LONGEST_TTL)]
ExceptionName = Annotated[str, Field(pattern=r"^[A-Za-z_][\w.]*$", max_length=200)]


def _each_once(events: list[str]) -> list[str]:
    return list(dict.fromkeys(events))


class WebhookBody(BaseModel):
    """Where to tell of a job's end, or of other changes of its status."""

    model_config = ConfigDict(extra="forbid", strict=True)

    url: str
    events: Annotated[list[WebhookEvent], Field(min_length=1, max_length=6), AfterValidator(_each_once)] | None = None


def _backoff(value: Any) -> Any:
    each = value if isinstance(value, list) else [value]
    if value is not None and not (0 < len(each) <= MOST_RETRIES and all(map(_is_delay, each))):
        # A union of types would answer with an error for each, at pointers that no caller sent.
        raise PydanticCustomError(
            "backoff", f"expected seconds from 0 to {LONGEST_DELAY}, or a list of 1 to {MOST_RETRIES} such numbers"
        )
    return value


def _is_delay(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and 0 <= value <= LONGEST_DELAY


class SubmitBody(BaseModel):
    """What POST /v1/models/{model}/jobs takes."""

    model_config = ConfigDict(extra="forbid", strict=True)

    input: dict[str, Any]
    priority: Literal["high", "default", "low"] = "default"
    timeout: Annotated[int, Field(ge=1, le=LONGEST_TIMEOUT)] | None = None
    start_timeout: Seconds | None = None
    result_ttl: Seconds | None = None
    retries: Annotated[int, Field(ge=0, le=MOST_RETRIES)] | None = None
    backoff: Annotated[Any, AfterValidator(_backoff)] = None
    fatal: Annotated[list[ExceptionName], Field(max_length=50)] | None = None
    webhook: WebhookBody | None = None
    metadata: Any = None


class PutBody(SubmitBody):
    """What PUT /v1/jobs/{id} takes."""

    model: Annotated[str, Field(max_length=200)]  # a length is that of text: half of a surrogate pair is refused


def submit_body(value: Any) -> SubmitBody:
    """The fields of a submit. Raises Problem 422 that points at each wrong one."""
    return _body(SubmitBody, value)


def put_body(value: Any) -> PutBody:
    """The same, with the model. Raises Problem 422."""
    return _body(PutBody, value)


def _body(kind: type[Body], value: Any) -> Body:
    try:
        body = kind.model_validate(value)
    except ValidationError as error:
        errors = [
            {"pointer": pointer(each["loc"]), "detail": each["msg"] if each["loc"] else "Input should be an object"}
            for each in error.errors(include_url=False, include_input=False, include_context=False)
        ]
        raise Problem(422, "invalid-request", summary(errors), errors[:MOST_ERRORS]) from None
    if (
        body.metadata is not None
        and len(json.dumps(body.metadata, ensure_ascii=False).encode(errors="surrogatepass")) > LARGEST_METADATA
    ):
        detail = f"metadata is larger than {LARGEST_METADATA} bytes"
        raise Problem(422, "invalid-request", detail, [{"pointer": "#/metadata", "detail": detail}])
    return body


_NEEDED = {"name", "version", "input_schema", "timeout", "retries", "result_ttl"}


class Described:
    """A published model, ready to check inputs: made once for each description."""

    def __init__(self, text: bytes) -> None:
        """Raises ValueError, LookupError, TypeError, AttributeError if it is no description."""
        self.model: dict[str, Any] = json.loads(text)
        if missing := _NEEDED - self.model.keys():
            raise LookupError(min(missing))
        self._input = InputCheck(self.model["name"], self.model["input_schema"] or {}, self.secret_fields.hides)

    @cached_property
    def retry_policy(self) -> RetryPolicy:
        """How its jobs are tried again; a description by an older worker says nothing."""
        default = RetryPolicy()
        return RetryPolicy(
            backoff=self.model.get("backoff", default.backoff),
            fatal=tuple(self.model.get("fatal", ())),
            max_crashes=self.model.get("max_crashes", default.max_crashes),
        )

    @property
    def callable(self) -> bool:
        """Whether its types are known: a file that never could be imported has none."""
        return self.model["input_schema"] is not None

    @cached_property
    def secret_fields(self) -> SecretFields:
        """What of an input nobody may see but the model."""
        return SecretFields(self.model["input_schema"])

    def check(self, value: dict[str, Any]) -> None:
        """Check an input against the model's schema. Raises Problem 422 that points at each wrong field."""
        if errors := mistakes(self._input, value):
            raise Problem(422, "invalid-input", summary(errors), errors)


described = lru_cache(maxsize=256)(Described)


class Descriptions:
    """The published models. Most submits are for one that was read a moment ago: they need no round trip for it."""

    def __init__(self, models: Models) -> None:
        self._models = models
        self._read: dict[str, tuple[float, Described]] = {}
        self._ready: dict[str, bool] = {}

    def recent(self, name: str) -> Described:
        """The model as it is, or was a second ago. Raises ModelNotFound.

        Before an input is refused by it, look at `latest`. What it accepts too much, the work-horse refuses.
        """
        until, found = self._read.get(name, (0.0, None))
        return found if found and time.monotonic() < until else self.latest(name)

    def latest(self, name: str) -> Described:
        """The model as it is. Raises ModelNotFound, Problem 503. One round trip."""
        text, ready = self._models.look(name)
        try:
            found = described(text)
        except (ValueError, TypeError, LookupError, AttributeError, RecursionError):  # others may write to Redis, too
            detail = f"what is known of {name} cannot be read: a worker that starts says it anew"
            raise Problem(503, "model-unavailable", detail) from None
        self._read[name] = time.monotonic() + RECENT, found
        self._ready[name] = ready
        return found

    def ready(self, name: str) -> bool:
        """Whether a worker was ready for jobs of this model when it was last read."""
        return self._ready.get(name, False)
