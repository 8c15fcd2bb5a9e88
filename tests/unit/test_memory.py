from __future__ import annotations

from pathlib import Path

import pytest

from service.worker.memory import oom_kills

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
