"""What the server itself has to say of a request: a problem like any other, whatever was wrong."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator

import pytest

from tests.deployment import Api, deployment, until
from tests.raw_http import Raw, in_chunks, request

MODELS = """
    from service import model

    @model
    def echo(value: str = "") -> str:
        return value
"""

MOST = 50_000
BODY = json.dumps({"input": {"value": "x" * 50}}).encode()
PATH = "/v1/models/echo/jobs"


@pytest.fixture(scope="module")
def api(service: Api, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Api]:
    """Another web process of the same service: two threads, small bodies."""
    with deployment(tmp_path_factory.mktemp("errors"), service.redis_url) as each:  # type: ignore[attr-defined]
        api = each.web(WEB_THREADS="2", MAX_BODY_BYTES=str(MOST))
        until(lambda: api.http.get("/v1/models/echo").status_code == 200)
        yield api
        assert "Traceback" not in api.process.log.read_text()  # type: ignore[attr-defined]


REFUSED = {
    "a long line": (414, "uri-too-long", request("GET", "/" + "x" * 9000)),
    "a long line without an end": (414, "uri-too-long", b"GET /" + b"x" * 9000),
    "a long field": (431, "headers-too-large", request("GET", "/", X="y" * 9000)),
    "many fields": (431, "headers-too-large", request("GET", "/", **{f"X{number}": "y" for number in range(101)})),
    "a long head": (431, "headers-too-large", request("GET", "/", **{f"X{number}": "y" * 900 for number in range(60)})),
    "a head without an end": (431, "headers-too-large", b"GET / HTTP/1.1\r\n" + b"X: y\r\n" * 6000),
    "long trailers": (431, "headers-too-large", in_chunks("POST", PATH, BODY, end=b"0\r\n" + b"X: y\r\n" * 2000)),
    "an unknown expectation": (417, "expectation-failed", request("POST", PATH, BODY, Expect="a-miracle")),
    "another coding": (
        501,
        "not-implemented",
        b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
    ),
    "a large body": (413, "too-large", request("POST", PATH, b"1" * (MOST + 1))),
    "a very large body": (
        413,
        "too-large",
        f"POST {PATH} HTTP/1.1\r\nHost: x\r\nContent-Length: {10**18}\r\n\r\n".encode(),
    ),
    "a large chunk": (413, "too-large", in_chunks("POST", PATH, end=b"ffffffffffff\r\n")),
    "many chunks": (413, "too-large", in_chunks("POST", PATH, *[b"1" * 1000] * 51)),
}


@pytest.mark.parametrize(("status", "kind", "sent"), REFUSED.values(), ids=REFUSED)
def test_what_the_server_refuses_is_a_problem(api: Api, status: int, kind: str, sent: bytes) -> None:
    with Raw(api.port) as client:
        client.sendall(sent)

        assert client.answer().problem(status)["type"] == f"/problems/{kind}"
        assert client.has_ended()


@pytest.mark.parametrize("header", ["Content-Length: 30000000", "Content-Length: 30000000\r\nExpect: 100-continue"])
def test_a_client_that_sends_all_of_a_large_body_before_it_reads_learns_that_it_is_too_large(
    api: Api, header: str
) -> None:
    with Raw(api.port) as client:
        client.sendall(f"POST {PATH} HTTP/1.1\r\nHost: x\r\n{header}\r\n\r\n".encode())
        client.sendall(b"1" * 30_000_000)

        answer = client.answer()

    assert answer.problem(413)["detail"] == f"the body is larger than {MOST} bytes"


def test_the_requests_before_a_wrong_one_are_answered(api: Api) -> None:
    with Raw(api.port) as client:
        client.sendall(2 * request("GET", "/healthz") + b"NONSENSE\r\n\r\n" + request("GET", "/healthz"))

        assert [client.answer().status for _ in range(3)] == [200, 200, 400]
        assert client.has_ended()


def test_a_refusal_carries_the_id_that_its_caller_gave(api: Api) -> None:
    with Raw(api.port) as client:
        client.sendall(request("POST", PATH, b"1" * (MOST + 1), X_Request_ID="mine"))

        assert client.answer().headers["x-request-id"] == "mine"


@pytest.mark.parametrize("name", ["SCRIPT_NAME", "PATH_INFO", "HTTP_HOST", "X_Forwarded_For"])
def test_a_header_that_would_name_something_of_the_servers_is_as_if_it_was_not_there(api: Api, name: str) -> None:
    with Raw(api.port) as client:
        client.sendall(f"GET /healthz HTTP/1.1\r\nHost: x\r\n{name}: /elsewhere\r\n\r\n".encode())

        assert client.answer().json() == {"status": "alive"}


# --- Expect: 100-continue -------------------------------------------------------------------------


@pytest.mark.parametrize("sent", [request("POST", PATH, BODY, Expect="100-continue"), None], ids=["length", "chunks"])
def test_a_client_that_waits_to_be_told_to_go_on_is_told_once(api: Api, sent: bytes | None) -> None:
    whole = sent or in_chunks("POST", PATH, BODY).replace(b"Host: a", b"Host: a\r\nExpect: 100-Continue")
    head = whole.partition(b"\r\n\r\n")[0] + b"\r\n\r\n"
    with Raw(api.port) as client:
        client.sendall(head)
        assert client.answer().status == 100
        for place in range(len(head), len(whole), 10):
            client.sendall(whole[place : place + 10])

        assert client.answer().status == 202


def test_a_client_that_has_sent_its_body_is_not_told_to_go_on(api: Api) -> None:
    with Raw(api.port) as client:
        client.sendall(request("POST", PATH, BODY, Expect="100-continue"))

        assert client.answer().status == 202


def test_a_client_whose_body_is_too_large_is_not_told_to_send_it(api: Api) -> None:
    with Raw(api.port) as client:
        client.sendall(
            request("POST", PATH, b"1" * (MOST + 1), Expect="100-continue").partition(b"\r\n\r\n")[0] + b"\r\n\r\n"
        )

        client.answer().problem(413)


# --- what is allowed ------------------------------------------------------------------------------


@pytest.mark.parametrize("end", [b"0\r\n\r\n", b"000;last\r\n\r\n", b"0\r\nX-Sum: 5\r\nX-More: 6\r\n\r\n"])
def test_a_body_in_chunks_is_a_body_like_any_other_and_the_next_request_is_answered(api: Api, end: bytes) -> None:
    sent = in_chunks("POST", PATH, *[BODY[place : place + 1] for place in range(len(BODY))], end=end)
    with Raw(api.port) as client:
        client.sendall(sent + sent + request("GET", "/healthz"))

        answers = [client.answer() for _ in range(3)]

    assert [answer.status for answer in answers] == [202, 202, 200]
    assert answers[0].json()["input"] == json.loads(BODY)["input"]


def test_a_body_that_nobody_wants_does_not_end_the_connection(api: Api) -> None:
    with Raw(api.port) as client:
        client.sendall(request("POST", "/v1/models/none/jobs", BODY) + request("GET", "/healthz", b"{}"))

        assert [client.answer().status for _ in range(2)] == [404, 200]


def test_requests_split_anywhere_are_answered_in_order(api: Api) -> None:
    paths = [PATH, "/healthz", PATH, "/v1/jobs/none"]
    sent = b"".join(
        [request("POST", PATH, BODY), request("GET", paths[1]), in_chunks("POST", PATH, BODY), request("GET", paths[3])]
    )
    seen = []

    def split(place: int) -> None:
        with Raw(api.port) as client:
            client.sendall(sent[:place])
            with Raw(api.port) as other:  # by then the first part has been read
                other.sendall(request("GET", "/healthz"))
                other.answer()
            client.sendall(sent[place:])
            seen.append([client.answer().status for _ in paths])

    for start in range(0, len(sent), 8):
        threads = [threading.Thread(target=split, args=(place,)) for place in range(start, min(start + 8, len(sent)))]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    assert seen == [[202, 200, 202, 404]] * len(sent)
