"""Role-switch criteria against plain NumPy, by hand, and on groups where official code fails."""

import math

from lad.errors import ConfigError
from lad.exchange.switching import PER, FisherSwitch, Membership, Sides, StdMeanSwitch, teaching_share

import numpy as np
import pytest
import torch
from helpers import fake_cuda
from hypothesis import given, settings
from hypothesis import strategies as st


def no_sides(number):
    raise AssertionError("sigma / mu needs no mixture")


def below_median(losses):
    """Replacement of mixtures: the lower half is positive, and the largest loss did not enter it."""

    def sides(number):
        order = losses[number].argsort(stable=True).argsort()
        count = len(order)
        return Sides(positive=order < (count + 1) // 2, member=order < max(count - 1, 1))

    return sides


def one_object(count, levels=1):
    zeros = torch.zeros(count, dtype=torch.long)
    return Membership(zeros, zeros, torch.arange(count) % levels, 1, 1, levels)


def test_std_mean_by_hand():
    """1, 2, 3: mean 2, unbiased std 1, criterion 0.5. 2, 2, 5: mean 3, std sqrt(3), criterion 0.57735."""
    losses = torch.tensor([[1.0, 2.0, 3.0], [2.0, 2.0, 5.0]])
    roles = StdMeanSwitch("gt")(losses, one_object(3), no_sides)
    assert roles.mean.tolist() == [2, 3]
    assert roles.std.tolist() == pytest.approx([1, math.sqrt(3)])
    assert roles.criterion.tolist() == pytest.approx([0.5, math.sqrt(3) / 3])
    assert roles.teacher.tolist() == [1, 1, 1]
    assert roles.share.tolist() == [0, 1]


def test_fisher_by_hand():
    """First network: 1, 2 against 5, 7: means 1.5 and 6, variances 0.25 and 1: 20.25 / 1.25 = 16.2.
    Second: 1, 3 against 4, 4: means 2 and 4, variances 1 and 0: 4 / 1 = 4."""
    losses = torch.tensor([[1.0, 2.0, 5.0, 7.0], [1.0, 3.0, 4.0, 4.0]])
    sides = Sides(torch.tensor([True, True, False, False]), torch.ones(4, dtype=torch.bool))
    roles = FisherSwitch("gt")(losses, one_object(4), lambda own: sides)
    assert roles.criterion.tolist() == pytest.approx([16.2, 4], rel=1e-5)
    assert roles.teacher.tolist() == [0, 0, 0, 0]


def transcription(kind, losses, membership, sides, per):
    """The definitions, group by group, in NumPy; returns teachers and the share of objects."""
    losses = losses.double().numpy()
    split = [sides(number) for number in range(len(losses))]
    keys = {
        "batch": lambda k: 0,
        "image": lambda k: membership.image[k].item(),
        "gt": lambda k: membership.gt[k].item(),
        "gt_level": lambda k: (membership.gt[k].item(), membership.level[k].item()),
    }[per]
    groups = {}
    for k in range(losses.shape[1]):
        groups.setdefault(keys(k), []).append(k)
    teacher = np.zeros(losses.shape[1], dtype=int)
    for members in groups.values():
        scores = []
        for network, own in enumerate(losses):
            values = own[members]
            if len(members) == 1:
                scores.append(-values[0])
            elif kind is StdMeanSwitch:
                scores.append(values.std(ddof=1) / max(values.mean(), 1e-12))
            else:
                seen = split[network].member.numpy()[members]
                low = split[network].positive.numpy()[members]
                plus, minus = values[seen & low], values[seen & ~low]
                scores.append(
                    (plus.mean() - minus.mean()) ** 2 / (plus.var() + minus.var() + 2e-6)
                    if len(plus) and len(minus)
                    else 0.0
                )
        best = max(scores)
        teacher[members] = next(
            i for i, score in enumerate(scores) if math.isclose(score, best, rel_tol=1e-9)
        )
    shares = np.zeros((membership.num_gts, len(losses)))
    for gt in range(membership.num_gts):
        cells = {
            (membership.level[k].item(), teacher[k]) for k in range(len(teacher)) if membership.gt[k] == gt
        }
        for _, winner in cells:
            shares[gt, winner] += 1 / len(cells)
    taught = shares.sum(1) > 0
    return teacher, shares[taught].mean(0) if taught.any() else np.zeros(len(losses))


@st.composite
def batches(draw):
    count = draw(st.integers(1, 25))
    num_gts, num_levels, num_images = (
        draw(st.integers(1, 5)),
        draw(st.integers(1, 3)),
        draw(st.integers(1, 3)),
    )
    generator = torch.Generator().manual_seed(draw(st.integers(0, 10_000)))
    gt = torch.randint(num_gts, (count,), generator=generator)
    level = torch.randint(num_levels, (count,), generator=generator)
    losses = torch.rand(draw(st.integers(2, 3)), count, generator=generator) * 5
    return losses, Membership(gt % num_images, gt, level, num_images, num_gts, num_levels)


@pytest.mark.parametrize("kind", [StdMeanSwitch, FisherSwitch])
@pytest.mark.parametrize("per", PER)
@given(batches())
@settings(max_examples=40, deadline=None)
def test_criteria_equal_a_numpy_transcription(kind, per, batch):
    losses, membership = batch
    roles = kind(per)(losses, membership, below_median(losses))
    teacher, share = transcription(kind, losses, membership, below_median(losses), per)
    np.testing.assert_array_equal(roles.teacher.numpy(), teacher)
    np.testing.assert_allclose(roles.share.numpy(), share, atol=1e-12)


def test_of_one_candidate_alone_the_smaller_loss_teaches():
    losses = torch.tensor([[3.0], [1.0]])
    for kind in (StdMeanSwitch, FisherSwitch):
        roles = kind("gt_level")(losses, one_object(1), below_median(losses))
        assert roles.teacher.tolist() == [1]
        assert roles.std.tolist() == roles.criterion.tolist() == [0, 0]
        assert roles.mean.tolist() == [3, 1]


def test_equal_networks_are_taught_by_the_first():
    losses = torch.rand(1, 9).expand(2, 9)
    for kind in (StdMeanSwitch, FisherSwitch):
        assert kind("gt")(losses, one_object(9), below_median(losses)).share.tolist() == [1, 0]


def test_no_candidates_give_zeros_and_no_nan():
    empty = torch.zeros(0, dtype=torch.long)
    roles = StdMeanSwitch("gt")(torch.zeros(2, 0), Membership(empty, empty, empty, 2, 0, 5), no_sides)
    assert roles.teacher.shape == (0,)
    assert [*roles.share, *roles.mean, *roles.std, *roles.criterion] == [0] * 8


def test_losses_of_zero_and_a_mixture_of_one_side_are_no_nan():
    roles = StdMeanSwitch("gt")(torch.zeros(2, 4), one_object(4), no_sides)
    assert roles.criterion.tolist() == [0, 0]
    everything = torch.ones(4, dtype=torch.bool)
    roles = FisherSwitch("gt")(torch.rand(2, 4), one_object(4), lambda own: Sides(everything, everything))
    assert roles.criterion.tolist() == [0, 0]


def test_object_taught_by_both_on_different_levels_counts_in_halves():
    membership = Membership(
        image=torch.zeros(4, dtype=torch.long),
        gt=torch.tensor([0, 0, 0, 2]),
        level=torch.tensor([0, 0, 1, 1]),
        num_images=1,
        num_gts=3,
        num_levels=2,
    )
    # Object 0: network 0 on level 0, network 1 on level 1. Object 1 has no candidate. Object 2: network 1.
    share = teaching_share(torch.tensor([0, 0, 1, 1]), membership, 2)
    assert share.tolist() == [0.25, 0.75]


def test_unknown_group_is_refused_with_the_known_ones():
    with pytest.raises(ConfigError, match="per must be one of batch, image, gt, gt_level, got 'object'"):
        StdMeanSwitch("object")


@pytest.mark.parametrize("kind", [StdMeanSwitch, FisherSwitch])
def test_switch_runs_on_a_gpu_without_waiting(kind):
    with fake_cuda():
        losses = torch.rand(2, 30, device="cuda")
        index = torch.zeros(30, dtype=torch.long, device="cuda")
        seen = torch.ones(30, dtype=torch.bool, device="cuda")
        roles = kind("gt_level")(
            losses, Membership(index, index, index, 1, 3, 5), lambda own: Sides(seen, seen)
        )
        assert roles.teacher.device.type == roles.share.device.type == "cuda"
