"""Networks' own checkpoints follow the training's."""

import os

from lad.engine.hooks import SaveNetworksHook

import pytest
import torch


@pytest.fixture
def hook(tmp_path):
    hook = SaveNetworksHook()
    hook.names = ["a", "b"]
    for name in ("epoch_2.pth", "a_epoch_2.pth", "b_epoch_2.pth"):
        torch.save({}, tmp_path / name)
        os.utime(tmp_path / name, (100, 100))
    return hook


def test_networks_of_an_older_run_are_not_taken_for_this_ones(hook, tmp_path):
    assert hook._is_split(tmp_path / "epoch_2.pth")
    os.utime(tmp_path / "epoch_2.pth", (200, 200))  # a new run wrote it again, and died before it was split
    assert not hook._is_split(tmp_path / "epoch_2.pth")


def test_checkpoint_without_all_of_its_networks_is_not_split(hook, tmp_path):
    (tmp_path / "b_epoch_2.pth").unlink()
    assert not hook._is_split(tmp_path / "epoch_2.pth")
