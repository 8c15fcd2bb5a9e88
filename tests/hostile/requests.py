"""Requests that are wrong in some way, and schemas that are dangerous: each has its answer, and costs one request."""

from __future__ import annotations

import gzip
import json
import resource
import time
from contextlib import suppress
from typing import Any

from tests.deployment import until
from tests.hostile.raw import answer, crowd, request, status
from tests.hostile.situation import situation
from tests.hostile.stage import Stage

JSON = {"Content-Type": "application/json"}
QUICK = 5.0
"""Seconds within which a submit is answered, whatever its schema says."""

# --- A8: schemas are input, too -----------------------------------------------------------------------


def _submitted(stage: Stage, model: str, value: dict[str, Any]) -> int:
    """The status that a submit gets, quickly."""
    began = time.monotonic()
    content = json.dumps({"input": value})  # httpx itself would not send a lone surrogate
    got = stage.api.http.post(f"/v1/models/{model}/jobs", content=content, headers=JSON)
    assert got.status_code < 500, got.text
    assert time.monotonic() - began < QUICK, f"{model} took {time.monotonic() - began:.1f} s"
    return got.status_code


@situation("A8")
def a_pattern_that_backtracks_meets_the_text_for_it(stage: Stage) -> None:
    assert _submitted(stage, "slug", {"slug": "a" * 28 + "!"}) == 422
    assert _submitted(stage, "slug", {"slug": "a" * 20_000 + "!"}) == 422
    assert _submitted(stage, "slug", {"slug": "good-slug"}) == 202


@situation("A8")
def a_set_has_many_items(stage: Stage) -> None:
    assert _submitted(stage, "unique", {"items": [n if n % 2 else str(n) for n in range(20_000)]}) == 202


@situation("A8")
def a_pattern_that_only_pydantic_knows(stage: Stage) -> None:
    assert _submitted(stage, "letters", {"text": "Grüße"}) == 202
    assert _submitted(stage, "letters", {"text": "12"}) == 422
    assert _submitted(stage, "letters", {"text": "\ud800"}) == 422


@situation("A8")
def a_schema_refers_to_another_host(stage: Stage) -> None:
    asked = stage.listener.connections
    for value in ({"x": 1}, {"x": "y"}, {}):
        _submitted(stage, "remote", value)
    assert stage.listener.connections == asked, "the web process fetched a schema"


# --- A9: errors that are no error of ours -------------------------------------------------------------


@situation("A9", touches="web", silent=True)
def the_web_process_has_no_files_left(stage: Stage) -> None:
    pid, used = stage.web_pid, stage.memory()["web 0"].files
    limit = resource.prlimit(pid, resource.RLIMIT_NOFILE)
    resource.prlimit(pid, resource.RLIMIT_NOFILE, (used + 10, limit[1]))
    try:
        with crowd(stage.api, 60, b"GET /healthz HTTP/1.1\r\n"):
            time.sleep(3)
    finally:
        with suppress(ProcessLookupError):
            resource.prlimit(pid, resource.RLIMIT_NOFILE, limit)


BROKEN = {
    b"GET /healthz HTTP/9.9\r\nHost: x\r\n\r\n": (400, 505),
    b"HELO mail\r\n\r\n": (400,),
    b"\x16\x03\x01 HTTP/1.1\r\n\r\n": (400,),
    b"GET /healthz HTTP/1.1\r\nHost: x\r\nbad header\r\n\r\n": (400,),
    b"GET /healthz HTTP/1.1\r\nHost: x\r\nA B: c\r\n\r\n": (400,),
    b"GET / HTTP/1.1\r\nHost: x\r\nX: " + b"y" * 20_000 + b"\r\n\r\n": (431,),
    b"GET /" + b"y" * 20_000 + b" HTTP/1.1\r\nHost: x\r\n\r\n": (414, 400),
    b"GET / HTTP/1.1\r\nHost: x\r\n" + b"".join(b"X%d: y\r\n" % n for n in range(300)) + b"\r\n": (431,),
    b"POST /v1/models/sleeps/jobs HTTP/1.1\r\nHost: x\r\nContent-Length: nine\r\n\r\n": (400,),
    b"POST /v1/models/sleeps/jobs HTTP/1.1\r\nHost: x\r\nContent-Length: -1\r\n\r\n": (400,),
    b"POST /v1/models/sleeps/jobs HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n": (400,),
    b"POST /v1/models/sleeps/jobs HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n": (400,),
    b"POST /v1/models/sleeps/jobs HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n-1\r\n": (400,),
    b"POST /v1/models/sleeps/jobs HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nxy\r\n": (400,),
    b"POST /v1/models/sleeps/jobs HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: nothing\r\n\r\n": (400, 501),
    b"POST /v1/models/sleeps/jobs HTTP/1.1\r\nHost: x\r\nExpect: the best\r\nContent-Length: 2\r\n\r\n{}": (417,),
}


@situation("A9")
def requests_that_are_no_http(stage: Stage) -> None:
    for data, statuses in BROKEN.items():
        got = answer(stage.api, data, within=5)
        assert status(got) in statuses, f"{data[:120]!r}: {got[:300]!r}"
        assert b"application/problem+json" in got, f"{data[:120]!r}: {got[:300]!r}"


@situation("A9")
def a_caller_says_where_the_app_is_mounted(stage: Stage) -> None:
    for headers in (
        {"SCRIPT_NAME": "/x"},
        {"Script_Name": "/v1"},
        {"X_Forwarded_Prefix": "/evil"},
        {"Wsgi.Input": "x"},
    ):
        got = answer(stage.api, request("/v1/models", **headers))
        assert 0 < status(got) < 500, f"{headers}: {got[:300]!r}"
        assert b"evil" not in got, got
    raw = b"GET /v1/models HTTP/1.1\r\nHost: x\r\nSCRIPT_NAME: /x\r\n\r\n"
    assert 0 < status(answer(stage.api, raw)) < 500


WRONG = (
    "/v1/jobs?cursor=bogus",
    "/v1/jobs?status=dancing",
    "/v1/jobs?limit=0",
    "/v1/jobs?limit=many",
    "/v1/jobs?since=2020-01-01",
    "/v1/models?page=2",
    "/v1/jobs/{id}?wait=soon",
    "/v1/jobs/{id}?wait=-1",
    "/v1/jobs/{id}?wait=nan",
    "/v1/jobs/{id}?wiat=1",
    "/v1/jobs/{id}/events?after=bogus",
    "/v1/jobs/{id}/events?types=nope",
    "/v1/jobs/{id}/events?limit=1e3",
    "/v1/jobs/{id}/result?force=1",
)


@situation("A9")
def parameters_that_are_unknown_or_wrong(stage: Stage) -> None:
    job = stage.api.submit("sleeps", wait=10, input={"name": "x"})
    for path in WRONG:
        path = path.format(id=job["id"])
        got = stage.api.http.get(path)
        assert got.status_code == 400, f"{path}: {got.status_code} {got.text[:300]}"
        name = path.partition("?")[2].partition("=")[0]
        problem = got.json()
        assert name in got.text, problem
        assert not any(name == each.get("pointer") for each in problem.get("errors", [])), problem


@situation("A9")
def bodies_that_are_odd(stage: Stage) -> None:
    path, good = "/v1/models/sleeps/jobs", b'{"input": {"name": "odd"}}'
    events = json.dumps({"input": {"name": "x"}, "webhook": {"url": "http://x/", "events": ["finished"] * 70_000}})
    began = time.monotonic()
    assert 400 <= stage.api.http.post(path, content=events).status_code < 500
    assert time.monotonic() - began < QUICK
    for content in (
        b'{"input": {"name": "a"}, "input": {"name": "b"}}',
        b"\xef\xbb\xbf" + good,
        b"\xff\xfe{\x00}\x00",
        b"[" * 90_000,
    ):
        got = stage.api.http.post(path, content=content)
        assert got.status_code < 500, f"{content[:60]!r}: {got.text}"
    packed = stage.api.http.post(path, content=gzip.compress(good), headers={"Content-Encoding": "gzip"})
    assert packed.status_code in (200, 202, 415), packed.text
    bomb = gzip.compress(b" " * 200_000_000)
    assert stage.api.http.post(path, content=bomb, headers={"Content-Encoding": "gzip"}).status_code in (413, 415, 400)


@situation("A9")
def numbers_that_no_machine_holds(stage: Stage) -> None:
    for field in ("timeout", "start_timeout", "result_ttl", "retries", "backoff"):
        for number in ("1e400", "9" * 400, "-1", "NaN", "1.5e308", "-0.0", "true", '"1"', "[]", "9" * 5000):
            content = b'{"input": {"name": "x"}, "%b": %b}' % (field.encode(), number.encode())
            got = stage.api.http.post("/v1/models/sleeps/jobs", content=content)
            assert got.status_code < 500, f"{field}={number[:20]}: {got.text}"
    got = stage.api.http.post("/v1/models/sleeps/jobs", content=b'{"input": {"name": "x", "seconds": 1e400}}')
    assert got.status_code < 500, got.text
    until(lambda: stage.api.http.get("/v1/jobs?limit=100").status_code == 200)
