from __future__ import annotations

import functools
import warnings
from collections import Counter
from dataclasses import dataclass
from types import SimpleNamespace

from lad.assignment.gmm import COVARIANCE_TYPES, TwoGaussians
from lad.assignment.paa import _sort_within_cells, reassign, select_candidates, separate

import mmdet.models.dense_heads.paa_head as mmdet_paa
import numpy as np
import pytest
import torch
from helpers import fake_cuda
from hypothesis import given, settings
from hypothesis import strategies as st

BACKGROUND = 80
KINDS = ("spread", "clusters", "equal", "few", "empty level", "huge", "tiny", "duplicates")
DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


class Float64Mixture(mmdet_paa.skm.GaussianMixture):
    """scikit-learn's mixture, computing in float64 whatever it is given.

    With `noise`, the last digit of log-densities is random, as their many roundings leave it.
    """

    noise: np.random.Generator | None = None

    def fit(self, X, y=None):  # noqa: N803
        return super().fit(np.asarray(X, np.float64))

    def predict(self, X):  # noqa: N803
        return super().predict(np.asarray(X, np.float64))

    def score_samples(self, X):  # noqa: N803
        scores = super().score_samples(np.asarray(X, np.float64))
        if self.noise is not None:
            scores = scores + self.noise.integers(-2, 3, len(scores)) * np.spacing(scores)
        return scores


@pytest.fixture(autouse=True, scope="module")
def _float64_mixture():
    with pytest.MonkeyPatch.context() as patch, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        patch.setattr(mmdet_paa, "skm", SimpleNamespace(GaussianMixture=Float64Mixture))
        yield


@dataclass(frozen=True)
class Image:
    """Candidates of one image: losses, anchor indices (ascending), ground truths and levels."""

    losses: torch.Tensor
    pos_inds: torch.Tensor
    gt: torch.Tensor
    level: torch.Tensor
    sizes: list[int]
    num_gts: int


def draw_losses(rng: np.random.Generator, kind: str, n: int) -> np.ndarray:
    if kind == "clusters":
        return np.where(rng.random(n) < 0.3, rng.normal(1, 0.2, n), rng.normal(4, 0.5, n))
    if kind == "equal":
        return np.full(n, 1.375)
    if kind == "huge":
        return rng.random(n) * 1e6
    if kind == "tiny":
        return rng.random(n) * 1e-8
    if kind == "duplicates":
        return rng.integers(0, 12, n) / 8
    return rng.gamma(3, 0.8, n)


def make_image(rng, kind: str, num_gts: int, num_levels: int, dtype: torch.dtype) -> Image:
    most = 3 if kind == "few" else 16
    counts = rng.integers(0, most, (num_gts, num_levels))
    if kind == "empty level":
        counts[:, rng.integers(num_levels)] = 0
    gt, level = (np.repeat(i.ravel(), counts.ravel()) for i in np.indices(counts.shape))
    sizes = counts.sum(0) + rng.integers(0, 20, num_levels)
    starts = np.concatenate(([0], np.cumsum(sizes)))
    pos_inds = np.empty(len(gt), int)
    for i in range(num_levels):
        here = level == i
        pos_inds[here] = starts[i] + rng.permutation(sizes[i])[: here.sum()]
    order = np.argsort(pos_inds)
    losses = draw_losses(rng, kind, len(gt))
    return Image(
        torch.from_numpy(losses[order]).to(dtype),
        torch.from_numpy(pos_inds[order]),
        torch.from_numpy(gt[order]).long(),
        torch.from_numpy(level[order]).long(),
        [int(size) for size in sizes],
        num_gts,
    )


def mmdet_reassign(image: Image, topk: int, covariance_type: str):
    head = SimpleNamespace(topk=topk, covariance_type=covariance_type, num_classes=BACKGROUND)
    head.gmm_separation_scheme = functools.partial(mmdet_paa.PAAHead.gmm_separation_scheme, head)
    num_anchors = sum(image.sizes)
    labels = torch.full((num_anchors,), BACKGROUND)
    labels[image.pos_inds] = image.gt % BACKGROUND
    label_weights, bbox_weights = torch.ones(num_anchors), torch.zeros(num_anchors, 4)
    bbox_weights[image.pos_inds] = 1
    anchors = [torch.empty(size, 4) for size in image.sizes]
    return mmdet_paa.PAAHead.paa_reassign(
        head, image.losses.double(), labels, label_weights, bbox_weights, image.pos_inds, image.gt, anchors
    )


def positives(image: Image, topk: int, covariance_type: str, losses: torch.Tensor | None = None) -> set[int]:
    """MMDetection's positives among the candidates of an image, as indices of candidates."""
    if losses is not None:
        image = Image(losses, image.pos_inds, image.gt, image.level, image.sizes, image.num_gts)
    labels = mmdet_reassign(image, topk, covariance_type)[0]
    return set((labels[image.pos_inds] < BACKGROUND).nonzero()[:, 0].tolist())


def is_knife_edge(image: Image, mine: set[int], gt: int, topk: int, covariance_type: str) -> bool:
    """Whether MMDetection itself gives this and another answer if the last digits of its numbers change.

    The losses are shifted by a constant, which in exact arithmetic changes nothing, and by noise of the size
    of a float64's rounding; and the log-densities by up to two units in the last place.
    """
    here = (image.gt == gt).nonzero()[:, 0]
    only = Image(
        image.losses[here].double(),
        image.pos_inds[here],
        torch.zeros_like(here),
        image.level[here],
        image.sizes,
        1,
    )
    # Told apart by their losses: noise also decides which of several equal ones are selected.
    wanted = frozenset(image.losses.double()[sorted(mine)].tolist())
    generator = torch.Generator().manual_seed(0)
    answers = set()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Float64Mixture, "noise", np.random.default_rng(0))
        for trial in range(200):
            size = 4e-15 if trial % 2 else 4e-16
            noise = torch.randn(len(here), generator=generator, dtype=torch.float64) * size
            shifted = (only.losses + trial / 2e5) * (1 + noise)
            found = positives(only, topk, covariance_type, shifted)
            answers.add(frozenset(only.losses[sorted(found)].tolist()))
            if len(answers) > 1 and wanted in answers:
                return True
    return False


def same_up_to_ties(mine: list[float], theirs: list[float]) -> bool:
    """Equal, but for candidates as bad as the worst positive: torch.topk takes any one of equal densities."""
    extra = Counter(theirs)
    extra.subtract(Counter(mine))
    return set(mine) == set(theirs) and all(
        n == 0 or (n > 0 and loss == max(theirs)) for loss, n in extra.items()
    )


def compare(images: list[Image], num_levels: int, topk: int, covariance_type: str) -> tuple[int, int]:
    """Compare a batch with MMDetection; return how many ground truths there were and how many knife edges."""
    offsets = np.concatenate(([0], np.cumsum([image.num_gts for image in images])))
    starts = np.concatenate(([0], np.cumsum([len(image.losses) for image in images])))
    result = reassign(
        torch.cat([image.losses for image in images]),
        torch.cat([image.gt + int(offset) for image, offset in zip(images, offsets, strict=False)]),
        torch.cat([image.level for image in images]),
        num_gts=int(offsets[-1]),
        num_levels=num_levels,
        topk=topk,
        covariance_type=covariance_type,
    )
    assert result.mixture.log_density[result.valid].isfinite().all()
    edges = 0
    for number, image in enumerate(images):
        gts = image.gt.tolist()
        rows = slice(int(offsets[number]), int(offsets[number + 1]))
        mine = set((result.candidate[rows][result.positive[rows]] - int(starts[number])).tolist())
        losses = image.losses.double()
        labels, label_weights, bbox_weights, num_pos = mmdet_reassign(image, topk, covariance_type)
        theirs = set((labels[image.pos_inds] < BACKGROUND).nonzero()[:, 0].tolist())
        exact = True
        for gt in sorted({gts[i] for i in mine ^ theirs}):
            a, b = ({i for i in found if gts[i] == gt} for found in (mine, theirs))
            exact = False
            ties = len(losses[image.gt == gt].unique()) < int((image.gt == gt).sum())
            if ties and same_up_to_ties([float(losses[i]) for i in a], [float(losses[i]) for i in b]):
                continue
            assert is_knife_edge(image, a, gt, topk, covariance_type), (a, b, losses[image.gt == gt].tolist())
            edges += 1
        if exact:
            expected = torch.full_like(labels, BACKGROUND)
            chosen = image.pos_inds[sorted(mine)]
            expected[chosen] = image.gt[sorted(mine)] % BACKGROUND
            assert torch.equal(labels, expected)
            assert torch.equal(label_weights, torch.ones_like(label_weights))
            weights = torch.zeros_like(bbox_weights)
            weights[chosen] = 1
            assert torch.equal(bbox_weights, weights)
            assert num_pos == int(result.positive[rows].sum())
    return int(offsets[-1]), edges


@settings(max_examples=150)
@given(
    seed=st.integers(0, 2**32 - 1),
    kind=st.sampled_from(KINDS),
    dtype=st.sampled_from(DTYPES),
    covariance_type=st.sampled_from(COVARIANCE_TYPES),
    topk=st.integers(1, 10),
    num_levels=st.integers(1, 5),
    num_gts=st.lists(st.sampled_from((0, 1, 2, 7, 20)), min_size=1, max_size=5),
)
def test_equals_mmdet(seed, kind, dtype, covariance_type, topk, num_levels, num_gts):
    if kind == "huge":
        # Equal losses of a million, as low precision makes them, leave scikit-learn's variance to rounding, and
        # it may give up: that case is in test_gmm.
        dtype = torch.promote_types(dtype, torch.float32)
    rng = np.random.default_rng(seed)
    images = [make_image(rng, kind, n, num_levels, dtype) for n in num_gts]
    compare(images, num_levels, topk, covariance_type)


def test_knife_edges_are_rare_among_a_thousand_objects():
    rng = np.random.default_rng(0)
    images = [
        make_image(rng, "spread", 500, 5, torch.float32),
        make_image(rng, "clusters", 500, 5, torch.float32),
    ]
    total, edges = compare(images, 5, 9, "diag")
    assert total == 1000
    assert edges <= 5


def test_a_pair_by_itself_is_a_knife_edge_and_the_lower_one_wins():
    # Component 0 is {2, 2.05}, both equally far from their mean, so equally dense but for rounding.
    losses = torch.tensor([2.0, 2.05, 9.0, 9.5, 9.9, 10.2], dtype=torch.float64)
    image = Image(losses, torch.arange(6), torch.zeros(6).long(), torch.zeros(6).long(), [6], 1)
    result = reassign(losses, image.gt, image.level, num_gts=1, num_levels=1, topk=9)
    assert result.positive.tolist() == [[True] + [False] * 5]  # as many slots as there are candidates
    generator = torch.Generator().manual_seed(0)
    answers = set()
    for _ in range(100):
        noise = torch.randn(6, generator=generator, dtype=torch.float64) * 4e-16
        answers.add(frozenset(positives(image, 9, "diag", losses * (1 + noise))))
        mine = reassign(losses * (1 + noise), image.gt, image.level, num_gts=1, num_levels=1, topk=9)
        assert mine.positive.tolist() == result.positive.tolist()
    assert answers == {frozenset({0}), frozenset({0, 1})}


def test_a_candidate_halfway_between_the_components_is_a_knife_edge():
    losses = torch.tensor([0.0, 0.125, 0.25, 0.375, 0.5], dtype=torch.float64)
    image = Image(losses, torch.arange(5), torch.zeros(5).long(), torch.zeros(5).long(), [5], 1)
    # Which of the two MMDetection gives depends on how a processor rounds: a last digit leads to the other one.
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(100, 5, generator=generator, dtype=torch.float64) * 4e-16
    answers = {frozenset(positives(image, 9, "full", losses + each)) for each in noise}
    assert answers == {frozenset({0, 1}), frozenset({0, 1, 2})}
    result = reassign(losses, image.gt, image.level, num_gts=1, num_levels=1, topk=9, covariance_type="full")
    mine = set(result.candidate[result.positive].tolist())
    assert mine == {0, 1, 2}
    assert is_knife_edge(image, mine, 0, 9, "full")


def test_two_clear_clusters_by_hand():
    # Ground truth 0: {1, 2, 3} against {50, 52}; the density peaks at 2, so 1 and 2 are positive.
    # Ground truth 1: one candidate, hence no positives. Ground truth 2: none.
    losses = torch.tensor([52.0, 3.0, 7.0, 1.0, 50.0, 2.0])
    gt = torch.tensor([0, 0, 1, 0, 0, 0])
    level = torch.tensor([0, 1, 1, 0, 1, 1])
    result = reassign(losses, gt, level, num_gts=3, num_levels=2, topk=3)
    assert result.candidate.tolist() == [[3, 5, 1, 4, 0], [2, 0, 0, 0, 0], [0] * 5]
    assert result.loss.tolist() == [[1, 2, 3, 50, 52], [7, 0, 0, 0, 0], [0] * 5]
    assert result.valid.sum(1).tolist() == [5, 1, 0]
    assert result.positive.tolist() == [[True, True, False, False, False], [False] * 5, [False] * 5]


@pytest.mark.parametrize("dtype", DTYPES)
def test_topk_is_per_level_and_ties_keep_the_order(dtype):
    losses = torch.tensor([2, 1, 1, 0.5, 1, 1, -0.0, 0.0, -3], dtype=dtype)
    level = torch.tensor([0, 0, 0, 1, 0, 1, 1, 1, 2])
    found = select_candidates(losses, torch.zeros(9).long(), level, 1, 3, 2)
    assert found.candidate.tolist() == [[8, 6, 7, 1, 2, 0]]
    assert found.loss.tolist() == [[-3, 0, 0, 1, 1, 0]]
    assert found.valid.tolist() == [[True] * 5 + [False]]


@settings(max_examples=60)
@given(seed=st.integers(0, 2**32 - 1), dtype=st.sampled_from(DTYPES), topk=st.integers(1, 6))
def test_selection_equals_a_plain_sort(seed, dtype, topk):
    rng = np.random.default_rng(seed)
    num_gts, num_levels, k = int(rng.integers(1, 6)), int(rng.integers(1, 5)), int(rng.integers(0, 120))
    scale = rng.choice([1e-8, 1.0, 1e4])
    losses = torch.from_numpy(rng.choice([rng.normal(size=k), rng.integers(-2, 3, k)]) * scale).to(dtype)
    gt, level = (
        torch.from_numpy(rng.integers(-1, num_gts + 1, k)),
        torch.from_numpy(rng.integers(0, num_levels, k)),
    )
    found = select_candidates(losses, gt, level, num_gts, num_levels, topk)
    for row in range(num_gts):
        expected: list[int] = []
        for cell in range(num_levels):
            members = [i for i in range(k) if gt[i] == row and level[i] == cell]
            expected += sorted(members, key=lambda i: float(losses[i]))[:topk]
        expected.sort(key=lambda i: float(losses[i]))
        assert found.candidate[row][found.valid[row]].tolist() == expected
        assert found.loss[row][: len(expected)].tolist() == [float(losses[i]) for i in expected]
        assert not found.valid[row][len(expected) :].any()


@pytest.mark.parametrize("dtype", DTYPES)
def test_with_many_cells_the_order_is_the_same(dtype):
    generator = torch.Generator().manual_seed(0)
    losses = torch.randn(3000, generator=generator).to(dtype)  # in half precision with many ties
    cell = torch.randint(-1, 6, (3000,), generator=generator)
    few, many = (_sort_within_cells(losses, cell, num_cells) for num_cells in (5, 2**29))
    assert torch.equal(few[0], many[0])
    assert torch.equal(few[1], many[1])
    assert torch.equal(few[1], cell.sort().values)


def test_equal_groups_get_equal_answers_wherever_they_stand():
    one = torch.tensor([0.0, 0.0, 0.0, 0.0, 0.25, 0.7, 0.7, 0.7, 2.0, 2.0])
    for num_gts in range(1, 40):
        gt = torch.arange(num_gts).repeat_interleave(10)
        level = torch.zeros_like(gt)
        result = reassign(one.repeat(num_gts), gt, level, num_gts=num_gts, num_levels=1, topk=11)
        assert len(result.positive.unique(dim=0)) == 1
        # All equal: the first candidate is as dense as any.
        result = reassign(
            torch.full_like(gt, 1.375, dtype=torch.float32), gt, level, num_gts=num_gts, num_levels=1, topk=11
        )
        assert result.positive.sum(1).eq(1).all()
        assert result.positive[:, 0].all()


def test_neighbouring_float32_losses_are_told_apart():
    one = torch.tensor(1e6)
    losses = torch.stack(
        (one, torch.nextafter(one, torch.tensor(2e6)), torch.nextafter(one, torch.tensor(0.0)))
    )
    found = select_candidates(losses, torch.full((3,), 9999), torch.full((3,), 4), 10000, 5, 2)
    assert found.candidate[9999, :2].tolist() == [2, 0]


@pytest.mark.parametrize(("num_gts", "k"), [(0, 0), (4, 0), (0, 3)])
def test_nothing_to_do(num_gts, k):
    gt = torch.full((k,), num_gts)  # padding
    result = reassign(torch.rand(k), gt, torch.zeros(k).long(), num_gts=num_gts, num_levels=5, topk=9)
    assert result.candidate.shape == result.positive.shape == (num_gts, 0)
    assert not result.positive.any()
    assert not result.valid.any()


def test_separation_ignores_component_one_and_empty_slots():
    mixture = TwoGaussians(
        assignment=torch.tensor([[0, 0, 1, 0, 0], [1, 1, 1, 0, 0], [0, 0, 0, 0, 0]]),
        log_density=torch.tensor([[1.0, 2.0, 9.0, 2.0, 99.0], [1, 1, 1, 9, 9], [5, 1, 1, 1, 1]]),
        means=torch.zeros(3, 2),
        variances=torch.ones(3, 2),
        weights=torch.full((3, 2), 0.5),
        iterations=torch.ones(3).long(),
    )
    valid = torch.tensor([[True] * 4 + [False], [True] * 3 + [False] * 2, [True] + [False] * 4])
    assert separate(mixture, valid).tolist() == [[True, True, False, False, False], [False] * 5, [False] * 5]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"gt_index": torch.zeros(2).long()}, "shape"),
        ({"losses": torch.zeros(3).long()}, "floating"),
        ({"topk": 0}, "topk"),
        ({"num_levels": 0}, "num_levels"),
        ({"num_gts": -1}, "num_gts"),
        ({"covariance_type": "round"}, "covariance_type"),
    ],
)
def test_bad_arguments_are_named(changes, message):
    arguments = {
        "losses": torch.zeros(3),
        "gt_index": torch.zeros(3).long(),
        "level": torch.zeros(3).long(),
        "num_gts": 1,
        "num_levels": 1,
        "topk": 9,
    }
    with pytest.raises(ValueError, match=message):
        reassign(**{**arguments, **changes})


@pytest.mark.parametrize("dtype", DTYPES)
def test_never_waits_for_a_device(dtype):
    with fake_cuda(real_inputs=False):
        losses = torch.empty(50, device="cuda", dtype=dtype)
        index = torch.empty(50, device="cuda", dtype=torch.long)
        result = reassign(losses, index, index, num_gts=7, num_levels=5, topk=9)
        assert result.positive.device.type == "cuda"
        assert result.positive.shape == (7, 45)
        # A number of candidates the host has not been told: what nonzero() on the device gives.
        some = (losses > 0).nonzero()[:, 0]
        result = reassign(losses[some], index[some], index[some], num_gts=7, num_levels=5, topk=9)
        assert result.positive.shape == (7, 45)
