"""The model chat, against a small server that speaks HTTP for real."""

import asyncio
import json
import os
import socket
import threading
import traceback
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from pydantic import ValidationError

if not os.environ.get("CI"):  # there a library that is missing is a failure
    pytest.importorskip("httpx")

import httpx

from jobs._completions import _events
from jobs.chat import chat
from service import Fatal, Retry

KEY = "sk-do-not-tell"


class Server(ThreadingHTTPServer):
    """Answers each request with the next of `answers`, and keeps what was asked in `requests`."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.answers: list[Callable[[_Handler], None]] = []
        self.requests: list[tuple[str, dict, dict]] = []

    def answer(self, *chunks: bytes, status: int = 200, length: int | None = None, **headers: str) -> None:
        """Answer the next request with these bytes; with a `length` the client can tell that some lack."""

        def send(handler: _Handler) -> None:
            handler.send_response(status)
            for name, value in headers.items():
                handler.send_header(name.replace("_", "-"), value)
            if length is not None:
                handler.send_header("Content-Length", str(length))
            handler.end_headers()
            for chunk in chunks:
                handler.wfile.write(chunk)

        self.answers.append(send)


class _Handler(BaseHTTPRequestHandler):
    server: Server

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.server.requests.append((self.path, dict(self.headers), json.loads(body)))
        self.server.answers.pop(0)(self)

    def log_message(self, *args: object) -> None:
        pass


@pytest.fixture
def server(monkeypatch):
    with Server() as server:
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        monkeypatch.setenv("LLM_BASE_URL", f"http://127.0.0.1:{server.server_port}/v1/")
        monkeypatch.setenv("LLM_API_KEY", KEY)
        monkeypatch.setenv("LLM_MODEL", "tiny")
        monkeypatch.setenv("NO_PROXY", "127.0.0.1")
        yield server
        server.shutdown()


def event(token: str | None, **more: object) -> bytes:
    chunk = {"choices": [{"index": 0, "delta": {"content": token}, "finish_reason": None}], **more}
    return b"data: " + json.dumps(chunk, ensure_ascii=False).encode() + b"\n\n"


def tokens(prompt: str = "Hello", **parameters: object) -> list[str]:
    async def gather() -> list[str]:
        return [token async for token in chat(prompt, **parameters)]

    return asyncio.run(gather())


def test_chat_streams_the_tokens_until_done(server):
    server.answer(event("Blue"), event(" light"), event(None), b"data: [DONE]\n\n", event("never"))

    assert tokens() == ["Blue", " light"]


def test_chat_asks_for_a_stream_with_the_settings_of_the_environment(server):
    server.answer(b"data: [DONE]\n\n")

    tokens("Hello", system="Be brief.", max_tokens=7, temperature=0)

    [(path, headers, request)] = server.requests
    assert path == "/v1/chat/completions"
    assert headers["Authorization"] == f"Bearer {KEY}"
    assert request == {
        "model": "tiny",
        "messages": [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hello"}],
        "max_tokens": 7,
        "temperature": 0,
        "stream": True,
    }


def test_chat_without_a_key_or_a_system_prompt_sends_none(server, monkeypatch):
    monkeypatch.delenv("LLM_API_KEY")
    server.answer(b"data: [DONE]\n\n")

    tokens("Hello")

    [(_, headers, request)] = server.requests
    assert "Authorization" not in headers
    assert request["messages"] == [{"role": "user", "content": "Hello"}]


@pytest.mark.parametrize("size", [1, 2, 7, 10_000])
def test_events_split_anywhere_are_put_together_again(size):
    second = event("one\u2028line").replace(b"\n", b"\r\n")
    text = event("né🙂") + b": a comment\r\n\r\n" + second + b"data: [DONE]"

    async def pieces():
        for start in range(0, len(text), size):
            yield text[start : start + size]

    async def gather() -> list[str]:
        events = _events(httpx.Response(200, content=pieces()))
        return [json.loads(data)["choices"][0]["delta"]["content"] async for data in events]

    assert asyncio.run(gather()) == ["né🙂", "one\u2028line"]


def test_chat_passes_over_the_events_that_hold_no_token(server):
    usage = b'data: {"choices": [], "usage": {"total_tokens": 9}}\n\n'
    role = b'data: {"choices": [{"delta": {"role": "assistant"}}]}\n\n'
    server.answer(b": ping\n\n", role, event("Hi"), usage, b"data: [DONE]\n\n")

    assert tokens() == ["Hi"]


def test_chat_asks_for_another_try_when_the_server_is_overloaded_and_then_answers(server):
    server.answer(b'{"error": {"message": "loading"}}', status=503, Retry_After="7")
    server.answer(event("Hi"), b"data: [DONE]\n\n")

    with pytest.raises(Retry, match="503: loading") as caught:
        tokens()

    assert caught.value.after == 7
    assert tokens() == ["Hi"]


@pytest.mark.parametrize("status", [408, 429, 500, 502])
@pytest.mark.parametrize("retry_after", ["", "Wed, 21 Oct 2026 07:28:00 GMT"])
def test_chat_waits_two_seconds_if_the_server_names_no_number(server, status, retry_after):
    server.answer(b"busy", status=status, Retry_After=retry_after)

    with pytest.raises(Retry, match=f"{status}: busy") as caught:
        tokens()

    assert caught.value.after == 2


@pytest.mark.parametrize("status", [301, 400, 401, 404])
def test_chat_fails_for_good_with_the_words_of_a_server_that_refuses(server, status):
    server.answer(b'{"error": {"message": "no model tiny"}}', status=status)

    with pytest.raises(Fatal, match=f"{status}: no model tiny"):
        tokens()


@pytest.mark.parametrize("words", [{"error": {"message": f"no {KEY}"}}, {"error": f"no {KEY}"}, f"no {KEY}"])
def test_chat_hides_a_key_that_the_server_repeats(server, words):
    server.answer(json.dumps(words).encode(), status=401)

    with pytest.raises(Fatal, match=r"\*\*\*") as caught:
        tokens()

    assert KEY not in "".join(traceback.format_exception(caught.value))


def test_chat_hides_a_key_that_cannot_be_sent(server, monkeypatch):
    monkeypatch.setenv("LLM_API_KEY", f"{KEY}\nX-More: 1")

    with pytest.raises(Retry) as caught:
        tokens()

    assert KEY not in "".join(traceback.format_exception(caught.value))


def test_chat_asks_for_another_try_when_nobody_listens(server, monkeypatch):
    with socket.create_server(("127.0.0.1", 0)) as unused:
        port = unused.getsockname()[1]
    monkeypatch.setenv("LLM_BASE_URL", f"http://127.0.0.1:{port}/v1")

    with pytest.raises(Retry, match="ConnectError") as caught:
        tokens()

    assert caught.value.after == 2


@pytest.mark.parametrize("length", [None, 10_000], ids=["that seems complete", "that is cut off"])
def test_chat_asks_for_another_try_after_an_answer_without_its_end(server, length):
    server.answer(event("Blue"), length=length)

    with pytest.raises(Retry):
        tokens()


def test_chat_asks_for_another_try_when_the_server_breaks_off_with_an_error(server):
    server.answer(event("Blue"), b'data: {"error": {"message": "out of memory"}}\n\n', b"data: [DONE]\n\n")

    with pytest.raises(Retry, match="broke off: out of memory"):
        tokens()


@pytest.mark.parametrize("url", ["ftp://example.org", "example.org/v1", "http://host:port/v1", ""])
def test_chat_fails_for_good_when_the_base_url_is_none(server, monkeypatch, url):
    monkeypatch.setenv("LLM_BASE_URL", url)

    with pytest.raises(Fatal, match="base URL"):
        tokens()


def test_chat_gives_the_tokens_before_the_answer_is_complete(server):
    rest = threading.Event()

    def slowly(handler: _Handler) -> None:
        handler.send_response(200)
        handler.end_headers()
        handler.wfile.write(event("Blue"))
        rest.wait(10)
        handler.wfile.write(event(" light") + b"data: [DONE]\n\n")

    async def gather() -> list[str]:
        gathered = []
        async for token in chat("Hello"):
            gathered.append(f"{token} {rest.is_set()}")
            rest.set()
        return gathered

    server.answers.append(slowly)

    assert asyncio.run(gather()) == ["Blue False", " light True"]


@pytest.mark.parametrize("wrong", [{"prompt": ""}, {"max_tokens": 0}, {"temperature": 2.1}, {"system": 1}])
def test_chat_refuses_input_outside_its_limits(wrong):
    with pytest.raises(ValidationError):
        chat.__model__.input_type.model_validate({"prompt": "Hello", **wrong})


def test_the_result_of_chat_is_one_string():
    assert chat.__model__.kind == "async generator"
    assert chat.__model__.output_schema() == {"type": "string"}
