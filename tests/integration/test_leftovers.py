"""What a job changes in its process does not reach the next one, which may be another caller's."""

from __future__ import annotations

import os
import time
from typing import Any

import pytest

from tests.deployment import Api, Deployment, children, until
from tests.noting import state

MODELS = """
    import asyncio, builtins, contextvars, ctypes, decimal, faulthandler, gc, json, locale, logging, os, random
    import resource, signal, socket, ssl, sys, tempfile, threading, time, tracemalloc, warnings
    from service import model

    word = contextvars.ContextVar("word", default="")
    silenced = logging.getLogger("jobs.silenced")

    class Secretive(logging.Handler):
        heard = []
        def emit(self, record):
            self.heard.append(record.getMessage())

    def leave(what):
        match what:
            case "alarm": signal.alarm(1)
            case "itimer": signal.setitimer(signal.ITIMER_REAL, 0.5)
            case "virtual timer": signal.setitimer(signal.ITIMER_VIRTUAL, 0.001)
            case "profiling timer": signal.setitimer(signal.ITIMER_PROF, 0.001)
            case "handlers":
                for signum in (signal.SIGTERM, signal.SIGALRM, signal.SIGUSR1, signal.SIGCHLD):
                    signal.signal(signum, signal.SIG_DFL)
            case "signal mask": signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGUSR1})
            case "folder": os.chdir("/")
            case "removed folder":
                folder = tempfile.mkdtemp()
                os.chdir(folder)
                os.rmdir(folder)
            case "environment":
                os.environ["SECRET"] = "of the first"
                os.environ["PATH"] = "/nowhere"
                os.environ.pop("HOME", None)
            case "another environment": os.environ = {"SECRET": "of the first"}
            case "umask": os.umask(0o777)
            case "logging.disable": logging.disable(logging.CRITICAL)
            case "disabled logger": silenced.disabled = True
            case "level": silenced.setLevel(logging.CRITICAL)
            case "handler": silenced.addHandler(Secretive())
            case "root handler": logging.getLogger().addHandler(Secretive())
            case "context variable": word.set("SECRET")
            case "decimal": decimal.getcontext().prec = 2
            case "no loop": asyncio.run(asyncio.sleep(0))
            case "closed loop":
                loop = asyncio.new_event_loop()
                asyncio.set_event_loop(loop)
                loop.close()
            case "policy":
                class Policy(asyncio.DefaultEventLoopPolicy):
                    def new_event_loop(self): raise RuntimeError("of the first")
                asyncio.set_event_loop_policy(Policy())
            case "timeout of sockets": socket.setdefaulttimeout(0.001)
            case "warnings": warnings.simplefilter("error")
            case "path": sys.path.insert(0, "/of/the/first")
            case "arguments": sys.argv[:] = ["of", "the", "first"]
            case "recursion": sys.setrecursionlimit(90)
            case "collector": gc.disable()
            case "temporary folder": tempfile.tempdir = "/of/the/first"
            case "start method":
                import multiprocessing
                multiprocessing.set_start_method("spawn")
            case "limit":
                _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
                resource.setrlimit(resource.RLIMIT_NOFILE, (10, most))
            case "tracing": sys.setprofile(lambda *event: None)
            case "functions":
                builtins.print = builtins.open = time.sleep = json.dumps = json.loads = lambda *given, **named: None
            case "hooks":
                sys.excepthook = threading.excepthook = sys.unraisablehook = print
                threading.settrace(lambda *event: None)
            case "import hooks":
                sys.meta_path.insert(0, None)
                sys.path_hooks.clear()
            case "classes of logging":
                logging.setLoggerClass(type("Another", (logging.Logger,), {}))
                logging.setLogRecordFactory(lambda *given, **named: None)
                logging.raiseExceptions = False
            case "filter": silenced.addFilter(lambda record: False)
            case "handlers of others":
                for each in logging.getLogger().handlers:
                    each.setLevel(logging.CRITICAL)
                    each.addFilter(lambda record: False)
                    each.setFormatter(logging.Formatter("%(levelname)s of the first"))
            case "locale":
                other = "C.UTF-8" if locale.setlocale(locale.LC_ALL) == "C" else "C"
                locale.setlocale(locale.LC_ALL, other)
            case "processors": os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
            case "tracing of memory": tracemalloc.start()
            case "faulthandler": faulthandler.disable()
            case "faulthandler timer": faulthandler.dump_traceback_later(0.5, exit=True)
            case "callbacks of the collector":
                gc.callbacks.append(print)
                gc.set_debug(gc.DEBUG_STATS)
            case "digits": sys.set_int_max_str_digits(0)
            case "standard input": sys.stdin = None
            case "https": ssl._create_default_https_context = ssl._create_unverified_context
            case "sockets":
                socket.socket = type("Proxied", (socket.socket,), {})
                socket.getaddrinfo = None
            case "seed": random.seed(1)
            case "seed of numpy":
                import numpy
                numpy.random.seed(1)

    def find():
        signals = [str(signal.getsignal(each)) for each in range(1, 32)]
        try:
            folder = os.getcwd()
        except OSError:
            folder = "none"
        mask = os.umask(0)
        os.umask(mask)
        try:
            loop = asyncio.get_event_loop_policy().get_event_loop()
            loops = loop.run_until_complete(asyncio.sleep(0, "yes"))
        except RuntimeError as error:
            loops = str(error)
        silenced.warning("a word of the second")
        return {
            "signals": [each.partition(" at 0x")[0] for each in signals],
            "mask": sorted(map(int, signal.pthread_sigmask(signal.SIG_BLOCK, []))),
            "folder": folder,
            "environment": dict(os.environ),
            "for children": os.popen("/bin/sh -c 'echo $SECRET'").read(),
            "umask": mask,
            "level": silenced.getEffectiveLevel(),
            "heard": Secretive.heard,
            "word": word.get(),
            "precision": decimal.getcontext().prec,
            "loops": loops,
            "policy": type(asyncio.get_event_loop_policy()).__name__,
            "timeout": socket.getdefaulttimeout(),
            "warnings": [str(each) for each in warnings.filters],
            "path": sys.path,
            "arguments": sys.argv,
            "recursion": sys.getrecursionlimit(),
            "collects": gc.isenabled(),
            "temporary": tempfile.tempdir,
            "limit": resource.getrlimit(resource.RLIMIT_NOFILE),
            "profile": str(sys.getprofile()),
            "pid": os.getpid(),
            "functions": [each.__name__ for each in (print, open, time.sleep, json.dumps, json.loads)],
            "hooks": [each.__name__ for each in (sys.excepthook, threading.excepthook, sys.unraisablehook)],
            "tracing": [str(threading.gettrace()), tracemalloc.is_tracing(), faulthandler.is_enabled()],
            "imports": [len(sys.meta_path), len(sys.path_hooks)],
            "logging": [logging.getLoggerClass().__name__, str(logging.getLogRecordFactory()), logging.raiseExceptions],
            "locale": locale.setlocale(locale.LC_ALL),
            "processors": len(os.sched_getaffinity(0)),
            "collector": [len(gc.callbacks), gc.get_debug()],
            "digits": sys.get_int_max_str_digits(),
            "input": type(sys.stdin).__name__,
            "https": ssl._create_default_https_context.__name__,
            "sockets": [socket.socket.__name__, str(type(socket.getaddrinfo))],
        }

    @model
    def leaves(what: str, text: str = "") -> None:
        leave(what)

    @model
    def finds(seconds: float = 0) -> dict:
        time.sleep(seconds)
        return find()

    @model
    def draws(generator: str) -> float:
        if generator == "numpy":
            import numpy
            return float(numpy.random.random())
        return random.random() if generator == "random" else random.gauss()

    @model
    def imports_numpy() -> None:
        import numpy

    @model
    async def leaves_asynchronously(what: str) -> None:
        leave(what)

    @model
    async def finds_asynchronously(seconds: float = 0) -> dict:
        await asyncio.sleep(seconds)
        return {"folder": os.getcwd(), "environment": dict(os.environ), "timeout": socket.getdefaulttimeout()}
"""

KINDS = [
    *("alarm", "itimer", "virtual timer", "profiling timer", "handlers", "signal mask", "folder", "removed folder"),
    *("environment", "another environment", "umask", "logging.disable", "disabled logger", "level", "handler"),
    *("root handler", "context variable", "decimal", "no loop", "closed loop", "policy", "timeout of sockets"),
    *(
        "warnings",
        "path",
        "arguments",
        "recursion",
        "collector",
        "temporary folder",
        "start method",
        "limit",
        "tracing",
    ),
    *("functions", "hooks", "import hooks", "classes of logging", "filter", "handlers of others", "locale"),
    *("processors", "tracing of memory", "faulthandler", "faulthandler timer", "callbacks of the collector", "digits"),
    *("standard input", "https", "sockets"),
]


def found(service: Api, **value: Any) -> Any:
    job = service.submit("finds", wait=20, input=value)
    assert job["status"] == "finished", job
    messages = [event["data"]["message"] for event in service.log(job["id"]) if event["type"] == "log"]
    return job["output"], messages


@pytest.mark.parametrize("what", KINDS)
def test_what_a_job_leaves_is_not_there_for_the_next_one(service: Api, what: str) -> None:
    before, messages = found(service)
    assert messages == ["a word of the second"]

    left = service.submit("leaves", wait=20, input={"what": what})
    after, messages_after = found(service, seconds=1.5 if "timer" in what or what == "alarm" else 0)

    assert left["status"] == "finished", left
    assert after == before
    assert messages_after == messages


@pytest.mark.parametrize("generator", ["random", "gauss", "numpy"])
def test_who_seeds_random_numbers_does_not_choose_those_of_the_next_job(service: Api, generator: str) -> None:
    def draw(seed: str) -> float:
        service.submit("leaves", wait=20, input={"what": seed})
        return float(service.submit("draws", wait=20, input={"generator": generator})["output"])

    seed = "seed of numpy" if generator == "numpy" else "seed"
    assert len({draw(seed) for _ in range(4)}) == 4


@pytest.mark.parametrize("what", ["folder", "environment", "timeout of sockets", "alarm"])
def test_what_an_async_job_leaves_is_not_there_for_the_next_one(service: Api, what: str) -> None:
    before = service.submit("finds_asynchronously", wait=20)["output"]

    service.submit("leaves_asynchronously", wait=20, input={"what": what})

    after = service.submit("finds_asynchronously", wait=20, input={"seconds": 1.2 if what == "alarm" else 0})
    assert after["status"] == "finished", after
    assert after["output"] == before
    service.submit("leaves_asynchronously", wait=20, input={"what": what})
    job = service.submit("finds", wait=20)
    assert (job["output"]["folder"], job["output"]["timeout"]) == (before["folder"], None)
    assert "SECRET" not in job["output"]["environment"]


def test_what_a_job_leaves_is_put_back_while_async_ones_run(service: Api) -> None:
    before, _ = found(service)
    running = service.submit("finds_asynchronously", input={"seconds": 3})["id"]
    service.started(running)

    service.submit("leaves", wait=20, input={"what": "folder"})

    assert found(service)[0]["folder"] == before["folder"]
    assert service.job(running)["status"] == "started"


LOOP = """
    import asyncio, os
    from concurrent.futures import ThreadPoolExecutor
    from service import model

    def again(loop):
        os.write(1, b"SECRET\\n")
        loop.call_later(0.1, again, loop)

    @model(concurrency=4)
    async def leaves(what: str) -> None:
        loop = asyncio.get_running_loop()
        match what:
            case "executor":
                with ThreadPoolExecutor(1) as pool:
                    loop.set_default_executor(pool)
            case "no executor": await loop.shutdown_default_executor()
            case "handler": loop.set_exception_handler(lambda *given: os._exit(3))
            case "factory": loop.set_task_factory(lambda *given, **named: None)
            case "debug": loop.set_debug(True)
            case "stop": loop.stop()
            case "timer": loop.call_later(0.1, again, loop)

    @model(concurrency=4)
    async def uses(seconds: float = 0) -> list[bool | int | str | None]:
        loop = asyncio.get_running_loop()
        await asyncio.sleep(seconds)
        thread, task = await asyncio.to_thread(abs, -1), await asyncio.create_task(asyncio.sleep(0, "a"))
        return [thread, loop.get_debug(), loop.get_exception_handler(), task]
"""


@pytest.fixture
def on_the_loop(deployed: Deployment) -> Api:
    deployed.write(LOOP)
    deployed.worker()
    return deployed.web()


def test_what_a_job_leaves_of_the_event_loop_serves_the_others(on_the_loop: Api) -> None:
    beside = on_the_loop.submit("uses", input={"seconds": 3})["id"]
    on_the_loop.started(beside)

    for what in ("executor", "no executor", "handler", "factory", "debug", "stop", "timer"):
        left = on_the_loop.submit("leaves", wait=30, input={"what": what})
        after = on_the_loop.submit("uses", wait=30, input={"seconds": 0.3 if what == "timer" else 0})

        assert (left["status"], after["status"]) == ("finished", "finished"), (what, left, after)
        assert after["output"] == [1, False, None, "a"]
    done = on_the_loop.done(beside, within=30)
    assert (done["output"], len(done["attempts"])) == ([1, False, None, "a"], 1)
    after = on_the_loop.submit("uses", wait=30, input={"seconds": 0.5})
    assert "SECRET" not in str(on_the_loop.log(after["id"]))


LEAVING = """
    import asyncio, ctypes, os, threading, time
    from concurrent.futures import ThreadPoolExecutor
    from pathlib import Path
    from service import model

    pool = ThreadPoolExecutor(2)
    hold = ctypes.PyDLL(None).sleep  # which does not give the interpreter away

    def end():
        time.sleep(1)
        os._exit(3)

    @model
    class Loaded:
        def setup(self):
            threading.Thread(target=time.sleep, args=(1000,), daemon=True).start()

        def predict(self, seconds: float = 0) -> int:
            time.sleep(seconds)
            return os.getpid()

    @model
    def leaves(what: str) -> int:
        match what:
            case "timer": threading.Timer(0.5, os._exit, [3]).start()
            case "thread that ends the process": threading.Thread(target=end).start()
            case "thread": threading.Thread(target=lambda: time.sleep(1000), name="of the first").start()
            case "thread in C": threading.Thread(target=time.sleep, args=(1000,)).start()
            case "thread that holds": threading.Thread(target=lambda: (time.sleep(0.3), hold(1000))).start()
            case "pool": pool.submit(time.time).result()
            case "last words": threading.Thread(target=lambda: time.sleep(0.3)).start()
            case "niceness": os.nice(1)
        return os.getpid()

    @model(timeout=2)
    def short() -> int:
        return os.getpid()

    @model(concurrency=4)
    async def many() -> int:
        return os.getpid()
"""


@pytest.fixture
def left(deployed: Deployment) -> Api:
    deployed.write(LEAVING)
    worker = deployed.worker()
    api = deployed.web()
    api.worker = worker  # type: ignore[attr-defined]
    until(lambda: bool(state(api, "loaded")["state"] == "ready"))
    return api


def leave(api: Api, what: str) -> int:
    job = api.submit("leaves", wait=20, input={"what": what})
    assert job["status"] == "finished", job
    return int(job["output"])


def test_a_timer_that_would_end_the_process_is_cancelled(left: Api) -> None:
    first = leave(left, "timer")

    assert left.submit("loaded", wait=20, input={"seconds": 1.5})["output"] == first


@pytest.mark.parametrize("what", ["thread", "thread in C", "thread that ends the process"])
def test_a_work_horse_in_which_a_thread_was_left_is_replaced_by_one_that_has_loaded(left: Api, what: str) -> None:
    first = leave(left, what)

    until(lambda: first not in children(left.worker.pid))  # type: ignore[attr-defined]

    job = left.submit("loaded", wait=20)
    assert job["output"] != first
    assert len(job["attempts"]) == 1


@pytest.mark.parametrize("what", ["pool", "last words"])
def test_a_pool_that_waits_and_a_thread_that_ends_soon_are_no_reason_to_replace_it(left: Api, what: str) -> None:
    first = leave(left, what)

    assert left.submit("loaded", wait=20, input={"seconds": 4})["output"] == first
    assert left.submit("loaded", wait=20)["output"] == first


def test_what_cannot_be_put_back_replaces_the_work_horse(left: Api) -> None:
    first = leave(left, "niceness")

    if os.getuid() == 0:  # who may do everything may put it back
        assert left.submit("loaded", wait=20)["output"] == first
    else:
        until(lambda: first not in children(left.worker.pid))  # type: ignore[attr-defined]


def test_a_job_that_dies_of_what_another_has_left_is_not_charged(left: Api) -> None:
    leave(left, "thread that ends the process")

    job = left.submit("loaded", wait=20, input={"seconds": 2.5})

    assert job["status"] == "finished", job
    assert len(job["attempts"]) == 1


def test_a_job_that_has_begun_when_a_left_thread_takes_hold_of_the_process_runs_again_in_another(left: Api) -> None:
    first = leave(left, "thread that holds")

    job = left.submit("loaded", wait=30, input={"seconds": 2})

    assert job["status"] == "finished", job
    assert len(job["attempts"]) == 1
    assert job["output"] != first


@pytest.mark.parametrize("model", ["short", "many"])
def test_a_job_that_never_began_because_a_thread_holds_the_process_is_not_charged(left: Api, model: str) -> None:
    first = leave(left, "thread that holds")
    time.sleep(0.6)  # until it holds it: nothing tells

    job = left.submit(model, wait=30)

    assert job["status"] == "finished", job
    assert len(job["attempts"]) == 1
    assert job["output"] != first
