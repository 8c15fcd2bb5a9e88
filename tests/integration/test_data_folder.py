"""DATA_DIR and the embedded Redis in it: closed to others, tried before use, and refused when a part of it is gone."""

from __future__ import annotations

import errno
import os
import shutil
import signal
import socket
import stat
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest
import redis

from service import append_only, embedded
from service.cli.main import main
from service.data_folder import prepare
from service.embedded import EmbeddedRedis, binary
from service.failure import Failure
from service.guardian import SURELY_ON_DISK, sizes
from tests.deployment import until

KEYS = 1000


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return tmp_path / "data"


def server(data: Path) -> EmbeddedRedis:
    return EmbeddedRedis(data, shutil.which(os.environ.get("TEST_REDIS_SERVER", "")))


def write(each: EmbeddedRedis, first: int = 0) -> None:
    with redis.Redis.from_url(each.url) as client, client.pipeline(transaction=False) as pipeline:
        for number in range(first, first + KEYS):
            pipeline.set(f"key:{number}", "x" * 100)
        pipeline.execute()
        # While the disk is busy with a sync, Redis keeps what it has answered back, for 2 s at most.
        until(lambda: client.info("persistence")["aof_buffer_length"] == 0)


def kept(data: Path) -> int:
    """How many keys there are after a start."""
    with server(data) as each, redis.Redis.from_url(each.url) as client:
        return int(client.dbsize())


def refused(data: Path, *expected: str) -> None:
    with pytest.raises(Failure) as told, server(data):
        pass
    assert [part for part in expected if part not in str(told.value)] == [], told.value
    assert "\n" not in str(told.value)


def guardian(each: EmbeddedRedis) -> int:
    """The process that started the server."""
    return int(Path(f"/proc/{each.pid}/stat").read_text().rpartition(")")[2].split()[1])


def commands(data: Path) -> Path:
    """The file that the last commands were written to."""
    return data / "redis" / list(sizes(data / "redis"))[-1]


@pytest.fixture
def written(data: Path) -> Path:
    """A data folder with KEYS keys."""
    with server(data) as each:
        write(each)
    assert commands(data).stat().st_size > KEYS * 100
    return data


def modes(folder: Path) -> dict[str, int]:
    return {str(each.relative_to(folder)): stat.S_IMODE(each.lstat().st_mode) for each in [folder, *folder.rglob("*")]}


def open_to_others(folder: Path) -> list[str]:
    return [name for name, mode in modes(folder).items() if mode & 0o077]


# ---------------------------------------------------------------- who may read it


def test_only_the_owner_reads_what_is_kept(written: Path) -> None:
    with server(written):
        assert open_to_others(written) == []


def test_a_folder_that_an_older_version_made_is_closed(written: Path) -> None:
    for each in [written, *written.rglob("*")]:
        each.chmod(0o755 if each.is_dir() else 0o644)

    assert kept(written) == KEYS

    assert open_to_others(written) == []


def test_a_folder_that_holds_other_things_stays_as_it_is_and_our_part_is_closed(tmp_path: Path) -> None:
    (tmp_path / "somebody's").touch()
    tmp_path.chmod(0o755)

    prepare(tmp_path)

    assert stat.S_IMODE(tmp_path.stat().st_mode) == 0o755
    assert open_to_others(tmp_path / "redis") == []


# ---------------------------------------------------------------- where it cannot be


def a_file(data: Path) -> Path:
    data.touch()
    return data


def below_a_file(data: Path) -> Path:
    data.touch()
    return data / "below"


@pytest.mark.parametrize("place", [a_file, below_a_file, lambda _: Path("/proc/nowhere/data")])
def test_a_folder_that_cannot_be_is_told_in_one_line(data: Path, place: Callable[[Path], Path]) -> None:
    refused(place(data), "DATA_DIR is ", "which cannot be used", "or set DATA_DIR to another")


def test_a_full_disk_is_told_before_anything_is_started(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)

    refused(data, f"DATA_DIR is {data}", "No space left on device", "make room on its disk")
    assert list((data / "redis").iterdir()) == []


def test_a_server_of_somebody_else_at_our_socket_is_left_alone(data: Path) -> None:
    prepare(data)
    with closing(socket.socket(socket.AF_UNIX)) as other:
        other.bind(str(data / "redis.sock"))
        other.listen()

        refused(data, "something that is not ours listens on", "redis.sock", "DATA_DIR")

        assert (data / "redis.sock").exists()


def test_a_socket_that_was_left_behind_is_no_obstacle(data: Path) -> None:
    prepare(data)
    with closing(socket.socket(socket.AF_UNIX)) as other:
        other.bind(str(data / "redis.sock"))

    assert kept(data) == 0


@pytest.mark.parametrize("name", ["x" * 150, "with space", "per%41cent", "question?mark", "sharp#", "at@", "größe"])
def test_a_folder_may_have_any_name(tmp_path: Path, name: str) -> None:
    assert kept(tmp_path / name) == 0


# ---------------------------------------------------------------- what is damaged


def cut(file: Path) -> None:
    os.truncate(file, file.stat().st_size // 2)


def overwrite(file: Path) -> None:
    with file.open("r+b") as opened:
        opened.seek(file.stat().st_size // 2)
        opened.write(b"\0" * 400)  # longer than a command: what says its lengths is hit


def empty(file: Path) -> None:
    os.truncate(file, 0)


@pytest.mark.parametrize("damage", [cut, overwrite, empty])
def test_a_damaged_append_only_file_is_refused_and_repaired_on_demand(
    written: Path, damage: Callable[[Path], None], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    damage(commands(written))
    before = commands(written).read_bytes()

    refused(written, "redis", "put a backup", "python -m service repair")
    assert commands(written).read_bytes() == before

    monkeypatch.setenv("DATA_DIR", str(written))
    with pytest.raises(SystemExit) as ended:
        main(["repair"])
    assert ended.value.code == 0
    copy = Path(capsys.readouterr().out.strip().rpartition(" ")[2])
    assert (copy / commands(written).relative_to(written / "redis")).read_bytes() == before
    assert open_to_others(copy) == []
    assert kept(written) == (0 if damage is empty else pytest.approx(KEYS / 2, rel=0.1))


def test_files_that_are_gone_are_told(written: Path) -> None:
    for name in sizes(written / "redis"):
        (written / "redis" / name).unlink()
    shutil.rmtree(written / "redis" / "appendonlydir", ignore_errors=True)

    refused(written, "is missing", "put a backup")


def test_a_folder_that_was_emptied_on_purpose_begins_anew(written: Path) -> None:
    shutil.rmtree(written / "redis")

    assert kept(written) == 0


def test_the_last_moments_before_a_power_cut_may_be_missing(data: Path) -> None:
    each = server(data)
    with each:
        write(each)
        until(lambda: (data / "redis/sizes.json").exists(), within=SURELY_ON_DISK + 15)
        until(lambda: append_only._known(data / "redis").get(str(commands(data).relative_to(data / "redis")), (0,))[0])
        write(each, first=KEYS)
        os.kill(guardian(each), signal.SIGKILL)

    os.truncate(commands(data), commands(data).stat().st_size - 5)

    assert kept(data) == 2 * KEYS - 1


def test_zeros_that_a_power_cut_has_left_at_the_end_are_cut_off(
    written: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    with commands(written).open("ab") as file:
        file.write(b"\0" * 5000)

    assert kept(written) == KEYS

    assert "cut off 5000 bytes" in capfd.readouterr().err


def test_what_is_killed_is_whole(data: Path) -> None:
    each = server(data)
    with each:
        write(each)
        each.kill()
        each.restart()
        with redis.Redis.from_url(each.url) as client:
            assert client.dbsize() == KEYS
            client.bgrewriteaof()
            until(lambda: client.info("persistence")["aof_rewrite_in_progress"] == 0)
        each.kill()

    assert kept(data) == KEYS


# ---------------------------------------------------------------- another server


@pytest.fixture
def older() -> str:
    """A Redis that cannot read what the Valkey that comes with the service writes."""
    path = shutil.which("redis-server", path="/usr/bin:/usr/local/bin")
    if path is None or embedded._version(path) >= (9, 0):
        pytest.skip("no older redis-server on this machine")
    return path


def test_a_folder_that_the_first_server_cannot_read_is_opened_by_another(
    data: Path, older: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with EmbeddedRedis(data, binary()) as each:
        write(each)

    with pytest.raises(Failure, match="was written by a newer Redis, or by Valkey") as told, EmbeddedRedis(data, older):
        pass
    assert older in str(told.value)
    candidates = [(path, embedded._version(path)) for path in (older, binary())]
    monkeypatch.setattr(embedded, "_candidates", lambda: candidates)

    with EmbeddedRedis(data) as each, redis.Redis.from_url(each.url) as client:
        assert client.dbsize() == KEYS


def test_a_folder_of_the_server_that_was_the_default_before_is_read(data: Path, older: str) -> None:
    with EmbeddedRedis(data, older) as each:
        write(each)

    with EmbeddedRedis(data) as each, redis.Redis.from_url(each.url) as client:
        assert client.dbsize() == KEYS


def test_redis_6_does_not_begin_anew_beside_the_files_of_a_later_one(data: Path) -> None:
    with EmbeddedRedis(data, binary()) as each:
        write(each)
    old = data.parent / "redis-6"
    old.write_text(f'#!/bin/sh\n[ "$1" = --version ] && echo "Redis server v=6.2.14" || exec {binary()} "$@"\n')
    old.chmod(0o700)

    with pytest.raises(Failure, match="was written by Redis 7 or newer"), EmbeddedRedis(data, str(old)):
        pass
