"""What torch does by default is put back after a job, as far as a stand-in for torch tells."""

from __future__ import annotations

import sys
from types import SimpleNamespace
from typing import Any

import pytest

from service.worker.left_hooks import Torch


def stand_in() -> Any:
    torch = SimpleNamespace(dtype="float32", grad=True, threads=2)
    for name, getter in (("dtype", "get_default_dtype"), ("grad", "is_grad_enabled"), ("threads", "get_num_threads")):
        setattr(torch, getter, lambda name=name: getattr(torch, name))
    for name, setter in (("dtype", "set_default_dtype"), ("grad", "set_grad_enabled"), ("threads", "set_num_threads")):
        setattr(torch, setter, lambda value, name=name: setattr(torch, name, value))
    return torch


def test_what_a_job_changes_of_torch_is_put_back(monkeypatch: pytest.MonkeyPatch) -> None:
    torch = stand_in()
    monkeypatch.setitem(sys.modules, "torch", torch)
    kept = Torch()
    kept.remember()

    torch.dtype, torch.grad, torch.threads = "float64", False, 1
    assert kept.now() != kept.before
    kept.put_back()

    assert (torch.dtype, torch.grad, torch.threads) == ("float32", True, 2)
    assert kept.now() == kept.before


def test_torch_that_a_job_imports_is_kept_as_that_job_leaves_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "torch", raising=False)
    kept = Torch()
    kept.remember()

    monkeypatch.setitem(sys.modules, "torch", stand_in())
    kept.put_back()

    assert kept.now() == kept.before == ("float32", True, 2)
