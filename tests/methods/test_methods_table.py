"""The table of docs/methods.md: what it says works is trained, and what it says does not is refused."""

import copy

from lad.errors import ConfigError, UnsupportedError

import pytest
import torch
from helpers import at, make_batch
from method_table import (
    FAST,
    MODELS_OF,
    TABLE,
    configs_of,
    distil,
    distillation_methods,
    everything_on,
    is_joint,
    learn_together,
)
from seam_detectors import set_epoch
from two_stage_detectors import with_masks

DETECTORS = [name if name in FAST else pytest.param(name, marks=pytest.mark.slow) for name in MODELS_OF]


def test_every_method_and_every_detector_of_the_tests_has_a_place_in_the_table():
    assert distillation_methods() == set(TABLE)
    assert all(set(cells) == set(MODELS_OF) for cells in TABLE.values())
    assert {cell if cell == "yes" else "no" for cells in TABLE.values() for cell in cells.values()} == {
        "yes",
        "no",
    }


@pytest.mark.parametrize("detector", DETECTORS)
def test_methods_that_work_train_together_and_the_others_are_refused(detector, tmp_path):
    torch.manual_seed(0)
    set_epoch(100)  # TOOD's own assigner
    single = [method for method in TABLE if not is_joint(method)]
    model = everything_on(detector, tmp_path)
    inputs, samples = make_batch((2, 3), (96, 128))
    if getattr(model.student, "with_mask", False):
        with_masks(samples)
    for place in (0, 10**9):
        at(model, place)
        losses, _ = model.parse_losses(model.train().loss(inputs, copy.deepcopy(samples)))
        losses.backward()
    gradients = {name: p.grad for name, p in model.named_parameters() if p.requires_grad}
    assert [name for name, gradient in gradients.items() if gradient is None] == []
    assert all(gradient.isfinite().all() for gradient in gradients.values())
    adapters = [gradient for name, gradient in gradients.items() if name.startswith("distillation.")]
    assert adapters
    assert any(bool(gradient.any()) for gradient in adapters)

    for method in single:
        if TABLE[method][detector] != "yes":
            for config in configs_of(method):
                with pytest.raises((ConfigError, UnsupportedError)) as refused:
                    distil(detector, [config], tmp_path)
                assert len(str(refused.value)) > 40


@pytest.mark.parametrize("detector", DETECTORS)
@pytest.mark.parametrize("method", [method for method in TABLE if is_joint(method)])
def test_joint_method_trains_its_networks_or_is_refused(detector, method):
    torch.manual_seed(0)
    set_epoch(100)
    if TABLE[method][detector] != "yes":
        with pytest.raises(UnsupportedError) as refused:
            learn_together(detector, method)
        assert len(str(refused.value)) > 40
        return
    model = learn_together(detector, method).train()
    inputs, samples = make_batch((2, 3), (96, 128))
    if getattr(model.student, "with_mask", False):
        with_masks(samples)
    losses, _ = model.parse_losses(model.loss(inputs, samples))
    losses.backward()
    gradients = {name: p.grad for name, p in model.named_parameters() if p.requires_grad}
    assert [name for name, gradient in gradients.items() if gradient is None] == []
    assert all(gradient.isfinite().all() for gradient in gradients.values())
