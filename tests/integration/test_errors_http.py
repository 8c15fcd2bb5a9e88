"""Errors over HTTP: each is a problem (RFC 9457) that says what to change, and leaves nothing behind."""

from __future__ import annotations

import re
from base64 import urlsafe_b64encode
from collections.abc import Iterator
from typing import Any
from urllib.parse import quote

import httpx
import pytest

from tests.deployment import NO_TLS, Api, deployment

MODELS = """
    from typing import Annotated, Any, Literal, Optional
    from pydantic import BaseModel, Field
    from service import model

    class Point(BaseModel):
        x: int
        y: Annotated[float, Field(multiple_of=0.5)] = 0.0

    class Chain(BaseModel):
        next: Optional["Chain"] = None

    @model
    def strict(
        points: list[Point],
        size: Literal["s", "l"] = "s",
        name: Annotated[str, Field(max_length=5)] = "",
        chain: Optional[Chain] = None,
    ) -> int:
        return len(points)

    @model
    def echo(value: Any = None) -> Any:
        return value
"""

GOOD = {"points": [{"x": 1}]}
JSON = {"Content-Type": "application/json"}
LIMIT = 4096  # MAX_BODY_BYTES of the fixture `narrow`


@pytest.fixture(scope="module")
def narrow(service: Api, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Api]:
    """Another web process of the same service, which takes small bodies only."""
    folder = tmp_path_factory.mktemp("narrow")
    with deployment(folder, service.redis_url) as each:  # type: ignore[attr-defined]
        yield each.web(MAX_BODY_BYTES=str(LIMIT))


def problem(response: httpx.Response, status: int) -> Any:
    """The problem that a response is."""
    assert response.status_code == status, response.text
    assert response.headers["Content-Type"] == "application/problem+json"
    body = response.json()
    assert {"type", "title", "status", "detail"} <= set(body)
    assert body["status"] == status
    assert body["title"]
    assert body["detail"]
    return body


def pointers(response: httpx.Response, status: int = 422, member: str = "pointer") -> list[str]:
    """The fields that a problem points at."""
    body = problem(response, status)
    assert all(set(error) == {member, "detail"} and error["detail"] for error in body["errors"])
    return sorted(error[member] for error in body["errors"])


def parameters(response: httpx.Response) -> list[str]:
    """The query parameters that a problem names."""
    return pointers(response, 400, "parameter")


def post(api: Api, body: bytes, model: str = "strict", **headers: str) -> httpx.Response:
    return api.http.post(f"/v1/models/{model}/jobs", content=body, headers={**JSON, **headers})


def of_model(api: Api, model: str) -> list[Any]:
    jobs: list[Any] = api.http.get("/v1/jobs", params={"model": model, "limit": 100}).json()["jobs"]
    return jobs


# --- the input ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("wrong", "expected"),
    [
        ({}, ["#/input/points"]),
        ({"points": 5}, ["#/input/points"]),
        ({"points": None}, ["#/input/points"]),
        ({"points": [{"x": "1"}, {"x": 1}, {}]}, ["#/input/points/0/x", "#/input/points/2/x"]),
        ({**GOOD, "size": "xl", "name": "too long"}, ["#/input/name", "#/input/size"]),
        ({**GOOD, "colour": 1, "a/b~c": 2}, ["#/input/a~1b~0c", "#/input/colour"]),
        ({"points": [{"x": 1, "y": 0.3}]}, ["#/input/points/0/y"]),
        ({"points": [{"x": 1.5}]}, ["#/input/points/0/x"]),
        ({"points": [{"x": True}]}, ["#/input/points/0/x"]),
    ],
)
def test_an_input_that_the_model_does_not_take_is_422_and_names_each_field(
    service: Api, wrong: Any, expected: list[str]
) -> None:
    response = service.post("strict", input=wrong)

    assert pointers(response) == expected
    assert response.json()["type"] == "/problems/invalid-input"


def test_an_input_that_is_wrong_in_many_places_names_some_of_them(service: Api) -> None:
    response = service.post("strict", input={"points": [{"x": "no"}] * 500})

    assert 10 <= len(pointers(response)) <= 100


def test_a_problem_does_not_repeat_a_large_input(service: Api) -> None:
    response = service.post("strict", input={**GOOD, "name": "x" * 100_000, "size": ["y"] * 10_000})

    assert pointers(response) == ["#/input/name", "#/input/size"]
    assert len(response.content) < 5_000


def test_an_input_that_is_nested_as_deeply_as_allowed_is_taken(service: Api) -> None:
    chain = None
    for _ in range(55):
        chain = {"next": chain}

    job = service.submit("strict", wait=10, input={"points": [], "chain": chain})

    assert job["output"] == 0
    assert job["input"]["chain"] == chain


@pytest.mark.parametrize("number", ["1e400", "-1e400", "[[1e999]]"])
@pytest.mark.parametrize("field", ["input", "metadata"])
def test_a_number_that_no_double_holds_is_refused(service: Api, number: str, field: str) -> None:
    # A parser makes it Infinity, which no later JSON can carry.
    body = {"input": '{"input":{"value":%s}}', "metadata": '{"input":{},"metadata":%s}'}[field] % number

    response = post(service, body.encode(), model="echo")

    assert response.status_code in (400, 422), response.text
    problem(response, response.status_code)


def test_an_integer_too_large_for_a_float_is_refused_where_a_float_is_wanted(service: Api) -> None:
    body = b'{"input":{"points":[{"x":1,"y":1' + b"0" * 400 + b"}]}}"

    problem(post(service, body), 422)


# --- the other fields of a submit -----------------------------------------------------------------


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("unknown", 1),
        ("Input", {}),
        ("priority", "urgent"),
        ("priority", None),
        ("priority", ["high"]),
        *(("timeout", value) for value in (0, -1, 1.5, True, "5", [], 10**12)),
        *(("start_timeout", value) for value in (0, -1, 0.5, "5", 10**30)),
        *(("result_ttl", value) for value in (0, -1, False, "5", 10**30)),
        ("metadata", "x" * 20_000),
        ("metadata", {"x": [1] * 20_000}),
    ],
)
def test_a_field_of_a_submit_that_is_not_allowed_is_422(service: Api, field: str, value: Any) -> None:
    response = service.post("strict", input=GOOD, **{field: value})

    assert pointers(response) == [f"#/{field}"]
    assert response.json()["type"] == "/problems/invalid-request"


@pytest.mark.parametrize("value", [[], None, "text", 5, True])
def test_an_input_that_is_no_object_is_422(service: Api, value: Any) -> None:
    assert pointers(service.post("strict", input=value)) == ["#/input"]


@pytest.mark.parametrize("body", [b"{}", b'{"priority":"high"}'])
def test_a_submit_without_an_input_is_422(service: Api, body: bytes) -> None:
    assert pointers(post(service, body)) == ["#/input"]


@pytest.mark.parametrize("body", [b"[]", b"null", b"5", b'"text"', b"[[]]"])
def test_a_body_that_is_no_object_is_422(service: Api, body: bytes) -> None:
    assert pointers(post(service, body)) == ["#"]


@pytest.mark.parametrize(
    "body",
    [b'{"input":{"\\ud800":1}}', b'{"input":{},"\\ud800":1}', b'{"input":{},"priority":"\\ud800"}'],
    ids=["input", "field", "priority"],
)
def test_a_wrong_field_that_is_no_unicode_text_is_422(service: Api, body: bytes) -> None:
    assert pointers(post(service, body, model="echo"))


@pytest.mark.parametrize("fields", ['"model":"\\ud800"', '"model":"echo","webhook":{"url":"https://\\ud800"}'])
def test_a_field_of_a_put_that_is_no_unicode_text_is_422(service: Api, fields: str) -> None:
    response = service.http.put("/v1/jobs/mine", content=f'{{"input":{{}},{fields}}}'.encode(), headers=JSON)

    assert pointers(response)


# --- the body -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b" ",
        b"{",
        b"not JSON",
        b'{"input":{}} {}',
        b"{'input':{}}",
        b'{"input":{"value":NaN}}',
        b'{"input":{"value":-Infinity}}',
        b'{"input":{},"metadata":NaN}',
        b'{"input":{"value":01}}',
        b'{"input":{"value":' + b"9" * 5_000 + b"}}",
        b'{"input":{"value":' + b"[" * 100_000 + b"]" * 100_000 + b"}}",
        b'{"input":' * 100_000,
        b"[" * 100_000,
        b'{"input":{"value":"\xff"}}',
        b'{"input":{"value":"\xed\xa0\x80"}}',  # a surrogate in UTF-8, which is no UTF-8
        '{"input":{}}'.encode("utf-16"),
        '{"input":{}}'.encode("utf-32-le"),
        b'{"input":{"value":"\x00"}}',
        b'\xef\xbb\xbf{"input":{}}',
        b'{"input":{},"input":{}}',
        b'{"input":{"value":[{"a":1,"b":{"c":1,"c":1}}]}}',
        b'{"input":{},"metadata":{"":1,"":2}}',
    ],
    ids=lambda body: repr(body[:30]),
)
def test_a_body_that_is_not_json_is_400(service: Api, body: bytes) -> None:
    response = post(service, body, model="echo")

    assert problem(response, 400)["type"] == "/problems/malformed-json"


@pytest.mark.parametrize(
    "content_type", [None, "", "text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x"]
)
def test_another_content_type_is_415(service: Api, content_type: str | None) -> None:
    headers = {} if content_type is None else {"Content-Type": content_type}

    response = service.http.post("/v1/models/echo/jobs", content=b'{"input":{}}', headers=headers)

    assert "application/json" in problem(response, 415)["detail"]


@pytest.mark.parametrize(
    ("body", "named"),
    [
        (b'\xef\xbb\xbf{"input":{}}', "byte order mark"),
        (b'{"input":{"value":{"twice":1,"twice":2}}}', "'twice'"),
        (b'{"input":{"value":' + b"9" * 5_000 + b"}}", "4300 digits"),
        (b'{"input":{"value":NaN}}', "NaN"),
        (b'{"input":{"value":1e999}}', "1e999"),
        (b'{"input":{"value":"\xff"}}', "utf-8"),
    ],
)
def test_what_is_wrong_with_a_body_is_said_in_its_words(service: Api, body: bytes, named: str) -> None:
    assert named in problem(post(service, body, model="echo"), 400)["detail"]


@pytest.mark.parametrize("coding", ["gzip", "br", "deflate", "gzip, identity", ""])
def test_a_body_that_is_encoded_is_415_and_says_what_is_taken(service: Api, coding: str) -> None:
    response = post(service, b'{"input":{}}', model="echo", **{"Content-Encoding": coding})

    assert problem(response, 415)["type"] == "/problems/unsupported-media-type"
    assert response.headers["Accept-Encoding"] == "identity"


@pytest.mark.parametrize("charset", ["latin-1", "utf-16", "junk"])
def test_json_in_another_charset_is_415(service: Api, charset: str) -> None:
    response = post(service, b'{"input":{}}', model="echo", **{"Content-Type": f"application/json; charset={charset}"})

    assert charset in problem(response, 415)["detail"]


@pytest.mark.parametrize("events", [["finished"] * 70_000, ["finished"] * 7, [], ["ended"]], ids=len)
def test_webhook_events_are_few(service: Api, events: list[str]) -> None:
    found = pointers(service.post("echo", webhook={"url": "https://example.com", "events": events}))

    assert found[0].startswith("#/webhook/events")


@pytest.mark.parametrize("content_type", ["application/json; charset=utf-8", "Application/JSON"])
def test_json_is_taken_under_each_of_its_names(service: Api, content_type: str) -> None:
    assert post(service, b'{"input":{}}', model="echo", **{"Content-Type": content_type}).is_success


def sized(size: int) -> bytes:
    """A good body of so many bytes."""
    return b'{"input":{}' + b" " * (size - 12) + b"}"


def in_chunks(body: bytes, size: int = 1000) -> Iterator[bytes]:
    """For httpx: sent with Transfer-Encoding: chunked, so without its length."""
    return (body[start : start + size] for start in range(0, len(body), size))


def test_a_body_may_have_one_mebibyte_and_no_more(service: Api) -> None:
    assert post(service, sized(2**20), model="echo").is_success
    assert problem(post(service, sized(2**20 + 1), model="echo"), 413)["type"] == "/problems/too-large"


def test_a_body_may_be_as_large_as_max_body_bytes(narrow: Api) -> None:
    assert post(narrow, sized(LIMIT), model="echo").is_success
    problem(post(narrow, sized(LIMIT + 1), model="echo"), 413)


def test_a_body_in_chunks_may_be_as_large_as_max_body_bytes(narrow: Api) -> None:
    response = narrow.http.post("/v1/models/echo/jobs", content=in_chunks(sized(LIMIT)), headers=JSON)

    assert response.is_success, response.text


@pytest.mark.parametrize("size", [LIMIT + 1, 20 * LIMIT])
def test_a_body_in_chunks_that_is_too_large_is_413(narrow: Api, size: int) -> None:
    body = b'{"input":{"value":"' + b"x" * (size - 22) + b'"}}'

    problem(narrow.http.post("/v1/models/echo/jobs", content=in_chunks(body), headers=JSON), 413)


@pytest.mark.parametrize("path", ["/v1/models/echo/jobs", "/v1/models/unknown/jobs"])
@pytest.mark.parametrize("chunked", [True, False])
def test_an_answer_that_leaves_much_of_a_body_unread_says_that_its_connection_ends(
    narrow: Api, path: str, chunked: bool
) -> None:
    body = sized(50 * LIMIT)

    answer = narrow.http.post(path, content=in_chunks(body) if chunked else body, headers=JSON)

    assert (answer.status_code, answer.headers["Connection"]) == (413, "close")


def test_what_is_too_much_of_a_body_in_chunks_is_not_cut_off(narrow: Api) -> None:
    # What is within the limit is a good submit of its own.
    body = sized(100) + b" " * LIMIT + b"and more"

    problem(narrow.http.post("/v1/models/echo/jobs", content=in_chunks(body), headers=JSON), 413)


def test_a_connection_goes_on_after_a_refused_body(narrow: Api) -> None:
    with httpx.Client(
        base_url=narrow.http.base_url, limits=httpx.Limits(max_connections=1), timeout=60, verify=NO_TLS
    ) as one:
        for _ in range(3):
            one.post("/v1/models/echo/jobs", content=b"{" * 2000, headers=JSON)
            one.post("/v1/models/unknown/jobs", content=sized(2000), headers=JSON)

            assert one.get("/v1/models/echo").status_code == 200


# --- nothing is left ------------------------------------------------------------------------------


def test_what_is_refused_is_not_enqueued(service: Api) -> None:
    # A good submit first, so that the list could show others.
    accepted = service.submit("strict", wait=10, input=GOOD)["id"]
    before = [job["id"] for job in of_model(service, "strict")]

    for body in (b"", b"[]", b'{"input":{}}', b'{"input":{"points":[]},"timeout":0}', b'{"input":{"points":[]},"x":1}'):
        assert post(service, body).status_code in (400, 422)
    service.http.post("/v1/models/strict/jobs", content=b'{"input":{"points":[]}}')  # without its content type

    assert [job["id"] for job in of_model(service, "strict")] == before
    assert accepted in before


# --- paths, methods, parameters -------------------------------------------------------------------


def test_the_first_mistake_is_told_first(service: Api) -> None:
    response = post(service, b"not JSON", model="unknown")

    assert problem(response, 404)["type"] == "/problems/model-not-found"


@pytest.mark.parametrize("path", ["/v1", "/v1/", "/v2/jobs", "/v1/jobs/", "/v1/models/", "/V1/jobs", "/%00"])
def test_a_path_where_nothing_is_is_404(service: Api, path: str) -> None:
    assert problem(service.http.get(path), 404)["type"] == "/problems/not-found"


@pytest.mark.parametrize(
    ("method", "path", "allowed"),
    [
        ("GET", "/v1/models/echo/jobs", {"POST", "OPTIONS"}),
        ("POST", "/v1/models", {"GET", "HEAD", "OPTIONS"}),
        ("DELETE", "/v1/models/echo", {"GET", "HEAD", "OPTIONS"}),
        ("PATCH", "/v1/jobs/x", {"GET", "HEAD", "DELETE", "OPTIONS", "PUT"}),
        ("POST", "/v1/jobs", {"GET", "HEAD", "OPTIONS"}),
        ("GET", "/v1/jobs/x/cancel", {"POST", "OPTIONS"}),
        ("DELETE", "/v1/jobs/x/result", {"GET", "HEAD", "OPTIONS"}),
        ("POST", "/v1/jobs/x/events", {"GET", "HEAD", "OPTIONS"}),
        ("TRACE", "/v1/jobs", {"GET", "HEAD", "OPTIONS"}),
        ("POST", "/healthz", {"GET", "HEAD", "OPTIONS"}),
    ],
)
def test_a_method_that_a_resource_does_not_take_is_405_with_those_it_takes(
    service: Api, method: str, path: str, allowed: set[str]
) -> None:
    response = service.http.request(method, path)

    assert problem(response, 405)["type"] == "/problems/method-not-allowed"
    assert set(response.headers["Allow"].replace(" ", "").split(",")) == allowed


def cursor_of(text: str) -> str:
    return urlsafe_b64encode(text.encode()).decode()


@pytest.mark.parametrize(
    ("parameter", "value"),
    [
        *(("limit", value) for value in ("0", "-1", "101", "abc", "", "1.5", "²", "1" * 2000)),
        ("limit", "000000001999"),
        *(("cursor", value) for value in ("junk", "", "é", "====", cursor_of("5"), cursor_of("[1]"))),
        ("cursor", cursor_of("[" * 2000)),
        ("cursor", cursor_of('[NaN,"x"]')),
        ("cursor", cursor_of(f'[1{"0" * 400},"x"]')),
        *(("status", value) for value in ("nope", "", "queued,", "FINISHED")),
        *(("model", value) for value in ("nope", "", "Echo")),
    ],
    ids=lambda value: repr(value[:20]),
)
def test_a_parameter_of_a_list_that_is_not_allowed_is_400(service: Api, parameter: str, value: str) -> None:
    response = service.http.get("/v1/jobs", params={parameter: value})

    assert parameters(response) == [parameter]


@pytest.mark.parametrize("value", ["abc", "-1", "", "1e3", "inf", "nan", "5s", "9" * 5000])
def test_a_wait_that_is_no_number_of_seconds_is_400(service: Api, value: str) -> None:
    job = service.submit("echo", wait=10)

    response = service.http.get(job["urls"]["self"], params={"wait": value[:3000]})

    assert parameters(response) == ["wait"]


@pytest.mark.parametrize("value", ["junk", "", "-1", "1-", "1-2-3", "9" * 20, "1.5", "\u0661", "\uff11-0", "1-0\n"])
def test_a_cursor_that_is_no_id_of_an_event_is_refused(service: Api, value: str) -> None:
    job = service.submit("echo", wait=10)

    response = service.http.get(f"{job['urls']['events']}?after={quote(value)}")

    assert parameters(response) == ["after"]


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/"),
        ("GET", "/healthz"),
        ("GET", "/readyz"),
        ("GET", "/problems/internal"),
        ("GET", "/v1/models"),
        ("GET", "/v1/models/echo"),
        ("POST", "/v1/models/echo/jobs"),
        ("POST", "/v1/models/echo/pause"),
        ("POST", "/v1/models/echo/requeue"),
        ("GET", "/v1/jobs"),
        ("PUT", "/v1/jobs/x"),
        ("GET", "/v1/jobs/x"),
        ("DELETE", "/v1/jobs/x"),
        ("GET", "/v1/jobs/x/result"),
        ("POST", "/v1/jobs/x/cancel"),
        ("POST", "/v1/jobs/x/retry"),
        ("GET", "/v1/jobs/x/events"),
        ("GET", "/v1/jobs/x/deliveries"),
        ("POST", "/v1/jobs/x/deliveries/y/redeliver"),
        ("GET", "/v1/events"),
        ("GET", "/v1/queues"),
        ("POST", "/v1/queues/echo/purge"),
        ("GET", "/v1/workers"),
        ("POST", "/v1/workers/w/drain"),
    ],
)
def test_a_query_parameter_that_a_route_does_not_take_is_400(service: Api, method: str, path: str) -> None:
    response = service.http.request(method, f"{path}?since=5&Limit=1", json={"input": {}})

    assert parameters(response) == ["Limit", "since"]


@pytest.mark.parametrize(
    "path",
    ["/v1/jobs?limit=1&limit=2", "/v1/jobs?cursor=a&cursor=b", "/v1/jobs/x?wait=1&wait=1", "/v1/jobs?model=a&model=b"],
)
def test_a_query_parameter_that_is_given_twice_is_400(service: Api, path: str) -> None:
    assert len(parameters(service.http.get(path))) == 1


def test_a_parameter_that_lists_things_may_be_given_more_than_once(service: Api) -> None:
    assert service.http.get("/v1/jobs?status=queued&status=finished,failed").is_success


def test_a_parameter_that_is_wrong_is_400_over_an_event_stream_too(service: Api) -> None:
    path = service.submit("echo", wait=10)["urls"]["events"]
    stream = {"Accept": "text/event-stream"}

    for query, name in (("after=junk", "after"), ("types=nope", "types"), ("last=1", "last")):
        assert parameters(service.http.get(f"{path}?{query}", headers=stream)) == [name]
    answer = service.http.get(path, headers={**stream, "Last-Event-ID": "junk"})
    assert pointers(answer, 400, "header") == ["Last-Event-ID"]


@pytest.mark.parametrize("query", ["since=5", "after=0&after=1", "after=junk", "types=nope"])
def test_a_parameter_that_is_wrong_closes_a_websocket_with_4400(service: Api, query: str) -> None:
    path = service.submit("echo", wait=10)["urls"]["events"]

    _, code, reason = service.watch(f"{path}?{query}")

    assert code == 4400
    assert "type" in reason


def test_an_idempotency_key_that_is_none_is_named_as_a_header(service: Api) -> None:
    response = service.post("echo", headers={"Idempotency-Key": "a b"})

    assert pointers(response, 400, "header") == ["Idempotency-Key"]


# --- pages of other sites -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("POST", "/v1/models/echo/jobs"),
        ("PUT", "/v1/jobs/x"),
        ("POST", "/v1/jobs/x/cancel"),
        ("POST", "/v1/jobs/x/retry"),
        ("DELETE", "/v1/jobs/x"),
        ("POST", "/v1/jobs/x/deliveries/y/redeliver"),
        ("POST", "/v1/queues/echo/pause"),
        ("POST", "/v1/models/echo/requeue"),
        ("POST", "/v1/workers/w/drain"),
    ],
)
@pytest.mark.parametrize("headers", [{"Origin": "http://evil.example"}, {"Sec-Fetch-Site": "cross-site"}], ids=str)
def test_a_page_of_another_site_changes_nothing(service: Api, method: str, path: str, headers: dict[str, str]) -> None:
    response = service.http.request(method, path, json={}, headers=headers)

    assert problem(response, 403)["type"] == "/problems/other-site"


# --- all problems ---------------------------------------------------------------------------------


def test_the_type_of_a_problem_is_a_page_that_explains_it(service: Api) -> None:
    for response in (service.http.get("/v1/jobs/x"), service.http.get("/nothing"), post(service, b"{")):
        body = response.json()

        page = service.http.get(body["type"])

        assert page.status_code == 200
        assert page.json() == {"type": body["type"], "title": body["title"]}


def test_a_problem_answers_a_head_request_without_a_body(service: Api) -> None:
    response = service.http.head("/v1/jobs/x")

    assert (response.status_code, response.content) == (404, b"")
    assert response.headers["Content-Type"] == "application/problem+json"


def test_a_problem_carries_the_request_id_of_its_caller(service: Api) -> None:
    given = service.http.get("/v1/jobs/x", headers={"X-Request-ID": "trace-1.2_3"})
    forged = service.http.get("/v1/jobs/x", headers={"X-Request-ID": "a b\tc"})

    assert given.headers["X-Request-ID"] == "trace-1.2_3"
    assert re.fullmatch("[0-9a-f]{32}", forged.headers["X-Request-ID"])


@pytest.mark.parametrize(
    "headers",
    [
        {"Sec-WebSocket-Version": "13"},
        {"Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ=="},
        {"Sec-WebSocket-Version": "8", "Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ=="},
        {
            "Sec-WebSocket-Version": "13",
            "Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ==",
            "Sec-WebSocket-Protocol": b"\xff",
        },
    ],
    ids=["no key", "no version", "old version", "no ASCII"],
)
def test_a_handshake_that_is_none_is_the_callers_mistake(service: Api, headers: dict[str, Any]) -> None:
    job = service.submit("echo", wait=10)
    upgrade = {"Connection": "Upgrade", "Upgrade": "websocket"}

    # Its own: of whatever is left of the connection nobody else reads.
    with httpx.Client(base_url=service.http.base_url, timeout=60, verify=NO_TLS) as own:
        response = own.get(job["urls"]["events"], headers={**upgrade, **headers})

    assert 400 <= response.status_code < 500, response.text
