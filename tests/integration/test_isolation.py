"""What a job leaves behind, forks or starts: none of it reaches another job, and no job ends with it."""

from __future__ import annotations

from typing import Any

import pytest

from tests.deployment import Api

MODELS = """
    import asyncio, contextlib, ctypes, logging, multiprocessing, os, sched, sys, threading, time, _thread
    from collections.abc import Iterator
    from concurrent.futures import ThreadPoolExecutor
    from multiprocessing.pool import ThreadPool
    from service import model, progress

    log = logging.getLogger("mine")
    pool = ThreadPoolExecutor(1)
    threads = ThreadPool(1)
    pool.submit(int).result()

    def say(words, seconds=0.0):
        time.sleep(seconds)
        progress.update(0.5, words)
        print(words, "printed")
        print(words, "on stderr", file=sys.stderr)
        log.warning("%s logged", words)

    async def say_later(words, seconds):
        while True:
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.sleep(seconds)
            say(words)

    @model
    def starts(how: str, words: str, seconds: float = 0.0, wait: bool = False) -> None:
        over = threading.Event()
        def speak(words, seconds):
            say(words, seconds)
            over.set()
        def again():
            while True:
                say(words, seconds)
        {
            "thread": lambda: threading.Thread(target=speak, args=(words, seconds), daemon=True).start(),
            "loop": lambda: threading.Thread(target=again, daemon=True).start(),
            "timer": lambda: threading.Timer(seconds, speak, (words, 0)).start(),
            "raw": lambda: _thread.start_new_thread(speak, (words, seconds)),
            "pool": lambda: pool.submit(speak, words, seconds),
            "own pool": lambda: ThreadPoolExecutor(1).submit(speak, words, seconds),
            "threads": lambda: threads.apply_async(speak, (words, seconds)),
            "map": lambda: threads.starmap_async(speak, [(words, seconds)]),
            "callback": lambda: pool.submit(time.sleep, seconds).add_done_callback(lambda _: speak(words, 0)),
        }[how]()
        if wait:
            over.wait(5)

    @model(concurrency=4)
    async def tasks(how: str, words: str, seconds: float = 0.0, stay: float = 0.0) -> None:
        loop = asyncio.get_running_loop()
        if how == "task":
            globals()["kept"] = asyncio.create_task(say_later(words, seconds))
        elif how == "to_thread":
            globals()["kept"] = asyncio.ensure_future(asyncio.to_thread(say, words, seconds))
        elif how == "executor":
            loop.run_in_executor(None, say, words, seconds)
        elif how == "later":
            loop.call_later(seconds, say, words)
        await asyncio.sleep(stay)

    class Writer(threading.Thread):
        def run(self):
            writes()

    begun = threading.Event()

    def writes():
        begun.set()
        for _ in range(6):
            time.sleep(0.1)
            os.write(1, b"SECRET\\n")

    @model
    def leaves_a_writer(how: str) -> None:
        plan = sched.scheduler()
        plan.enter(0.3, 1, os.write, (1, b"SECRET\\n"))
        {
            "thread": lambda: threading.Thread(target=writes, daemon=True).start(),
            "class": lambda: Writer().start(),
            "raw": lambda: _thread.start_new_thread(writes, ()),
            "own pool": lambda: ThreadPoolExecutor(1).submit(writes),
            "library": lambda: threading.Thread(target=plan.run).start(),
        }[how]()
        if how != "library":
            begun.wait(10)
        begun.clear()

    @model
    def listens(seconds: float) -> str:
        print("begun")
        time.sleep(seconds)
        return "heard"

    @model(concurrency=4)
    async def hears(seconds: float) -> str:
        await asyncio.sleep(seconds)
        return "heard"

    def talk(number):
        for step in progress(range(20)):
            print("child", number, step)
            log.info("child %s %s", number, step)
        return number

    @model(timeout=30)
    def pools(size: int = 2) -> list[int]:
        found = []
        for _ in progress(range(10)):
            with multiprocessing.get_context("fork").Pool(size) as workers:
                found = workers.map(talk, range(size))
        return found

    def wait_for(child):
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])

    @model(timeout=20)
    def forks(how: str = "returns") -> int:
        if (child := os.fork()) == 0:
            if how == "raises":
                raise ValueError("in the child")
            if how == "exits":
                sys.exit(5)
            if how == "exits with words":
                sys.exit("words of the child")
            return -1
        return wait_for(child)

    @model(timeout=20)
    def forks_in_c() -> int:
        if (child := ctypes.CDLL(None).fork()) == 0:
            return -1
        return wait_for(child)

    @model(timeout=20)
    def forks_in_a_thread() -> int:
        found = []
        def fork():
            if (child := os.fork()) == 0:
                return
            found.append(wait_for(child))
        pool.submit(fork).result(10)
        thread = threading.Thread(target=fork)
        thread.start()
        thread.join()
        return sum(found)

    @model(timeout=20)
    def forks_and_yields(items: int = 3) -> Iterator[int]:
        child = os.fork()
        for item in range(items):
            yield item if child else -1
        if child:
            yield wait_for(child)

    @model(max_batch_size=2, timeout=20)
    def forks_batches(x: list[int]) -> list[int]:
        if (child := os.fork()) == 0:
            return [-1 for _ in x]
        code = wait_for(child)
        return [code for _ in x]

    @model(concurrency=4, timeout=20)
    async def forks_on_the_loop(how: str = "returns") -> int:
        if (child := os.fork()) == 0:
            if how == "awaits":
                await asyncio.sleep(0.1)
            return -1
        return await asyncio.to_thread(wait_for, child)

    @model
    def shout(text: str) -> str:
        print(text)
        return text.upper()
"""


def run(service: Api, model: str, **value: Any) -> Any:
    return service.submit(model, wait=40, input=value)


def lines(service: Api, job: Any) -> list[str]:
    return [event["data"]["message"] for event in service.log(job["id"]) if event["type"] == "log"]


HOW = ("thread", "timer", "raw", "pool", "own pool", "threads", "map", "callback")


@pytest.mark.parametrize("how", HOW)
def test_what_a_job_starts_speaks_for_it(service: Api, how: str) -> None:
    run(service, "starts", how="pool", words="before", wait=True)

    job = run(service, "starts", how=how, words="mine", wait=True)

    assert job["progress"]["message"] == "mine"
    assert sorted(lines(service, job)) == ["mine logged", "mine on stderr", "mine printed"]


@pytest.mark.parametrize("how", [*HOW, "loop"])
@pytest.mark.parametrize("listener", ["listens", "hears"])
def test_what_a_job_left_behind_speaks_for_nobody(service: Api, how: str, listener: str) -> None:
    run(service, "starts", how=how, words="SECRET", seconds=0.2)

    job = run(service, listener, seconds=0.8)

    assert job["output"] == "heard"
    assert "SECRET" not in str(service.log(job["id"]))
    assert job["progress"] is None


@pytest.mark.parametrize("how", ["thread", "class", "raw", "own pool", "library"])
def test_what_a_thread_that_was_left_writes_below_python_is_told_of_nobody(service: Api, how: str) -> None:
    run(service, "leaves_a_writer", how=how)

    job = run(service, "listens", seconds=0.8)

    assert lines(service, job) == ["begun"]


@pytest.mark.parametrize("how", ["task", "to_thread", "executor", "later"])
def test_what_an_async_job_starts_speaks_for_it_and_then_for_nobody(service: Api, how: str) -> None:
    first = run(service, "tasks", how=how, words="mine", seconds=0.1, stay=1)
    run(service, "tasks", how=how, words="SECRET", seconds=0.2)

    others = [service.submit(model, input={"seconds": 0.8}) for model in ("hears", "listens")]

    assert "mine printed" in lines(service, first)
    for job in others:
        assert service.done(job["id"])["output"] == "heard"
        assert "SECRET" not in str(service.log(job["id"]))


def test_jobs_that_fork_pools_beside_progress_finish(service: Api) -> None:
    jobs = [service.submit("pools") for _ in range(4)]

    for job in jobs:
        done = service.done(job["id"], within=60)
        assert (done["status"], done["output"]) == ("finished", [0, 1]), done
        assert done["progress"]["fraction"] == 1


@pytest.mark.parametrize(
    ("model", "value", "output"),
    [
        ("forks", {"how": "returns"}, 1),
        ("forks", {"how": "raises"}, 1),
        ("forks", {"how": "exits"}, 5),
        ("forks", {"how": "exits with words"}, 1),
        ("forks_in_c", {}, 1),
        ("forks_in_a_thread", {}, 2),
        ("forks_and_yields", {"items": 3}, [0, 1, 2, 1]),
        ("forks_batches", {"x": 1}, 1),
        ("forks_on_the_loop", {"how": "returns"}, 1),
        ("forks_on_the_loop", {"how": "awaits"}, 1),
    ],
)
def test_a_forked_child_that_comes_back_is_ended_and_its_parent_answers(
    service: Api, model: str, value: dict[str, Any], output: Any
) -> None:
    job = run(service, model, **value)

    assert (job["status"], job["output"]) == ("finished", output), job
    assert [event["type"] for event in service.log(job["id"])].count("finished") == 1
    assert run(service, "shout", text="on")["output"] == "ON"


def test_what_a_forked_child_raises_is_shown_as_its_author_reads_it(service: Api) -> None:
    raised = lines(service, run(service, "forks", how="raises"))
    assert "models.py" in raised[1], raised
    assert raised[-1] == "ValueError: in the child"

    assert lines(service, run(service, "forks", how="exits with words")) == ["words of the child"]
