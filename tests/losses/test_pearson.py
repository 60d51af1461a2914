"""Correlation of channels."""

import multiprocessing
import os

from lad.losses import PKDLoss, pearson_distillation_loss
from lad.losses.pearson import standardised

import numpy as np
import pytest
import torch
from fault_runs import free_port
from hypothesis import given, settings
from hypothesis import strategies as st


def random_maps(seed, *shape):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def test_hand_arithmetic():
    """Student (-1, 0, 1): variance 2/3. Teacher (0, 0, 3): mean 1, variance 2. Covariance (1 + 0 + 2) / 3 = 1, so
    r = 1 / sqrt(4/3) = 0.866025 and the loss 1 - r = 0.133975."""
    student, teacher = torch.tensor([[[[-1.0, 0, 1]]]]), torch.tensor([[[[0.0, 0, 3]]]])
    assert pearson_distillation_loss(student, teacher).mean().item() == pytest.approx(0.133975, abs=1e-6)
    assert PKDLoss(loss_weight=6.0)(student, teacher).item() == pytest.approx(6 * 0.133975, abs=1e-5)
    # Correlated the other way round: 1 + r.
    assert PKDLoss()(student, -teacher).item() == pytest.approx(1.866025, abs=1e-6)
    # Two images are one sample of positions: -1, 0, 1 and 0, 0, 3 with the positions shared out.
    halves = torch.tensor([[[[-1.0]]], [[[0.0]]], [[[1.0]]]]), torch.tensor([[[[0.0]]], [[[0.0]]], [[[3.0]]]])
    assert PKDLoss()(*halves).item() == pytest.approx(0.133975, abs=1e-6)


def test_mean_is_one_minus_numpys_correlation():
    student, teacher = random_maps(0, 3, 4, 5, 6), random_maps(1, 3, 4, 5, 6)
    channels = [maps.transpose(0, 1).flatten(1).double().numpy() for maps in (student, teacher)]
    expected = np.mean([1 - np.corrcoef(s, t)[0, 1] for s, t in zip(*channels, strict=True)])
    assert pearson_distillation_loss(student, teacher).mean().item() == pytest.approx(expected, rel=1e-5)


@settings(max_examples=60)
@given(seed=st.integers(0, 10**6), scale=st.floats(0.05, 100), shift=st.floats(-5, 5))
def test_scale_and_shift_of_a_channel_do_not_matter_and_equals_cost_nothing(seed, scale, shift):
    student, teacher = random_maps(seed, 2, 3, 3, 5), random_maps(seed + 1, 2, 3, 3, 5)
    expected = pearson_distillation_loss(student, teacher).mean(dim=(0, 2, 3))
    factor = torch.tensor([scale, 1, 2])[:, None, None]
    changed = pearson_distillation_loss(factor * student + shift, teacher / factor).mean(dim=(0, 2, 3))
    torch.testing.assert_close(changed, expected, rtol=1e-2, atol=1e-4)
    order = [2, 0, 1]
    permuted = pearson_distillation_loss(student[:, order], teacher[:, order]).mean(dim=(0, 2, 3))
    torch.testing.assert_close(permuted, expected[order])
    assert pearson_distillation_loss(student, student).max() == 0
    assert ((expected >= 0) & (expected <= 2)).all()


def test_step_against_the_gradient_lowers_the_loss():
    student, teacher = (
        random_maps(0, 1, 3, 4, 4).requires_grad_(),
        random_maps(1, 1, 3, 4, 4).requires_grad_(),
    )
    loss = pearson_distillation_loss(student, teacher).mean()
    loss.backward()
    assert teacher.grad is None
    with torch.no_grad():
        nearer = student - student.grad
    assert pearson_distillation_loss(nearer, teacher).mean() < loss


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
@pytest.mark.parametrize("value", [0.0, 1e-3, 100.3, 6e4])
def test_constant_channel_has_no_pattern_and_a_gradient_that_does_no_harm(dtype, value):
    """The other channel's variance is 1: half of it is lost."""
    student = torch.full((2, 1, 4, 4), value, dtype=dtype, requires_grad=True)
    teacher = random_maps(0, 2, 1, 4, 4).to(dtype)
    loss = pearson_distillation_loss(student, teacher).mean()
    assert loss.dtype == torch.float32
    assert loss.item() == pytest.approx(0.5, abs=0.01)
    loss.backward()
    assert student.grad.isfinite().all()
    assert pearson_distillation_loss(student, torch.full_like(student, 7)).max() < 1e-3


def test_shapes_are_checked():
    with pytest.raises(ValueError, match=r"got \(1, 2, 3, 3\) \(student\) and \(1, 3, 3, 3\)"):
        pearson_distillation_loss(torch.zeros(1, 2, 3, 3), torch.zeros(1, 3, 3, 3))


def _rank(rank, port, cut, reduction, student, teacher, results):
    os.environ.update(MASTER_ADDR="localhost", MASTER_PORT=str(port))
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", rank=rank, world_size=2)
    part = (slice(None), slice(None), slice(None), slice(cut) if rank == 0 else slice(cut, None))
    own = student.clone().requires_grad_()
    loss = PKDLoss(reduction=reduction)(own[part], teacher[part])
    loss.backward()
    # DDP's sum of the gradients of the two processes.
    torch.distributed.all_reduce(own.grad)
    alone = PKDLoss(sync=False, reduction=reduction)(student[part], teacher[part])
    results[rank] = (loss.item(), alone.item(), own.grad.tolist())
    torch.distributed.destroy_process_group()


@pytest.mark.parametrize(("cut", "reduction"), [(4, "mean"), (1, "mean"), (1, "sum")])
def test_two_processes_have_the_loss_and_the_gradient_of_the_whole_batch_whatever_their_sizes(cut, reduction):
    """The sum of their sums, the mean of their means."""
    student, teacher = random_maps(0, 2, 3, 4, 8), random_maps(1, 2, 3, 4, 8)
    student[..., cut:] += 2  # the statistics of the two processes differ
    whole = student.clone().requires_grad_()
    loss = PKDLoss(reduction=reduction)(whole, teacher)
    loss.backward()
    share = 0.5 if reduction == "mean" else 1
    context = multiprocessing.get_context("fork")
    with context.Manager() as manager:
        results, port = manager.dict(), free_port()
        ranks = [
            context.Process(target=_rank, args=(rank, port, cut, reduction, student, teacher, results))
            for rank in (0, 1)
        ]
        for process in ranks:
            process.start()
        for process in ranks:
            process.join(60)
        losses, alone, gradients = zip(*(results[rank] for rank in (0, 1)), strict=True)
    assert share * sum(losses) == pytest.approx(loss.item(), rel=1e-5)
    assert share * sum(alone) != pytest.approx(loss.item(), rel=1e-2)
    torch.testing.assert_close(share * torch.tensor(gradients[0]), whole.grad, rtol=1e-4, atol=1e-5)


def test_two_messages_for_a_pair_of_maps_and_no_gradient_for_the_teachers_part(monkeypatch):
    """One with the sums of both and the number of positions, one with the squares; doubled as by an equal process."""
    sent = []

    def double(values):
        sent.append(values.detach().clone())
        return 2 * values

    monkeypatch.setattr("lad.losses.pearson.sum_over_processes", double)
    monkeypatch.setattr("lad.losses.pearson.get_world_size", lambda: 2)
    student, teacher = random_maps(0, 2, 3, 4, 5).requires_grad_(), random_maps(1, 2, 3, 4, 5)
    loss = PKDLoss()(student, teacher)
    torch.testing.assert_close(loss, PKDLoss(sync=False)(student, teacher))
    assert [len(message) for message in sent] == [7, 6]
    assert sent[0][-1] == 40
    (own, taught), _ = standardised([student, teacher])
    assert own.requires_grad
    assert not taught.requires_grad
