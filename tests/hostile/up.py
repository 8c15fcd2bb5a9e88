"""`up` ends in ways that it does not choose: nobody is left behind, and the next start goes on where it was."""

from __future__ import annotations

import os
import signal
import socket
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import redis

from service.embedded import url
from tests.deployment import Deployment, children, free_port, until
from tests.hostile.load import Ledger
from tests.hostile.models import MODELS
from tests.hostile.situation import situation
from tests.hostile.stage import Memory, Stage, memory_of

ENDED_WITHIN = 20.0


class UpStage(Stage):
    """All that `python -m service up` starts, with its own Redis."""

    also_served = ("victim",)

    def __init__(self, folder: Path) -> None:
        self.folder, self.port = folder, free_port()
        self.deployed = Deployment(folder, "", PORT=str(self.port), GRACE_PERIOD="1", NOBODY="1")
        self.deployed.environment.pop("REDIS_URL")
        self.deployed.write(MODELS)
        self.ledger, self.killed, self.forgotten_until = Ledger(), set(), 0.0
        self.workers, self.names, self.clocks = [], {}, []
        self.api = self.deployed.api(self.port)
        self.start()
        self.redis = redis.Redis.from_url(url(folder / "data"))
        self.warm_up()

    def start(self) -> None:
        """Start it, and wait until all of it is there."""
        self.up = self.deployed.run("up")
        self.until_ready()

    def close(self) -> None:
        """End all of it."""
        self.redis.close()
        everybody = self.processes().values()
        self.up.terminate()
        with suppress(Exception):
            self.up.wait(timeout=15)
        for pid in everybody:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self.deployed.close()

    def keep(self) -> None:
        """It keeps its processes itself."""

    def until_all_work(self) -> None:
        """It says so itself: until_ready."""

    def processes(self) -> dict[str, int]:
        """All below `up`, and it."""
        found, known = [self.up.pid], 0
        while known < len(found):
            with suppress(FileNotFoundError):
                found += children(found[known])
            known += 1
        return {f"{_command(pid)} {number}": pid for number, pid in enumerate(found)}

    def memory(self) -> dict[str, Memory]:
        """What each of them holds."""
        return {name: memory_of(pid) for name, pid in self.processes().items()}

    def logs(self) -> str:
        """What all of it has written last."""
        log: Path = self.up.log  # type: ignore[attr-defined]
        return "\n".join(log.read_text(errors="replace").splitlines()[-40:])


def _command(pid: int) -> str:
    with suppress(FileNotFoundError):
        words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
        return " ".join(os.path.basename(word.decode(errors="replace")) for word in words[:4])
    return "gone"


def _alive(pid: int) -> bool:
    with suppress(FileNotFoundError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    return False


def _it_ends(end: Callable[[UpStage], None]) -> Callable[[Stage], None]:
    """Within some seconds nobody is left, the port is free, and at the next start the job that ran runs again."""

    def do(stage: Stage) -> None:
        assert isinstance(stage, UpStage)
        jobs = [stage.api.submit(model, input={"name": "given back", "seconds": 8}) for model in ("sleeps", "waits")]
        for job in jobs:
            stage.api.started(job["id"])
        everybody = stage.processes()
        stage.killed |= set(everybody.values())
        end(stage)
        try:
            until(lambda: not any(map(_alive, everybody.values())), within=ENDED_WITHIN)
        except AssertionError:
            raise AssertionError({name: pid for name, pid in everybody.items() if _alive(pid)}) from None
        stage.up.wait()
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(("127.0.0.1", stage.port))
        stage.start()
        for job in jobs:
            done = stage.api.done(job["id"], within=30)
            assert done["status"] == "finished", done

    return do


def _kill(stage: UpStage) -> None:
    stage.up.kill()


def _hang_up(stage: UpStage) -> None:
    for pid in stage.processes().values():  # as the kernel does to all in the foreground of a terminal that closes
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGHUP)


def _hang_up_alone(stage: UpStage) -> None:
    stage.up.send_signal(signal.SIGHUP)


def _terminate_all(stage: UpStage) -> None:
    for pid in stage.processes().values():
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGTERM)


def _terminate_all_redis_first(stage: UpStage) -> None:
    for name, pid in sorted(stage.processes().items(), key=lambda each: "redis" not in each[0]):
        assert name
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGTERM)


def _interrupt(stage: UpStage) -> None:
    stage.up.send_signal(signal.SIGINT)


for _end, _name in (
    (_kill, "up_is_killed"),
    (_hang_up, "the_terminal_of_up_closes"),
    (_hang_up_alone, "up_alone_is_told_that_its_terminal_closed"),
    (_terminate_all, "all_of_up_is_asked_to_end_at_once"),
    (_terminate_all_redis_first, "all_of_up_is_asked_to_end_and_redis_first"),
    (_interrupt, "up_is_interrupted"),
):
    _do = _it_ends(_end)
    _do.__name__ = _name
    situation("D", on="up", again=True, silent=True)(_do)
