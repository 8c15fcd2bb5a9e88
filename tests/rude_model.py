"""A rude model: each thing that it does to its process, or leaves in it, is what a model should not do.

`rude` runs on the main lane, `rude_async` on the event loop; `how` says what. All its words begin with SECRET.
"""

from __future__ import annotations

KINDS = {
    "forks": "pools comes_back raises_in_a_child forks_in_a_thread forks_and_writes",
    "streams": "closes rewraps detaches without_streams closes_descriptors others_on_descriptors writes floods",
    "threads": "leaves_a_thread leaves_a_talker leaves_a_timer leaves_a_pool leaves_a_thread_pool leaves_a_logger",
    "state": "alarm itimer handlers mask folder environment umask silence deaf_loggers listens_to_all policy no_loop "
    "sockets seed warns_no_more arguments recursion collector temporary start_method limit tracing context",
    "processes": "leaves_a_child leaves_a_daemon leaves_a_writer exits_later kills_itself crashes exits holds_on",
    "link": "patches_json patches_json_for_a_while writes_to_the_link closes_all_descriptors",
    "groups": "fatal_in_a_group retry_in_a_group deep_group",
    "values": "numbers_at_depth no_value_at_depth a_generator surrogates itself no_number too_deep",
    "credentials": "looks_for_credentials",
}
"""What `rude` can do, by the kind of harm."""
ASYNC_KINDS = {
    "tasks": "leaves_a_task leaves_a_stubborn_task calls_later leaves_a_to_thread leaves_an_executor blocks_the_loop",
    "state": "folder silence sockets context",
    "groups": "fatal_in_a_task_group retry_in_a_task_group",
}
"""What `rude_async` can do."""

RUDE = r"""
    import asyncio, contextvars, ctypes, dataclasses, datetime, enum, gc, inspect, io, json, logging, multiprocessing
    import os, random, re, resource, signal, socket, stat, subprocess, sys, tempfile, threading, time, warnings
    from concurrent.futures import ThreadPoolExecutor
    from multiprocessing.pool import ThreadPool
    from pathlib import Path
    from typing import Any
    from service import Fatal, Retry, model, progress

    word = contextvars.ContextVar("word", default="")
    heard = []

    class Hears(logging.Handler):
        def emit(self, record):
            heard.append(record.getMessage())

    def say(name):
        progress.update(0.5, f"SECRET {name}")
        print("SECRET", name)
        print("SECRET", name, file=sys.stderr)
        logging.getLogger("rude").warning("SECRET %s", name)

    def say_often(name, times=20):
        for _ in range(times):
            time.sleep(0.05)
            say(name)

    def after(seconds, *call):
        time.sleep(seconds)
        call[0](*call[1:])

    # --- it forks
    def talk(number):
        for step in progress(range(3)):
            print("SECRET of a child", number, step)
        return number

    def pools(name):
        for _ in progress(range(2)):
            with multiprocessing.get_context("fork").Pool(2) as pool:
                assert pool.map(talk, range(2)) == [0, 1]

    def end_of(child):
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])

    def comes_back(name):
        child = os.fork()
        return end_of(child) if child else -1

    def raises_in_a_child(name):
        if (child := os.fork()) == 0:
            raise ValueError("SECRET " + name)
        return end_of(child)

    def forks_in_a_thread(name):
        thread = threading.Thread(target=comes_back, args=(name,))
        thread.start()
        thread.join()

    def forks_and_writes(name):
        if (child := os.fork()) == 0:
            write_to_sockets()
            os._exit(0)
        end_of(child)

    # --- it spoils the streams
    def closes(name):
        sys.stdout.close()
        sys.stderr.close()

    def rewraps(name):
        sys.stdout = io.TextIOWrapper(sys.__stdout__.buffer, encoding="ascii")
        print("SECRET", name)

    def detaches(name):
        sys.stdout.detach()
        sys.stderr.detach()

    def without_streams(name):
        sys.stdout = sys.stderr = sys.__stdout__ = sys.__stderr__ = None

    def closes_descriptors(name):
        os.closerange(0, 3)

    def others_on_descriptors(name):
        for fd in (1, 2):
            os.dup2(os.open(os.devnull, os.O_WRONLY), fd)

    def writes(name):
        os.write(1, f"SECRET {name}\n".encode())
        os.write(2, f"SECRET {name}\n".encode())
        subprocess.run(["echo", "SECRET from a child of", name])
        ctypes.CDLL(None).printf(f"SECRET half a line {name}".encode())

    def floods(name):
        for _ in range(5000):
            os.write(1, f"SECRET {name}\n".encode())

    # --- it leaves threads that talk
    def leaves_a_thread(name):
        threading.Thread(target=say_often, args=(name,), daemon=True).start()

    def leaves_a_talker(name):
        threading.Thread(target=say_often, args=(name, 10**6)).start()

    def leaves_a_timer(name):
        threading.Timer(0.2, say, [name]).start()

    def leaves_a_pool(name):
        ThreadPoolExecutor(2).submit(say_often, name)

    def leaves_a_thread_pool(name):
        ThreadPool(2).apply_async(say_often, (name,))

    def leaves_a_logger(name):
        log = logging.getLogger(name)
        log.addHandler(logging.StreamHandler(sys.stdout))
        threading.Thread(target=lambda: [after(0.1, log.error, "SECRET %s", name) for _ in range(10)]).start()

    # --- it leaves its process changed
    def alarm(name):
        signal.alarm(1)

    def itimer(name):
        signal.setitimer(signal.ITIMER_REAL, 0.5)

    def handlers(name):
        for each in (signal.SIGTERM, signal.SIGUSR1, signal.SIGALRM, signal.SIGCHLD):
            signal.signal(each, signal.SIG_DFL)

    def mask(name):
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGUSR1})

    def folder(name):
        os.chdir(path := tempfile.mkdtemp())
        os.rmdir(path)

    def environment(name):
        os.environ.update(SECRET="SECRET", PATH="/nowhere", TZ="SECRET")

    def umask(name):
        os.umask(0o777)

    def silence(name):
        logging.disable(logging.CRITICAL)

    def deaf_loggers(name):
        for each in list(logging.root.manager.loggerDict):
            logging.getLogger(each).disabled = True

    def listens_to_all(name):
        for line in heard:
            print(line)
        logging.getLogger().addHandler(Hears())

    def policy(name):
        class Policy(asyncio.DefaultEventLoopPolicy):
            def new_event_loop(self): raise RuntimeError("SECRET")
        asyncio.set_event_loop_policy(Policy())

    def no_loop(name):
        asyncio.run(asyncio.sleep(0))

    def sockets(name):
        socket.setdefaulttimeout(0.001)

    def seed(name):
        random.seed(1)

    def warns_no_more(name):
        warnings.simplefilter("error")

    def arguments(name):
        sys.argv[:] = ["SECRET"]
        sys.path.insert(0, "/SECRET")

    def recursion(name):
        sys.setrecursionlimit(150)

    def collector(name):
        gc.disable()

    def temporary(name):
        tempfile.tempdir = "/SECRET"

    def start_method(name):
        multiprocessing.set_start_method("spawn", force=True)

    def limit(name):
        resource.setrlimit(resource.RLIMIT_NOFILE, (10, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))

    def tracing(name):
        sys.setprofile(lambda *event: None)

    def context(name):
        word.set("SECRET")

    def patches_json(name):
        json.dumps, json.loads = (lambda *a, **o: "SECRET"), (lambda *a, **o: "SECRET")
        json.JSONEncoder.encode = lambda *a: "SECRET"

    # --- it leaves processes, or ends its own
    def leaves_a_child(name):
        subprocess.Popen(["sleep", "1000"], start_new_session=True)

    def leaves_a_daemon(name):
        if (child := os.fork()) == 0:
            os.setsid()
            subprocess.Popen(["sleep", "1000"])
            os._exit(0)
        end_of(child)

    def leaves_a_writer(name):
        subprocess.Popen(f"while sleep 0.2; do echo SECRET {name}; done", shell=True, start_new_session=True)

    def exits_later(name):
        threading.Thread(target=after, args=(0.5, os._exit, 3)).start()

    def kills_itself(name):
        os.kill(os.getpid(), signal.SIGKILL)

    def crashes(name):
        ctypes.string_at(0)

    def exits(name):
        os._exit(3)

    def holds_on(name):
        threading.Thread(target=lambda: after(0.1, ctypes.PyDLL(None).sleep, 1000)).start()

    # --- it gets at the link
    def patches_json_for_a_while(name):
        old = json.dumps, json.JSONEncoder.encode
        json.dumps, json.JSONEncoder.encode = (lambda *a, **o: b"SECRET"), lambda *a: "SECRET"
        say(name)
        json.dumps, json.JSONEncoder.encode = old

    def write_to_sockets():
        for fd in range(3, 200):
            try:
                if stat.S_ISSOCK(os.fstat(fd).st_mode):
                    os.write(fd, b"no frame")
            except OSError:
                pass

    def writes_to_the_link(name):
        write_to_sockets()
        time.sleep(10)

    def closes_all_descriptors(name):
        os.closerange(3, 500)
        time.sleep(10)

    # --- what it raises
    def fatal_in_a_group(name):
        raise ExceptionGroup("some", [ValueError("a"), ExceptionGroup("more", [Fatal("no use")])])

    def retry_in_a_group(name):
        raise ExceptionGroup("some", [Retry("not yet", after=0), ValueError("a")])

    def deep_group(name):
        error = ValueError("the bottom")
        for _ in range(500):
            error = ExceptionGroup("group", [error])
        raise error

    # --- what it returns
    class Colour(enum.Enum):
        red = "red"

    @dataclasses.dataclass
    class Point:
        x: Any

    VALUES = (datetime.date(2020, 1, 2), {"a"}, Path("/a"), Colour.red, Point(Colour.red))
    try:
        import numpy
        VALUES += (numpy.float32(0.5), numpy.arange(3), numpy.datetime64("2020-01-02"))
    except ImportError:
        pass

    def numbers_at_depth(name):
        return {"deep": [{"deeper": VALUES}]}

    def no_value_at_depth(name):
        return {"scores": [1, 2, {"other": object()}]}

    def a_generator(name):
        return (each for each in name)

    def surrogates(name):
        print("\ud800")
        return {"\ud800": "\ud800"}

    def itself(name):
        value = []
        value.append(value)
        return value

    def no_number(name):
        progress.update(1.0, "SECRET", loss=float("nan"))
        return [float("nan"), float("-inf")]

    def too_deep(name):
        value = []
        for _ in range(10_000):
            value = [value]
        return value

    # --- what it looks for
    def looks_for_credentials(name):
        return [dict(os.environ), Path("/proc/self/environ").read_text(), Path("/proc/self/cmdline").read_text()]

    # --- on the event loop
    kept = []

    async def say_later(name, stubborn=False):
        for _ in range(20):
            try:
                await asyncio.sleep(0.1)
            except asyncio.CancelledError:
                if not stubborn:
                    raise
            say(name)

    def leaves_a_task(name):
        kept.append(asyncio.get_running_loop().create_task(say_later(name)))

    def leaves_a_stubborn_task(name):
        kept.append(asyncio.get_running_loop().create_task(say_later(name, stubborn=True)))

    def calls_later(name):
        asyncio.get_running_loop().call_later(0.3, say, name)

    def leaves_a_to_thread(name):
        kept.append(asyncio.ensure_future(asyncio.to_thread(say_often, name)))

    def leaves_an_executor(name):
        asyncio.get_running_loop().run_in_executor(None, say_often, name)

    def blocks_the_loop(name):
        time.sleep(0.3)

    async def raise_in_a_task_group(error):
        async def raises():
            raise error
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(raises())
            tasks.create_task(asyncio.sleep(10))

    def fatal_in_a_task_group(name):
        return raise_in_a_task_group(Fatal("no use"))

    def retry_in_a_task_group(name):
        return raise_in_a_task_group(Retry("not yet", after=0))

    def does(name, how):
        say(name)
        return globals()[how](name)

    @model(timeout=TIMEOUT)
    def rude(name: str, how: str):
        return does(name, how)

    @model(timeout=TIMEOUT, concurrency=4)
    async def rude_async(name: str, how: str):
        result = does(name, how)
        return await result if inspect.isawaitable(result) else None
"""
TIMEOUT = 20
RUDE = RUDE.replace("TIMEOUT", str(TIMEOUT))
ENDS = {
    "crashed": "kills_itself crashes exits writes_to_the_link closes_all_descriptors",
    "model_error": "fatal_in_a_group retry_in_a_group deep_group fatal_in_a_task_group retry_in_a_task_group",
    "invalid_output": "no_value_at_depth a_generator surrogates itself no_number too_deep",
}


def rude_things() -> list[tuple[str, str]]:
    """Model and `how` of each."""
    models = {"rude": KINDS, "rude_async": ASYNC_KINDS}
    return [(model, how) for model, kinds in models.items() for hows in kinds.values() for how in hows.split()]


def error_of(how: str) -> str | None:
    """The type of the error with which such a job ends, if it does not finish."""
    return next((error for error, hows in ENDS.items() if how in hows.split()), None)
