"""What every test starts from."""

from __future__ import annotations

import copy

import hypothesis
import pytest
import torch
from helpers import build, save_checkpoint, small_paa
from mmengine.registry import init_default_scope

# How long an example takes depends on what else the machine does.
hypothesis.settings.register_profile(
    "lad", deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow]
)
hypothesis.settings.load_profile("lad")


@pytest.fixture(scope="session", autouse=True)
def _one_thread():
    init_default_scope("mmdet")
    torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def _mmdet_scope():
    """A runner leaves its own scope behind."""
    yield
    init_default_scope("mmdet")


@pytest.fixture
def teacher_spec(tmp_path):
    """A function: teacher config and checkpoint of a small PAA detector with given weights."""

    def make(config: dict | None = None, seed: int = 1, **meta) -> dict:
        config = config or small_paa(base=16)
        path = save_checkpoint(build(config, seed), tmp_path / f"teacher_{seed}.pth", **meta)
        return dict(copy.deepcopy(config), checkpoint=path)

    return make
