from __future__ import annotations

import lad  # noqa: F401  provides mmcv._ext, which mmcv.ops loads when it is imported

# isort: split

import math

import numpy as np
import pytest
import torch
from mmcv.ops import sigmoid_focal_loss, softmax_focal_loss
from torch.autograd import gradcheck

TINY = float(np.finfo(np.float32).tiny)
PARAMETERS = [(2.0, 0.25), (1.5, 0.75), (0.0, 0.5)]
TARGETS = torch.tensor([0, 3, 1, 4, 2, 4])  # four classes; 4 is the background


def logits(dtype=torch.float64):
    return torch.randn(6, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64).to(dtype) * 3


def sigmoid_reference(x, target, gamma, alpha, weight=None):
    loss = np.zeros(x.shape)
    for (n, c), value in np.ndenumerate(x):
        p = 1 / (1 + math.exp(-value))
        if target[n] == c:
            loss[n, c] = -alpha * (1 - p) ** gamma * math.log(max(p, TINY))
        else:
            loss[n, c] = -(1 - alpha) * p**gamma * math.log(max(1 - p, TINY))
        if weight is not None and target[n] < len(weight):
            loss[n, c] *= weight[target[n]]
    return loss


def softmax_reference(x, target, gamma, alpha, weight=None):
    loss = np.zeros(len(x))
    for n, row in enumerate(x):
        if 0 <= target[n] < x.shape[1]:
            p = math.exp(row[target[n]]) / sum(math.exp(value) for value in row)
            loss[n] = -alpha * (1 - p) ** gamma * math.log(p)
            if weight is not None:
                loss[n] *= weight[target[n]]
    return loss


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize(("gamma", "alpha"), PARAMETERS)
@pytest.mark.parametrize(
    ("operator", "reference"),
    [(sigmoid_focal_loss, sigmoid_reference), (softmax_focal_loss, softmax_reference)],
)
def test_loss_follows_its_definition(operator, reference, gamma, alpha, weighted):
    weight = torch.tensor([0.5, 1.0, 2.0, 3.0], dtype=torch.float64) if weighted else None
    expected = reference(logits().numpy(), TARGETS.tolist(), gamma, alpha, weight)
    loss = operator(logits(), TARGETS, gamma, alpha, weight, "none")
    np.testing.assert_allclose(loss.numpy(), expected, rtol=1e-10)
    for reduction, divisor in (("sum", 1), ("mean", 6)):
        reduced = operator(logits(), TARGETS, gamma, alpha, weight, reduction)
        assert float(reduced) == pytest.approx(expected.sum() / divisor)


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize(("gamma", "alpha"), PARAMETERS)
def test_sigmoid_gradient(gamma, alpha, weighted):
    weight = torch.tensor([0.5, 1.0, 2.0, 3.0], dtype=torch.float64) if weighted else None
    for reduction in ("none", "mean", "sum"):
        assert gradcheck(
            lambda x, reduction=reduction: sigmoid_focal_loss(x, TARGETS, gamma, alpha, weight, reduction),
            logits().requires_grad_(),
        )


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize(("gamma", "alpha"), PARAMETERS)
def test_softmax_gradient(gamma, alpha, weighted):
    weight = torch.tensor([0.5, 1.0, 2.0, 3.0], dtype=torch.float64) if weighted else None
    # Without reduction mmcv's Python side cannot scale the (N, C) gradient by the (N,) of the loss.
    for reduction in ("mean", "sum"):
        assert gradcheck(
            lambda x, reduction=reduction: softmax_focal_loss(x, TARGETS, gamma, alpha, weight, reduction),
            logits().requires_grad_(),
        )


def test_confident_mistakes_cost_a_bounded_amount():
    x = torch.tensor([[40.0, -200.0]], requires_grad=True)
    loss = sigmoid_focal_loss(x, torch.tensor([1]), 2.0, 0.25, None, "none")
    expected = [[-0.75 * math.log(TINY), -0.25 * math.log(TINY)]]
    np.testing.assert_allclose(loss.detach().numpy(), expected, rtol=1e-6)
    loss.sum().backward()
    # p is 1 and 0 in float32: -(1 - alpha) p^2 (... - p) = 0.75, and -alpha (1 - p)^2 (1 - p ...) = -0.25.
    torch.testing.assert_close(x.grad, torch.tensor([[0.75, -0.25]]))


def test_negative_labels_are_background():
    x, ignored = logits(), torch.full((6,), -1)
    background = torch.full((6,), 4)
    torch.testing.assert_close(
        sigmoid_focal_loss(x, ignored, 2.0, 0.25, torch.rand(4).double(), "none"),
        sigmoid_focal_loss(x, background, 2.0, 0.25, None, "none"),
    )
    assert not softmax_focal_loss(x, ignored, 2.0, 0.25, None, "none").any()


@pytest.mark.parametrize("operator", [sigmoid_focal_loss, softmax_focal_loss])
def test_half_precision(operator):
    x = logits(torch.float16).requires_grad_()
    loss = operator(x, TARGETS, 2.0, 0.25, None, "sum")
    loss.backward()
    precise = x.detach().float().requires_grad_()
    expected = operator(precise, TARGETS, 2.0, 0.25, None, "sum")
    expected.backward()
    assert x.grad.dtype == torch.float16
    torch.testing.assert_close(loss.float(), expected, rtol=5e-3, atol=0)
    torch.testing.assert_close(x.grad.float(), precise.grad, rtol=5e-3, atol=2e-3)


def test_no_rows():
    x = torch.zeros(0, 4, requires_grad=True)
    loss = sigmoid_focal_loss(x, torch.zeros(0, dtype=torch.long), 2.0, 0.25, None, "sum")
    loss.backward()
    assert loss.item() == 0
    assert x.grad.shape == (0, 4)


def test_agrees_with_mmdet_focal_loss_on_one_hot_targets():
    from mmdet.models.losses.focal_loss import py_sigmoid_focal_loss

    one_hot = torch.nn.functional.one_hot(TARGETS, 5)[:, :4].double()
    torch.testing.assert_close(
        sigmoid_focal_loss(logits(), TARGETS, 2.0, 0.25, None, "none"),
        py_sigmoid_focal_loss(logits(), one_hot, reduction="none"),
    )
