"""Factors of a method's losses that follow the learner's own loss."""

from __future__ import annotations

import math

from lad.base.progress import Progress
from lad.detectors.loss_ratio import build_factor
from lad.errors import ConfigError

import pytest
import torch
from helpers import build, distillation_of, fake_cuda, make_batch, small_paa
from mmdet.registry import MODELS

HINT = dict(type="HintDistillation")
RATIO = dict(type="loss_ratio", ratio=0.5)
START = Progress(0, 0)
OWN = ("loss_cls", "loss_bbox", "loss_iou")


def factor(own, terms, ratio=0.5):
    return build_factor(dict(type="loss_ratio", ratio=ratio), "test").at(START, own, terms)


def test_hand_arithmetic():
    """Own losses 1 + (2 + 3), the mean of a tensor as MMEngine takes it; terms 4: half of 6 is 3/4 of 4."""
    levels = [torch.tensor(2.0), torch.tensor(3.0)]
    own = dict(loss_cls=torch.tensor([0.0, 2.0]), loss_bbox=levels, acc=torch.tensor(99.0))
    terms = dict(loss_a=torch.tensor(3.0), loss_b=torch.tensor(1.0), weight_a=torch.tensor(7.0))
    assert factor(own, terms) == 0.75


@pytest.mark.parametrize(
    ("own", "taught"), [(1.0, 0.0), (math.nan, 1.0), (1.0, math.nan), (math.inf, 1.0), (1.0, math.inf)]
)
def test_what_gives_no_factor_leaves_the_method_out(own, taught):
    assert factor(dict(loss=torch.tensor(own)), dict(loss_a=torch.tensor(taught))) == 0


def test_method_without_terms_of_its_own_is_refused(tmp_path):
    """LAD changes the assignment of the own loss."""
    with pytest.raises(ConfigError, match="it adds no loss terms that factor could multiply"):
        distillation_of(
            tmp_path,
            small_paa(),
            small_paa(base=16),
            dict(type="LabelAssignmentDistillation", factor=RATIO),
        )


def test_ratio_may_be_a_schedule():
    built = build_factor(dict(RATIO, ratio=dict(type="linear", start=1.0, end=0.0, iters=4)), "test")
    losses = dict(loss=torch.tensor(2.0)), dict(loss_a=torch.tensor(1.0))
    found = [built.at(Progress(iteration=iteration, epoch=0), *losses).item() for iteration in (0, 2, 4)]
    assert found == [2.0, 1.0, 0.0]


def test_nothing_to_weigh_is_on_the_device_of_the_own_loss():
    with fake_cuda():
        found = build_factor(RATIO, "test").at(START, dict(loss=torch.ones((), device="cuda")), {})
        assert found.device.type == "cuda"


def test_factor_waits_for_no_device():
    with fake_cuda():
        own, terms = dict(loss=torch.ones((), device="cuda")), dict(loss_a=torch.ones((), device="cuda"))
        assert factor(own, terms).device.type == "cuda"


@pytest.mark.parametrize("ratio", [0.5, 3.0])
def test_losses_of_a_method_are_a_part_of_the_own_loss_whatever_their_weight(tmp_path, ratio):
    found = []
    for gamma in (0.5, 500.0):
        torch.manual_seed(0)
        method = dict(HINT, gamma=gamma, factor=dict(RATIO, ratio=ratio))
        model = distillation_of(tmp_path, small_paa(), small_paa(base=16), method)
        losses = model.loss_at(START, *make_batch())
        own = sum(losses[name] for name in OWN)
        torch.testing.assert_close(losses["loss_hint"], ratio * own)
        assert losses["factor_HintDistillation"] > 0
        total, logged = model.parse_losses(losses)
        torch.testing.assert_close(total, (1 + ratio) * own)
        assert logged["factor_HintDistillation"] == losses["factor_HintDistillation"]
        total.backward()
        found.append({name: value.grad for name, value in model.named_parameters()})
    for name, gradient in found[0].items():
        torch.testing.assert_close(found[1][name], gradient, rtol=1e-3, atol=1e-5)


def test_factor_of_a_method_that_is_called_a_loss_is_not_added_to_the_losses(tmp_path):
    method = dict(HINT, name="hint_loss", factor=RATIO)
    model = distillation_of(tmp_path, small_paa(), small_paa(base=16), method)
    losses = model.loss_at(START, *make_batch())
    assert "factor_hint_term" in losses
    total, _ = model.parse_losses(losses)
    torch.testing.assert_close(total, 1.5 * sum(losses[name] for name in OWN))


def test_each_learner_follows_its_own_loss():
    networks = dict(a=small_paa(), b=small_paa(base=16))
    method = dict(HINT, learner="b", taught_by="a", factor=RATIO)
    model = MODELS.build(dict(type="DistillationDetector", networks=networks, methods=[method]))
    for name, config in networks.items():
        model.trained_networks[name].load_state_dict(build(config).state_dict())
    losses = model.loss_at(START, *make_batch())
    [hint] = [value for name, value in losses.items() if name.endswith("loss_hint")]
    torch.testing.assert_close(hint, 0.5 * sum(losses[f"b.{name}"] for name in OWN))


@pytest.mark.parametrize(
    "setting",
    [dict(type="loss_ratio"), dict(RATIO, start=1), dict(RATIO, ratio="half"), dict(RATIO, ratio=-1.0)],
)
def test_wrong_settings_are_one_line(setting):
    with pytest.raises(ConfigError, match="factor") as refused:
        build_factor(setting, "HintDistillation: factor")
    assert "\n" not in str(refused.value)


def test_where_there_is_no_single_own_loss_it_is_refused(tmp_path):
    soft = dict(type="SoftLabelDistillation", weights="teacher", factor=RATIO)
    with pytest.raises(ConfigError, match="student_loss=False leaves no own loss"):
        distillation_of(tmp_path, small_paa(), small_paa(base=16), soft, student_loss=False)
    networks = dict(a=small_paa(), b=small_paa(base=16))
    mutual = dict(type="MutualLogitDistillation", factor=RATIO)
    with pytest.raises(ConfigError, match="it trains several networks"):
        MODELS.build(dict(type="DistillationDetector", networks=networks, methods=[mutual]))
