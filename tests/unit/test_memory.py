from __future__ import annotations

from pathlib import Path

import pytest

from service.worker.memory import SPARE, has_room_for, oom_kills

VERSION_1 = (
    "4:memory:/docker/abc\n0::/\n",
    "35 31 0:32 {root} /sys/fs/cgroup/memory rw,relatime shared:9 - cgroup cgroup rw,memory\n",
    "oom_kill_disable 0\nunder_oom 0\noom_kill 3\n",
)
VERSION_2 = (
    "0::/system.slice/jobs.service\n",
    "25 30 0:22 {root} /sys/fs/cgroup rw shared:4 - cgroup2 cgroup2 rw,nsdelegate\n",
    "low 0\nhigh 0\nmax 12\noom 4\noom_kill 3\n",
)


def lay_out(root: Path, cgroup: str, mountinfo: str, counter: str, text: str) -> None:
    (root / "proc/self").mkdir(parents=True)
    (root / "proc/self/cgroup").write_text(cgroup)
    (root / "proc/self/mountinfo").write_text(mountinfo)
    (root / counter).parent.mkdir(parents=True)
    (root / counter).write_text(text)


@pytest.mark.parametrize(
    ("version", "mounted", "counter"),
    [
        (VERSION_1, "/", "sys/fs/cgroup/memory/docker/abc/memory.oom_control"),
        (VERSION_1, "/docker/abc", "sys/fs/cgroup/memory/memory.oom_control"),
        (VERSION_2, "/", "sys/fs/cgroup/system.slice/jobs.service/memory.events"),
    ],
)
def test_what_the_kernel_killed_for_want_of_memory_is_counted(
    tmp_path: Path, version: tuple[str, str, str], mounted: str, counter: str
) -> None:
    cgroup, mountinfo, text = version
    lay_out(tmp_path, cgroup, mountinfo.format(root=mounted), counter, text)

    assert oom_kills(tmp_path) == 3


def test_where_nobody_counts_nothing_is_said(tmp_path: Path) -> None:
    assert oom_kills(tmp_path) is None


def machine(root: Path, available: int, limit: str = "max", used: int = 0, file: str = "") -> None:
    """A process 7 on a machine, in a control group of version 2."""
    folder = "sys/fs/cgroup/system.slice/jobs.service"
    lay_out(root, VERSION_2[0], VERSION_2[1].format(root="/"), f"{folder}/memory.max", limit)
    (root / folder / "memory.current").write_text(f"{used}\n")
    (root / folder / "memory.stat").write_text("anon 1\ninactive_file 0\n")
    (root / "proc/meminfo").write_text(f"MemTotal: 1 kB\nMemAvailable: {available // 1024} kB\n")
    (root / "proc/7/fd").mkdir(parents=True)
    if file:
        (root / "proc/7/fd/3").symlink_to(file)


@pytest.mark.parametrize(
    ("available", "limit", "used", "room"),
    [
        (4 * SPARE, "max", 0, True),
        (SPARE, "max", 0, False),
        (100 * SPARE, str(8 * SPARE), 2 * SPARE, True),
        (100 * SPARE, str(8 * SPARE), 7 * SPARE, False),
        (SPARE, str(80 * SPARE), 0, False),
    ],
)
def test_there_is_room_for_a_second_process_if_machine_and_group_have_it(
    tmp_path: Path, available: int, limit: str, used: int, room: bool
) -> None:
    machine(tmp_path, available, limit, used)

    assert has_room_for(7, 2 * SPARE, tmp_path) is room


@pytest.mark.parametrize("file", ["/dev/nvidia0", "/dev/nvidiactl", "/dev/kfd"])
def test_there_is_none_for_one_that_uses_an_accelerator(tmp_path: Path, file: str) -> None:
    machine(tmp_path, 100 * SPARE, file=file)

    assert not has_room_for(7, SPARE, tmp_path)


def test_where_nobody_tells_the_memory_there_is_room(tmp_path: Path) -> None:
    assert has_room_for(7, SPARE, tmp_path)
