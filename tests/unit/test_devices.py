"""How GPUs are shared out among the workers of `worker --count`."""

from __future__ import annotations

from pathlib import Path

import pytest

from service.cli.devices import share, visible


@pytest.mark.parametrize(
    ("devices", "count", "shares"),
    [
        ([], 2, ["", ""]),
        (["0"], 3, ["0", "0", "0"]),
        (["0", "1"], 2, ["0", "1"]),
        (["0", "1"], 5, ["0", "1", "0", "1", "0"]),
        (["0", "1", "2", "3"], 2, ["0,2", "1,3"]),
        (["0", "1", "2"], 2, ["0,2", "1"]),
        (["GPU-a", "GPU-b"], 2, ["GPU-a", "GPU-b"]),
    ],
)
def test_each_worker_gets_its_share_of_the_gpus(devices: list[str], count: int, shares: list[str]) -> None:
    assert [",".join(share(devices, place, count)) for place in range(count)] == shares


def test_no_gpu_is_left_over_when_there_are_more_than_workers() -> None:
    devices = [str(number) for number in range(7)]

    given = [device for place in range(3) for device in share(devices, place, 3)]

    assert sorted(given) == devices


def test_the_gpus_are_those_of_the_machine_in_their_order(tmp_path: Path) -> None:
    for name in ("nvidia10", "nvidia2", "nvidia0", "nvidiactl", "nvidia-uvm"):
        (tmp_path / name).touch()

    assert visible({}, tmp_path) == ["0", "2", "10"]


@pytest.mark.parametrize(("named", "left"), [("2,3", ["2", "3"]), ("", []), ("MIG-1, MIG-2", ["MIG-1", "MIG-2"])])
def test_cuda_visible_devices_limits_them(named: str, left: list[str], tmp_path: Path) -> None:
    (tmp_path / "nvidia0").touch()

    assert visible({"CUDA_VISIBLE_DEVICES": named}, tmp_path) == left
