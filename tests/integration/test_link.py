"""A model that gets at the link between work-horse and supervisor: it breaks its work-horse, and nothing else."""

from __future__ import annotations

from typing import Any

import pytest

from tests.deployment import Api

MODELS = """
    import contextlib, json, json.decoder, json.encoder, os, socket, stat, struct, subprocess, sys, threading, time
    from service import model, progress

    def sockets():
        for fd in range(3, 200):
            with contextlib.suppress(OSError):
                if stat.S_ISSOCK(os.fstat(fd).st_mode):
                    yield fd

    def frame(text):
        return struct.pack("!I", len(text)) + text.encode()

    GARBAGE = {
        "text": b"a line of text that is no frame\\n",
        "zeros": bytes(64),
        "no JSON": frame("what is this"),
        "half": frame('{"job": 1'),
        "no UTF-8": struct.pack("!I", 4) + b"\\xff\\xfe\\xfd\\xfc",
        "a list": frame("[1, 2]"),
        "deep": frame("[" * 100_000),
        "another's end": frame('{"job": 1, "finished": 5}'),
        "no such model": frame('{"ready": "nobody", "seconds": 1}'),
        "no events": frame('{"job": JOB, "events": 5}'),
        "odd events": frame('{"job": JOB, "events": [["finished", {}]]}'),
        "no error": frame('{"job": JOB, "error": null}'),
        "models": frame('{"models": [{}], "broken": []}'),
    }

    @model(timeout=20)
    def writes(what: str) -> str:
        for fd in sockets():
            os.write(fd, GARBAGE[what])
        time.sleep(10)
        return "written"

    @model(timeout=20, concurrency=4)
    async def writes_on_the_loop(what: str) -> str:
        import asyncio
        for fd in sockets():
            os.write(fd, GARBAGE[what])
        await asyncio.sleep(10)
        return "written"

    @model(timeout=5)
    def reads_tokens() -> str:
        for fd in range(3, 200):
            with contextlib.suppress(OSError):
                if stat.S_ISFIFO(os.fstat(fd).st_mode):
                    os.read(fd, 3)
        return "read"

    @model
    def closes() -> str:
        os.closerange(3, 200)
        time.sleep(10)
        return "closed"

    @model
    def patches(how: str) -> list[float]:
        old = json.dumps, json.loads, json.JSONEncoder.encode, json.JSONDecoder.decode
        if how == "functions":
            json.dumps, json.loads = (lambda *a, **o: b"patched"), (lambda *a, **o: "patched")
        elif how == "what they call":
            json.encoder.c_make_encoder = json.encoder.JSONEncoder = json.decoder.scanstring = None
            json.encoder.encode_basestring_ascii = lambda text: '"patched"'
        else:
            json.JSONEncoder.encode = lambda *a: "patched"
            json.JSONDecoder.decode = lambda *a: "patched"
        try:
            for _ in progress(range(3)):
                print("patched")
            progress.update(1, loss=float("nan"))
            time.sleep(0.2)
        finally:
            if how == "for a while":
                json.dumps, json.loads, json.JSONEncoder.encode, json.JSONDecoder.decode = old
        return [1.5]

    @model(timeout=30)
    def spawns() -> dict[str, list[str]]:
        code = '''if True:
            import os
            for fd in os.listdir("/proc/self/fd"):
                try:
                    print(os.readlink("/proc/self/fd/" + fd))
                except OSError:
                    pass
        '''
        found = {}
        reader, writer = os.pipe()
        at = [(os.POSIX_SPAWN_DUP2, writer, 1)]
        pid = os.posix_spawn(sys.executable, [sys.executable, "-c", code], os.environ, file_actions=at)
        os.close(writer)
        with open(reader) as answers:
            found["posix_spawn"] = answers.read().split()
        os.waitpid(pid, 0)
        out = subprocess.run([sys.executable, "-c", code], close_fds=False, capture_output=True, text=True).stdout
        found["subprocess"] = out.split()
        return found

    @model(timeout=30)
    def forks_and_writes() -> int:
        if (child := os.fork()) == 0:
            for fd in sockets():
                os.write(fd, b"garbage")
            os._exit(3)
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])

    @model
    def shout(text: str) -> str:
        return text.upper()
"""

KINDS = ("text", "no JSON", "half", "no UTF-8", "a list", "deep", "another's end", "no such model", "zeros", "models")


def run(service: Api, model: str, **value: Any) -> Any:
    return service.submit(model, wait=30, input=value)


@pytest.mark.parametrize("model", ["writes", "writes_on_the_loop"])
@pytest.mark.parametrize("what", KINDS)
def test_what_cannot_be_read_is_the_end_of_the_work_horse_only(service: Api, model: str, what: str) -> None:
    job = run(service, model, what=what)

    assert (job["status"], job["error"]["type"]) == ("failed", "crashed"), job
    assert "could not be read" in job["error"]["message"]
    assert run(service, "shout", text="on")["output"] == "ON"


def test_a_model_that_reads_what_is_not_its_own_ends_by_itself(service: Api) -> None:
    run(service, "reads_tokens")

    assert run(service, "shout", text="on")["output"] == "ON"


def test_a_model_that_closes_all_descriptors_has_crashed(service: Api) -> None:
    assert run(service, "closes")["error"]["type"] == "crashed"
    assert run(service, "shout", text="on")["output"] == "ON"


@pytest.mark.parametrize("how", ["functions", "methods", "what they call"])
def test_a_model_that_patches_json_is_answered_and_so_are_those_after_it(service: Api, how: str) -> None:
    job = run(service, "patches", how=how)

    assert (job["status"], job["output"]) == ("finished", [1.5]), job
    assert job["progress"]["fraction"] == 1
    logged = [event["data"]["message"] for event in service.log(job["id"]) if event["type"] == "log"]
    assert logged == ["patched"] * 3
    assert run(service, "shout", text="on")["output"] == "ON"


def test_what_a_model_starts_has_no_descriptor_of_the_link(service: Api) -> None:
    found = run(service, "spawns")["output"]

    assert {how: [each for each in files if "socket:" in each] for how, files in found.items()} == {
        "posix_spawn": [],
        "subprocess": [],
    }


def test_a_forked_child_cannot_write_to_the_link(service: Api) -> None:
    assert run(service, "forks_and_writes")["output"] == 3
