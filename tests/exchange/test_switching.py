"""Role-switch criteria against plain NumPy, by hand, and on groups where official code fails."""

import math

from lad.assignment.paa import reassign
from lad.errors import ConfigError
from lad.exchange.co_learning.paa import separation
from lad.exchange.switching import (
    PER,
    FisherSwitch,
    Membership,
    Separation,
    StdMeanSwitch,
    separation_of_sides,
    teaching_share,
)

import numpy as np
import pytest
import torch
from helpers import fake_cuda
from hypothesis import given, settings
from hypothesis import strategies as st


def no_mixture(number):
    raise AssertionError("sigma / mu needs no mixture")


def below_median(losses, membership):
    """Replacement of mixtures: the sides of the lower and the upper half of all losses."""

    def halves(number):
        low = losses[number] < losses[number].median()
        return separation_of_sides(losses[number], low, membership.gt, membership.num_gts)

    return halves


def one_object(count, levels=1):
    zeros = torch.zeros(count, dtype=torch.long)
    return Membership(zeros, zeros, torch.arange(count) % levels, 1, 1, levels)


def test_std_mean_by_hand():
    """1, 2, 3: mean 2, unbiased std 1, criterion 0.5. 2, 2, 5: mean 3, std sqrt(3), criterion 0.57735."""
    losses = torch.tensor([[1.0, 2.0, 3.0], [2.0, 2.0, 5.0]])
    roles = StdMeanSwitch("gt")(losses, one_object(3), no_mixture)
    assert roles.mean.tolist() == [2, 3]
    assert roles.std.tolist() == pytest.approx([1, math.sqrt(3)])
    assert roles.criterion.tolist() == pytest.approx([0.5, math.sqrt(3) / 3])
    assert roles.teacher.tolist() == [1, 1, 1]
    assert roles.share.tolist() == [0, 1]


def gaussians(*rows, defined=None):
    """Objects' components as (mu+, mu-, sigma+^2, sigma-^2)."""
    table = torch.tensor(rows, dtype=torch.float64)
    defined = torch.ones(len(table), dtype=torch.bool) if defined is None else torch.tensor(defined)
    return Separation(table[:, :2], table[:, 2:], defined)


def test_fisher_by_hand():
    """(1.5 - 6)^2 / (0.25 + 1) = 16.2, and (2 - 4)^2 / (1 + 0) = 4, whatever the losses themselves are."""
    networks = [gaussians((1.5, 6, 0.25, 1)), gaussians((2, 4, 1, 0))]
    roles = FisherSwitch()(torch.rand(2, 4), one_object(4), networks.__getitem__)
    assert roles.criterion.tolist() == pytest.approx([16.2, 4])
    assert roles.teacher.tolist() == [0, 0, 0, 0]


def test_fisher_score_of_an_image_is_the_mean_over_its_objects_with_candidates():
    gt = torch.tensor([0, 0, 1, 1, 3, 3])  # object 2 has none
    membership = Membership(torch.tensor([0, 0, 0, 0, 1, 1]), gt, torch.zeros(6, dtype=torch.long), 2, 4, 1)
    networks = [
        gaussians((0, 2, 1, 1), (0, 4, 1, 1), (0, 90, 1, 1), (0, 1, 1, 1)),  # 2, 8, -, 0.5
        gaussians(
            (0, 4, 1, 1), (0, 0, 1, 1), (0, 0, 1, 1), (0, 6, 1, 1), defined=[True, False, True, True]
        ),  # 8, 0, -, 18
    ]
    by_image = FisherSwitch("image").statistics(torch.rand(2, 6), membership, networks.__getitem__)
    torch.testing.assert_close(by_image.criterion, torch.tensor([[5, 0.5], [4, 18]], dtype=torch.float64))
    in_all = FisherSwitch("batch").statistics(torch.rand(2, 6), membership, networks.__getitem__)
    assert in_all.criterion[:, 0].tolist() == pytest.approx([10.5 / 3, 26 / 3])


def test_sides_have_the_moments_of_their_losses():
    """1, 2 against 5, 7: means 1.5 and 6, variances 0.25 and 1. Of the second object nothing is high."""
    losses, gt = torch.tensor([1.0, 2.0, 5.0, 7.0, 3.0]), torch.tensor([0, 0, 0, 0, 1])
    found = separation_of_sides(losses, torch.tensor([True, True, False, False, True]), gt, 3)
    assert found.mean[0].tolist() == [1.5, 6]
    assert found.variance[0].tolist() == pytest.approx([0.25 + 1e-6, 1 + 1e-6])
    assert found.defined.tolist() == [True, False, False]
    assert found.score.tolist() == pytest.approx([20.25 / 1.250002, 0, 0])


def paa_batch(objects, levels=5, each=9, seed=0):
    """Two networks' losses of the same candidates, whose size depends on the level as it does in a pyramid."""
    generator = torch.Generator().manual_seed(seed)
    gt = torch.arange(objects).repeat_interleave(levels * each)
    level = torch.arange(levels).repeat_interleave(each).repeat(objects)
    losses = 1 + level + torch.rand(2, len(gt), generator=generator)
    return losses, Membership(torch.zeros_like(gt), gt, level, 1, objects, levels)


def paa_separations(losses, membership):
    return [
        separation(
            reassign(own, membership.gt, membership.level, num_gts=membership.num_gts, num_levels=5, topk=9)
        )
        for own in losses
    ]


def test_fisher_score_of_two_networks_alike_favours_neither_and_follows_their_order():
    losses, membership = paa_batch(objects=200)
    found = paa_separations(losses, membership)
    roles = FisherSwitch()(losses, membership, found.__getitem__)
    assert 0.4 < roles.share[0] < 0.6
    swapped = FisherSwitch()(losses.flip(0), membership, found[::-1].__getitem__)
    assert torch.equal(swapped.teacher, 1 - roles.teacher)
    # The better separated by far teaches, whichever is named first.
    wide = torch.stack([losses[0], losses[1] + 50.0 * (membership.level > 2)])
    found = paa_separations(wide, membership)
    assert FisherSwitch()(wide, membership, found.__getitem__).share.tolist() == [0, 1]
    assert FisherSwitch()(wide.flip(0), membership, found[::-1].__getitem__).share.tolist() == [1, 0]


def test_fisher_score_is_of_the_mixtures_parameters():
    from sklearn.mixture import GaussianMixture

    generator = torch.Generator().manual_seed(0)
    losses = torch.cat(
        [torch.randn(20, generator=generator) * 0.3 + 2, torch.randn(25, generator=generator) + 5]
    )
    zeros = torch.zeros(45, dtype=torch.long)
    found = separation(reassign(losses, zeros, zeros, num_gts=1, num_levels=1, topk=45))
    means = [[float(losses.min())], [float(losses.max())]]
    fitted = GaussianMixture(2, weights_init=[0.5, 0.5], means_init=means, precisions_init=[[[1.0]], [[1.0]]])
    fitted.fit(losses.double()[:, None].numpy())
    expected = (fitted.means_[0, 0] - fitted.means_[1, 0]) ** 2 / fitted.covariances_.sum()
    assert found.score.tolist() == pytest.approx([expected], rel=1e-6)


def transcription(kind, losses, membership, separations, per):
    """The definitions, group by group, in NumPy; returns teachers and the share of objects."""
    losses = losses.double().numpy()
    scores_of = [separations(number).score.tolist() for number in range(len(losses))]
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
                objects = {membership.gt[k].item() for k in members}
                scores.append(sum(scores_of[network][gt] for gt in objects) / len(objects))
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


@pytest.mark.parametrize(
    ("kind", "per"), [(StdMeanSwitch, per) for per in PER] + [(FisherSwitch, per) for per in PER[:3]]
)
@given(batches())
@settings(max_examples=40)
def test_criteria_equal_a_numpy_transcription(kind, per, batch):
    losses, membership = batch
    roles = kind(per)(losses, membership, below_median(losses, membership))
    teacher, share = transcription(kind, losses, membership, below_median(losses, membership), per)
    np.testing.assert_array_equal(roles.teacher.numpy(), teacher)
    np.testing.assert_allclose(roles.share.numpy(), share, atol=1e-12)


def test_of_one_candidate_alone_the_smaller_loss_teaches():
    losses = torch.tensor([[3.0], [1.0]])
    membership = one_object(1)
    for kind in (StdMeanSwitch, FisherSwitch):
        roles = kind("gt")(losses, membership, below_median(losses, membership))
        assert roles.teacher.tolist() == [1]
        assert roles.std.tolist() == roles.criterion.tolist() == [0, 0]
        assert roles.mean.tolist() == [3, 1]


def test_equal_networks_are_taught_by_the_first():
    losses, membership = torch.rand(1, 9).expand(2, 9), one_object(9)
    for kind in (StdMeanSwitch, FisherSwitch):
        assert kind("gt")(losses, membership, below_median(losses, membership)).share.tolist() == [1, 0]


def test_no_candidates_give_zeros_and_no_nan():
    empty = torch.zeros(0, dtype=torch.long)
    roles = StdMeanSwitch("gt")(torch.zeros(2, 0), Membership(empty, empty, empty, 2, 0, 5), no_mixture)
    assert roles.teacher.shape == (0,)
    assert [*roles.share, *roles.mean, *roles.std, *roles.criterion] == [0] * 8


def test_losses_of_zero_and_a_mixture_of_one_side_are_no_nan():
    roles = StdMeanSwitch("gt")(torch.zeros(2, 4), one_object(4), no_mixture)
    assert roles.criterion.tolist() == [0, 0]
    losses, everything = torch.rand(2, 4), torch.ones(4, dtype=torch.bool)
    roles = FisherSwitch()(
        losses,
        one_object(4),
        lambda own: separation_of_sides(losses[own], everything, torch.zeros(4, dtype=torch.long), 1),
    )
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
    with pytest.raises(
        ConfigError, match=r"per='gt_level' has no Fisher score.*use per='gt', 'image' or 'batch'"
    ):
        FisherSwitch("gt_level")
    assert (StdMeanSwitch().per, FisherSwitch().per) == ("gt_level", "gt")


@pytest.mark.parametrize("bad", [math.nan, math.inf])
@pytest.mark.parametrize(
    ("kind", "per"), [(StdMeanSwitch, "gt_level"), (StdMeanSwitch, "batch"), (FisherSwitch, "gt")]
)
def test_a_network_whose_losses_are_not_finite_does_not_teach_while_another_could(kind, per, bad):
    losses, membership = paa_batch(objects=4)
    losses[0, membership.gt < 2] = bad  # all of two objects, of which sigma / mu is not finite
    found = paa_separations(losses, membership)
    roles = kind(per)(losses, membership, found.__getitem__)
    assert (roles.teacher[membership.gt < 2] == 1).all()
    swapped = kind(per)(losses.flip(0), membership, found[::-1].__getitem__)
    assert (swapped.teacher[membership.gt < 2] == 0).all()
    # A single candidate is no exception, and where no network is finite there is one all the same.
    alone = torch.tensor([[bad], [3.0]])
    assert kind(per)(alone, one_object(1), lambda own: gaussians((0, 0, 1, 1))).teacher.tolist() == [1]
    none = torch.full((2, 3), bad)
    assert kind(per)(none, one_object(3), lambda own: gaussians((bad, 0, 1, 1))).teacher.tolist() == [0, 0, 0]


@pytest.mark.parametrize("kind", [StdMeanSwitch, FisherSwitch])
def test_switch_runs_on_a_gpu_without_waiting(kind):
    with fake_cuda():
        losses = torch.rand(2, 30, device="cuda")
        index = torch.zeros(30, dtype=torch.long, device="cuda")
        low = torch.ones(30, dtype=torch.bool, device="cuda")
        roles = kind()(
            losses,
            Membership(index, index, index, 1, 3, 5),
            lambda own: separation_of_sides(losses[own], low, index, 3),
        )
        assert roles.teacher.device.type == roles.share.device.type == "cuda"
