"""A rude model beside well-behaved ones: none of these fails, is tried twice, or shows a word of another's.

RUDE_JOBS and POLITE_JOBS say how many; 500 and 10000 are the long form.
"""

from __future__ import annotations

import json
import os
import random

from tests.deployment import Deployment

RUDE, POLITE = int(os.environ.get("RUDE_JOBS", "25")), int(os.environ.get("POLITE_JOBS", "250"))
MODELS = """
    import asyncio, ctypes, logging, os, random, signal, socket, subprocess, tempfile, threading, time
    from service import model, progress

    def after(seconds, *call):
        time.sleep(seconds)
        call[0](*call[1:])

    def removed():
        folder = tempfile.mkdtemp()
        os.chdir(folder)
        os.rmdir(folder)

    RUDE = {
        "alarm": lambda: signal.alarm(1),
        "timer": lambda: threading.Timer(0.3, os._exit, [3]).start(),
        "exit": lambda: threading.Thread(target=after, args=(0.5, os._exit, 3)).start(),
        "thread": lambda: threading.Thread(target=after, args=(1000, print, "SECRET")).start(),
        "handlers": lambda: [signal.signal(each, signal.SIG_DFL) for each in (signal.SIGTERM, signal.SIGUSR1)],
        "folder": removed,
        "environment": lambda: os.environ.update(SECRET="SECRET", PATH="/nowhere"),
        "umask": lambda: os.umask(0o777),
        "silence": lambda: logging.disable(logging.CRITICAL),
        "sockets": lambda: socket.setdefaulttimeout(0.001),
        "seed": lambda: random.seed(1),
        "child": lambda: subprocess.Popen(["sleep", "1000"], start_new_session=True),
        "policy": lambda: asyncio.set_event_loop(None),
        "death": lambda: os.kill(os.getpid(), signal.SIGKILL),
        "crash": lambda: ctypes.string_at(0),
        "value": lambda: object(),
    }

    @model
    def rude(what: str):
        print("SECRET")
        return RUDE[what]() and None

    @model
    class Polite:
        def setup(self):
            self.folder = os.getcwd()

        def predict(self, word: str) -> list:
            logging.getLogger("jobs.polite").info(word)
            for _ in progress(range(2)):
                time.sleep(0.002)
            same = os.getcwd() == self.folder and "SECRET" not in os.environ and socket.getdefaulttimeout() is None
            return [word, same]

    @model(concurrency=8)
    async def waits(word: str) -> list:
        print(word)
        await asyncio.sleep(0.01)
        return [word, True]
"""
KINDS = (
    *("alarm", "timer", "exit", "thread", "handlers", "folder", "environment", "umask", "silence", "sockets", "seed"),
    *("child", "policy", "death", "crash", "value"),
)


def test_what_a_rude_model_does_reaches_no_other_job(deployed: Deployment) -> None:
    deployed.write(MODELS)
    deployed.worker()
    api = deployed.web()
    chosen = random.Random(7)  # noqa: S311 -- the same order each time
    rude = [chosen.choice(KINDS) for _ in range(RUDE)]
    order = [*rude, *(f"word {number}" for number in range(POLITE))]
    chosen.shuffle(order)

    jobs: dict[str, str] = {}
    for each in order:
        if each in KINDS:
            api.submit("rude", input={"what": each})
        else:
            jobs[api.submit(chosen.choice(("polite", "waits")), input={"word": each})["id"]] = each

    for job_id, word in jobs.items():
        job = api.done(job_id, within=120)
        assert (job["status"], job["output"], len(job["attempts"])) == ("finished", [word, True], 1), job
        events = api.log(job_id)
        assert "SECRET" not in json.dumps(events)
        # Said again by one that ran again, uncounted, because the work-horse died of another's doing.
        assert {event["data"]["message"] for event in events if event["type"] == "log"} == {word}
