"""`python -m service up`: everything on one machine with one command."""

from __future__ import annotations

import os
import signal
import socketserver
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest
import redis

from service.embedded import EmbeddedRedis
from tests.deployment import NO_TLS, Api, Deployment, children, deployment, eventually, free_port

MODELS = """
    import time
    from service import model

    @model(timeout=60)
    def double(x: int, seconds: float = 0) -> int:
        time.sleep(seconds)
        return 2 * x
"""


@pytest.fixture
def laptop(tmp_path: Path) -> Iterator[Deployment]:
    """A machine without REDIS_URL: `up` must bring its own Redis."""
    with deployment(tmp_path, "") as each:
        each.write(MODELS)
        yield each


def output_of(process: subprocess.Popen[bytes]) -> str:
    return str(process.log.read_text())  # type: ignore[attr-defined]


def start(laptop: Deployment, *options: str, **environment: str) -> tuple[subprocess.Popen[bytes], Api]:
    """Start `up` and wait until it says that all answer."""
    port = free_port()
    process = laptop.run("up", *options, PORT=str(port), LOG_LEVEL="warning", **environment)

    def check() -> None:
        assert process.poll() is None, output_of(process)
        assert f"ready      http://127.0.0.1:{port}" in output_of(process)

    eventually(check, 60)
    return process, laptop.api(port)


def end(process: subprocess.Popen[bytes]) -> None:
    process.send_signal(signal.SIGINT)
    assert process.wait(timeout=60) == 0, output_of(process)


def refused(laptop: Deployment, *arguments: str, **environment: str) -> str:
    """What a command that must not start says: one line, exit code 1."""
    process = laptop.run(*(arguments or ("up",)), **environment)
    assert process.wait(timeout=60) == 1, output_of(process)
    (line,) = output_of(process).splitlines()
    return line


def descendants(pid: int) -> list[int]:
    direct = children(pid)
    return direct + [each for child in direct for each in descendants(child)]


def test_one_command_starts_redis_web_and_worker_and_ctrl_c_ends_them_all(laptop: Deployment) -> None:
    process, api = start(laptop)
    everything = descendants(process.pid)

    assert api.submit("double", wait=20, input={"x": 4})["output"] == 8
    end(process)

    assert len(everything) >= 6  # guardian, Redis, web (gunicorn's two), worker, work-horse
    assert not [pid for pid in everything if Path(f"/proc/{pid}").exists()]


def test_a_running_job_ends_within_the_grace_period_of_ctrl_c(laptop: Deployment) -> None:
    process, api = start(laptop)
    job = api.submit("double", input={"x": 4, "seconds": 1.5})
    api.started(job["id"])

    end(process)
    again, api = start(laptop)

    assert api.job(job["id"])["output"] == 8
    end(again)


def test_queued_jobs_and_results_outlive_a_restart(laptop: Deployment) -> None:
    process, api = start(laptop)
    done = api.submit("double", wait=20, input={"x": 1})
    running = api.submit("double", input={"x": 2, "seconds": 30})
    api.started(running["id"])
    queued = api.submit("double", input={"x": 3})
    for pid in [process.pid, *descendants(process.pid)]:  # as when the power fails
        os.kill(pid, signal.SIGKILL)
    process.wait()

    again, api = start(laptop)
    eventually(lambda: _done(api, queued["id"]), 60)

    assert api.job(done["id"])["output"] == 2
    assert api.job(queued["id"])["output"] == 6
    assert api.done(running["id"], within=40)["error"]["type"] == "lost"
    end(again)


def _done(api: Api, job_id: str) -> None:
    assert api.job(job_id)["done"]


def test_what_is_killed_is_started_again(laptop: Deployment) -> None:
    process, api = start(laptop)
    for pid in descendants(process.pid):
        os.kill(pid, signal.SIGKILL)

    def check() -> None:
        response = api.post("double", wait=5, input={"x": 4})
        assert response.status_code == 200, response.text

    eventually(check, 60)
    end(process)


def test_reload_serves_a_new_model_file_and_leaves_the_web_process_alone(laptop: Deployment) -> None:
    process, api = start(laptop, "--reload")
    web = [pid for pid in descendants(process.pid) if b"service\0web" in Path(f"/proc/{pid}/cmdline").read_bytes()]

    laptop.write(MODELS.replace("double", "twice"), "more.py")

    eventually(lambda: _ready(api, "twice"), 30)
    assert api.submit("twice", wait=20, input={"x": 4})["output"] == 8
    assert all(Path(f"/proc/{pid}").exists() for pid in web)
    end(process)


def _ready(api: Api, model: str) -> None:
    response = api.http.get(f"/v1/models/{model}")
    assert response.status_code == 200
    assert response.json()["ready"]


def test_a_file_that_cannot_be_imported_is_told_and_the_others_serve(laptop: Deployment) -> None:
    laptop.write("import nothing_of_this_name", "broken.py")
    process, api = start(laptop)

    broken = api.http.get("/v1/models/broken").json()
    assert broken["state"] == "failed"
    assert "nothing_of_this_name" in broken["error"]
    assert "broken cannot be served" in output_of(process)
    assert api.submit("double", wait=20, input={"x": 1})["output"] == 2
    end(process)


def test_a_second_one_on_the_same_port_is_told_to_take_another(laptop: Deployment) -> None:
    process, api = start(laptop)

    line = refused(laptop, PORT=str(api.port))

    assert line.startswith(f"error: cannot listen on 127.0.0.1:{api.port}")
    assert "set PORT" in line
    end(process)


def test_a_second_one_over_the_same_data_is_refused(laptop: Deployment) -> None:
    process, _ = start(laptop)

    line = refused(laptop, PORT=str(free_port()))

    assert "another service already uses" in line
    assert "DATA_DIR" in line
    end(process)


@pytest.mark.parametrize("command", ["up", "web", "worker", "models"])
def test_a_redis_that_does_not_answer_is_told_in_one_line(laptop: Deployment, command: str) -> None:
    line = refused(laptop, command, REDIS_URL=f"redis://:secret@127.0.0.1:{free_port()}/0", PORT=str(free_port()))

    assert line.startswith("error: Redis at redis://127.0.0.1:")
    assert "does not answer" in line
    assert "REDIS_URL" in line
    assert "secret" not in line


@pytest.mark.parametrize("host", ["::1", "[::1]", "::", "localhost"])
def test_it_serves_at_every_form_of_an_address(laptop: Deployment, host: str) -> None:
    port = free_port()
    process = laptop.run("up", HOST=host, PORT=str(port), http_proxy="http://127.0.0.1:9")

    eventually(lambda: ready_line(process), 60)
    assert httpx.get(f"{ready_line(process)}/readyz", timeout=10, trust_env=False, verify=NO_TLS).status_code == 200
    end(process)


def ready_line(process: subprocess.Popen[bytes]) -> str:
    assert process.poll() is None, output_of(process)
    (line,) = [line for line in output_of(process).splitlines() if line.startswith("ready ")] or [""]
    assert line
    return line.split()[1]


def test_a_host_that_is_none_is_told_in_one_line(laptop: Deployment) -> None:
    line = refused(laptop, HOST="256.256.256.256:80", PORT=str(free_port()))

    assert line.startswith("error: HOST is '256.256.256.256:80'")
    assert "conda" in line


def test_a_kept_secret_that_is_none_is_told_in_one_line(laptop: Deployment) -> None:
    (laptop.folder / "data").mkdir()
    (laptop.folder / "data/webhook-secret").write_text("garbage\n")

    line = refused(laptop, PORT=str(free_port()))

    assert "webhook-secret holds no secret" in line
    assert "garbage" not in line


def test_it_goes_on_though_nobody_reads_what_it_says(laptop: Deployment) -> None:
    port = free_port()
    reader, writer = os.pipe()
    os.close(reader)
    process = subprocess.Popen(
        [sys.executable, "-m", "service", "up"],
        env={**laptop.environment, "PORT": str(port)},
        cwd=laptop.folder,
        stdout=writer,
        stderr=writer,
        start_new_session=True,
    )
    os.close(writer)
    laptop.processes.append(process)
    api = laptop.api(port)

    eventually(lambda: _ready(api, "double"), 60)
    process.terminate()
    assert process.wait(30) == 0


def test_it_runs_though_its_standard_streams_are_closed(laptop: Deployment) -> None:
    port = free_port()
    process = subprocess.Popen(
        ["/bin/sh", "-c", f"exec {sys.executable} -m service up <&- >&- 2>&-"],
        env={**laptop.environment, "PORT": str(port), "LOG_LEVEL": "info"},
        cwd=laptop.folder,
        start_new_session=True,
    )
    laptop.processes.append(process)
    api = laptop.api(port)

    eventually(lambda: _ready(api, "double"), 60)
    assert api.submit("double", wait=20, input={"x": 4})["output"] == 8
    holders = [
        pid
        for pid in descendants(process.pid)
        for each in Path(f"/proc/{pid}/fd").iterdir()
        if each.readlink() == laptop.folder / "data/lock"
    ]
    assert len(holders) == 2  # the guardian and Redis: the next start waits for them
    process.terminate()
    assert process.wait(30) == 0


def test_the_password_of_redis_is_in_no_command_line_and_in_no_output(laptop: Deployment, tmp_path: Path) -> None:
    with EmbeddedRedis(tmp_path / "redis") as server, redis.Redis.from_url(server.url) as client:
        client.config_set("requirepass", "Sw0rd/f1sh@")
        url = server.url.replace("unix://", "unix://:Sw0rd%2Ff1sh%40@")
        process, api = start(laptop, REDIS_URL=url)
        assert api.submit("double", wait=20, input={"x": 4})["output"] == 8

        lines = [Path(f"/proc/{pid}/cmdline").read_bytes() for pid in [process.pid, *descendants(process.pid)]]
        client.config_set("requirepass", "another")
        server.kill()
        server.restart()
        end(process)

    assert len(lines) >= 5
    assert not [line for line in lines if b"f1sh" in line]
    assert "f1sh" not in output_of(process)


@pytest.mark.parametrize(
    ("url", "told"),
    [("http://127.0.0.1", "should start with redis://"), ("redis://127.0.0.1:port", "REDIS_URL is")],
)
def test_a_redis_url_that_is_none_is_told_in_one_line(laptop: Deployment, url: str, told: str) -> None:
    assert told in refused(laptop, REDIS_URL=url, PORT=str(free_port()))


@contextmanager
def old_redis() -> Iterator[int]:
    """A server that says what Redis 5 says, as far as a client asks before its first command."""

    class Handler(socketserver.StreamRequestHandler):
        def handle(self) -> None:
            while line := self.rfile.readline():
                words = []
                for _ in range(int(line[1:])):
                    self.rfile.readline()
                    words.append(self.rfile.readline().strip().upper())
                info = b"# Server\r\nredis_version:5.0.14\r\n"
                answers = {
                    b"INFO": b"$%d\r\n%s\r\n" % (len(info), info),
                    b"HELLO": b"-ERR unknown command `HELLO`\r\n",
                    b"PING": b"+PONG\r\n",
                }
                self.wfile.write(answers.get(words[0], b"+OK\r\n"))

    class Server(socketserver.ThreadingTCPServer):
        daemon_threads = True

    with Server(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server.server_address[1]
        server.shutdown()


def test_a_redis_that_is_too_old_is_told_in_one_line(laptop: Deployment) -> None:
    with old_redis() as port:
        line = refused(laptop, REDIS_URL=f"redis://127.0.0.1:{port}/0?protocol=2", PORT=str(free_port()))

    assert "5.0.14" in line
    assert "6.2 or newer is needed" in line


def test_all_wrong_settings_are_told_at_once(laptop: Deployment) -> None:
    line = refused(laptop, PORT="http", MAX_WAIT="-1")

    assert "PORT is 'http'" in line
    assert "MAX_WAIT is '-1'" in line


def test_a_jobs_folder_without_a_model_is_told_in_one_line(laptop: Deployment, redis_url: str) -> None:
    (laptop.jobs_dir / "models.py").unlink()

    assert "no model" in refused(laptop, "worker", REDIS_URL=redis_url)


def test_the_procfile_runs_under_honcho_as_it_is(deployed: Deployment, project: Path) -> None:
    deployed.write(MODELS)
    port = free_port()
    procfile = ["-f", str(project / "Procfile"), "-d", str(project)]
    honcho = subprocess.Popen(
        [str(project / ".venv/bin/honcho"), *procfile, "start", "-p", str(port)],
        env={**deployed.environment, "PATH": f"{project / '.venv/bin'}:{os.environ['PATH']}"},
        start_new_session=True,
    )
    deployed.processes.append(honcho)
    api = deployed.api(port)

    eventually(lambda: _ready(api, "double"), 30)
    assert api.submit("double", wait=20, input={"x": 4})["output"] == 8
    honcho.send_signal(signal.SIGTERM)
    honcho.wait(timeout=30)
