"""Focal loss of probabilities."""

import math

from lad.losses import ProbabilityFocalLoss, probability_focal_loss

import pytest
import torch
from helpers import fake_cuda
from hypothesis import given, settings
from hypothesis import strategies as st
from mmdet.models.losses import FocalLoss


def test_hand_arithmetic():
    """p = 1/4, gamma 2. For the target class: 1/4 * (3/4)^2 * ln 4 = 0.194948; for another: 3/4 * (1/4)^2 * ln(4/3) =
    0.013485. Background (label 2) has no target class."""
    prob = torch.full((2, 2), 0.25)
    loss = probability_focal_loss(prob, torch.tensor([0, 2]))
    expected = torch.tensor([[0.194948, 0.013485], [0.013485, 0.013485]])
    torch.testing.assert_close(loss, expected, rtol=0, atol=1e-6)
    # gamma 0 and alpha 1/2: half the cross entropy, ln 4 / 2.
    assert probability_focal_loss(prob[:1, :1], torch.tensor([0]), 0.0, 0.5).item() == pytest.approx(
        math.log(4) / 2
    )


@settings(max_examples=100)
@given(
    logits=st.lists(st.floats(-9, 9), min_size=6, max_size=6),
    labels=st.lists(st.integers(0, 3), min_size=2, max_size=2),
    gamma=st.sampled_from([0.0, 0.5, 1.5, 2.0]),
    alpha=st.sampled_from([0.0, 0.25, 1.0]),
)
def test_value_and_gradient_are_those_of_mmdetections_focal_loss_of_logits(logits, labels, gamma, alpha):
    logit = torch.tensor(logits).view(2, 3).requires_grad_()
    target = torch.tensor(labels)
    kwargs = dict(weight=torch.tensor([0.5, 2.0]), avg_factor=3.0)
    own = ProbabilityFocalLoss(gamma=gamma, alpha=alpha, loss_weight=1.5)(logit.sigmoid(), target, **kwargs)
    peer = FocalLoss(use_sigmoid=True, gamma=gamma, alpha=alpha, loss_weight=1.5)(logit, target, **kwargs)
    torch.testing.assert_close(own, peer, rtol=2e-3, atol=1e-6)
    gradients = [torch.autograd.grad(loss, logit)[0] for loss in (own, peer)]
    torch.testing.assert_close(*gradients, rtol=2e-3, atol=1e-5)


def test_equals_mmdetections_focal_loss_of_probabilities_inside_the_interval():
    generator = torch.Generator().manual_seed(0)
    prob = torch.rand(50, 7, generator=generator) * 0.98 + 0.01
    target = torch.randint(0, 8, (50,), generator=generator)
    own = ProbabilityFocalLoss()(prob, target, reduction_override="none")
    peer = FocalLoss(use_sigmoid=True, activated=True)(prob, target, reduction_override="none")
    torch.testing.assert_close(own, peer, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
@pytest.mark.parametrize("gamma", [0.0, 0.5, 2.0])
def test_exact_0_and_1_have_finite_values_and_gradients_that_point_to_the_target(dtype, gamma):
    tiny = torch.finfo(dtype).tiny
    prob = torch.tensor([[0.0], [tiny], [0.5], [1.0 - torch.finfo(dtype).eps], [1.0]]).to(dtype)
    prob = prob.repeat(2, 2).requires_grad_()
    target = torch.tensor([0] * 5 + [2] * 5)
    loss = probability_focal_loss(prob, target, gamma)
    loss.sum().backward()
    assert loss.dtype == torch.float32
    assert loss.isfinite().all()
    assert prob.grad.isfinite().all()
    # Hit: more probability is better, however wrong; missed (the other class, and background): less is.
    assert (prob.grad[:3, 0] < 0).all()
    assert (prob.grad[2:5, 1] > 0).all()
    assert (prob.grad[7:, :] > 0).all()
    # A certain and right prediction costs nothing, a certain and wrong one much.
    assert loss[4, 0] < 1e-3
    assert loss[0, 1] < 1e-3
    assert loss[0, 0] > 1
    assert loss[4, 1] > 1


def test_module_weighs_averages_and_does_not_touch_the_labels():
    prob, target = torch.full((2, 2), 0.25), torch.tensor([0, 2])
    loss = ProbabilityFocalLoss(loss_weight=2.0)
    assert loss(prob, target).item() == pytest.approx(2 * (0.194948 + 3 * 0.013485) / 4, abs=1e-6)
    weighted = loss(prob, target, torch.tensor([0.0, 1.0]), avg_factor=torch.tensor(4.0))
    assert weighted.item() == pytest.approx(2 * 2 * 0.013485 / 4, abs=1e-6)
    by_class = loss(prob, target, torch.tensor([[1.0, 0.0], [0.0, 0.0]]), avg_factor=1.0)
    assert by_class.item() == pytest.approx(2 * 0.194948, abs=1e-6)
    assert loss(prob, target, reduction_override="sum").item() == pytest.approx(
        2 * (0.194948 + 3 * 0.013485), abs=1e-5
    )
    assert target.tolist() == [0, 2]


def test_no_predictions_sum_to_zero():
    prob = torch.zeros(0, 3, requires_grad=True)
    loss = ProbabilityFocalLoss()(prob, torch.zeros(0, dtype=torch.long), torch.zeros(0), avg_factor=1.0)
    loss.backward()
    assert loss == 0


def test_same_under_autocast():
    prob, target = torch.rand(5, 3), torch.tensor([0, 1, 2, 3, 3])
    with torch.autocast("cpu", torch.bfloat16):
        loss = ProbabilityFocalLoss()(prob, target)
    assert loss == ProbabilityFocalLoss()(prob, target)


def test_mistakes_are_named():
    with pytest.raises(
        ValueError, match=r"need \(N, C\) probabilities and \(N,\) labels, got \(2, 3\) and \(2, 3\)"
    ):
        probability_focal_loss(torch.rand(2, 3), torch.zeros(2, 3).long())
    with pytest.raises(ValueError, match="gamma must not be negative, got -1"):
        probability_focal_loss(torch.rand(2, 3), torch.zeros(2).long(), gamma=-1)
    with pytest.raises(ValueError, match="use_sigmoid must be True"):
        ProbabilityFocalLoss(use_sigmoid=False)


def test_runs_on_cuda_without_waiting():
    with fake_cuda():
        prob = torch.rand(4, 3, device="cuda", requires_grad=True)
        target = torch.zeros(4, dtype=torch.long, device="cuda")
        loss = ProbabilityFocalLoss()(prob, target, target.float(), avg_factor=target.sum())
        assert loss.device.type == "cuda"
