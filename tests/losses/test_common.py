"""What every loss promises, by the shared checks of the tester."""

from lad import losses
from lad.losses.focal_global import ObjectMasks, focal_terms

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from tester import LossCase


def normal(seed, *shape):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def bernoulli(student, teacher):
    """KL divergence of binary predictions from their probabilities."""
    own, taught = student.sigmoid(), teacher.sigmoid()
    return taught * (taught / own).log() + (1 - taught) * ((1 - taught) / (1 - own)).log()


def categorical(student, teacher):
    own, taught = student.softmax(-1), teacher.softmax(-1)
    return (taught * (taught / own).log()).sum(-1)


def decoupled(student, teacher, labels):
    """Sample by sample, class by class: alpha 1, beta 2."""
    values = []
    for s, t, y in zip(student.softmax(1), teacher.softmax(1), labels.tolist(), strict=True):
        others = [c for c in range(len(s)) if c != y]
        tckd = t[y] * (t[y] / s[y]).log() + (1 - t[y]) * ((1 - t[y]) / (1 - s[y])).log()
        q_s, q_t = s[others] / s[others].sum(), t[others] / t[others].sum()
        values.append(tckd + 2 * (q_t * (q_t / q_s).log()).sum())
    return torch.stack(values)


def attention_maps(student, teacher):
    def unit(features):
        vectors = features.square().sum(1).flatten(1)
        return vectors / vectors.norm(dim=1, keepdim=True)

    return (unit(student) - unit(teacher)).square().mean(1)


def correlation(student, teacher):
    """The mean of 1 - r over the channels, by numpy."""
    channels = [maps.transpose(0, 1).flatten(1).numpy() for maps in (student, teacher)]
    return torch.tensor(np.mean([1 - np.corrcoef(s, t)[0, 1] for s, t in zip(*channels, strict=True)]))


def similarity(student, teacher):
    grams = [torch.einsum("nchw,mchw->nm", maps, maps) for maps in (student, teacher)]
    own, taught = (gram / gram.square().sum(1, keepdim=True).sqrt() for gram in grams)
    return (own - taught).square().mean()


def relations(student, teacher):
    """Loops over pairs and triples: lambda_D 25, lambda_A 50."""
    count = len(student)

    def measure(points):
        pairs = [(points[i] - points[j]).norm() for i in range(count) for j in range(count) if i != j]
        triples = [
            F.cosine_similarity(points[i] - points[j], points[k] - points[j], dim=0)
            for i in range(count)
            for j in range(count)
            for k in range(count)
            if len({i, j, k}) == 3
        ]
        distances = torch.stack(pairs)
        return distances / distances.mean(), torch.stack(triples)

    (own_d, own_a), (taught_d, taught_a) = measure(student), measure(teacher)
    return 25 * F.smooth_l1_loss(own_d, taught_d) + 50 * F.smooth_l1_loss(own_a, taught_a)


def diversity(student, other):
    """Position by position, by the definition of the complement."""
    own, taught = (maps.square().mean(1).flatten(1) for maps in (student, other))
    rows = []
    for mine, theirs in zip(own, taught, strict=True):
        norm = theirs.norm()
        unit = theirs / norm
        threshold = unit.sort().values[len(unit) // 3 - 1]
        target = [u if u < threshold else norm / 2 if u == threshold else norm - u for u in unit]
        rows.append(((mine / mine.norm() - torch.stack(target)) ** 2).mean())
    return torch.stack(rows)


def directions(student, teacher):
    cosine = torch.stack(
        [(s * t).sum() / (s.norm() * t.norm()) for s, t in zip(student, teacher, strict=True)]
    )
    return 2 * (1 - cosine) / student[0].numel()


def angles(student, teacher):
    return torch.stack(
        [1 - (s * t).sum() / (s.norm() * t.norm()) for s, t in zip(student, teacher, strict=True)]
    )


def bounded(student, teacher, target):
    own, bound = (student - target).square().sum(1), (teacher - target).square().sum(1)
    return torch.stack([a if a > b else a * 0 for a, b in zip(own, bound, strict=True)])


def boundary(student, teacher):
    sign = torch.where(teacher > 0, 1.0, -1.0)
    return F.relu(1 - sign * student).square().mean(dim=(1, 2, 3))


def partial(student, teacher):
    counted = ~((student <= teacher) & (teacher <= 0))
    return ((teacher - student).square() * counted).mean(dim=(1, 2, 3))


def contrastive(first, second):
    """Temperature 0.1; the row of each embedding by itself."""
    views = F.normalize(torch.cat([first, second]), dim=1)
    others = torch.arange(10).roll(5)
    rows = [10 * views @ views[i] for i in range(10)]
    return torch.stack(
        [torch.cat([row[:i], row[i + 1 :]]).logsumexp(0) - row[others[i]] for i, row in enumerate(rows)]
    )


def similarities(first, taught):
    """Temperature 0.1; the second views are the first ones in the opposite order."""
    own, others = (F.normalize(views, dim=1) for views in (first, taught))
    return categorical(10 * own @ own.flip(0).T, 10 * others @ others.flip(0).T)


def focal(prob, labels):
    hit = F.one_hot(labels, 5)[:, :4]
    return -(0.25 * hit * (1 - prob) ** 2 * prob.log() + 0.75 * (1 - hit) * prob**2 * (1 - prob).log())


MASKS = ObjectMasks(normal(8, 2, 4, 5).abs().float(), normal(9, 2, 4, 5).abs().float())


def focal_global(student, teacher):
    """With weights of the paper's size, at which the gradient fits float16."""
    masks = ObjectMasks(MASKS.foreground.to(student.device), MASKS.background.to(student.device))
    terms = focal_terms(student, teacher, masks)
    return 1e-3 * (terms.foreground + 2 * terms.background + 3 * terms.attention)


def focal_global_reference(student, teacher):
    def attend(maps):
        spatial = 20 * (maps.abs().mean(1) / 0.5).flatten(1).softmax(1).view(2, 4, 5)
        return spatial, 3 * (maps.abs().mean((2, 3)) / 0.5).softmax(1)

    (own_s, own_c), (spatial, channel) = attend(student), attend(teacher)
    weight = (MASKS.foreground + 2 * MASKS.background).double()
    main = torch.einsum("nhw,nhw,nc,nchw->n", weight, spatial, channel, (student - teacher) ** 2)
    return 1e-3 * (main + 3 * ((own_s - spatial).abs().sum((1, 2)) + (own_c - channel).abs().sum(1)))


LOGITS = normal(0, 5, 4), 3 * normal(1, 5, 4)
MAPS = normal(2, 2, 3, 4, 5), normal(3, 2, 3, 4, 5)
BOXES = normal(4, 6, 4), normal(5, 6, 4)
EDGES = normal(6, 3, 4, 7), normal(7, 3, 4, 7)
LABELS = torch.tensor([0, 3, 1, 2, 0])
WEIGHTS = torch.tensor([1.0, 2.0, 0.5, 1.5], dtype=torch.float64)

CASES = dict(
    activation_boundary=LossCase(losses.activation_boundary_loss, boundary, *MAPS),
    attention_transfer=LossCase(losses.attention_transfer_loss, attention_maps, *MAPS),
    bounded_regression=LossCase(losses.bounded_regression_loss, bounded, *BOXES, others=(normal(10, 6, 4),)),
    channel_wise=LossCase(
        losses.channel_wise_divergence, lambda s, t: categorical(s.flatten(2), t.flatten(2)), *MAPS
    ),
    contrastive=LossCase(losses.nt_xent_loss, contrastive, *LOGITS, per_sample=False, taught=False),
    cosine=LossCase(losses.cosine_distance, angles, *LOGITS),
    similarity_divergence=LossCase(
        lambda s, t: losses.similarity_divergence(s, s.flip(0), t, t.flip(0)),
        similarities,
        *LOGITS,
        per_sample=False,
    ),
    decoupled=LossCase(
        lambda s, t, y: losses.decoupled_kd_loss(s, t, y, beta=2.0), decoupled, *LOGITS, others=(LABELS,)
    ),
    binary_decoupled=LossCase(
        lambda s, t, y: losses.binary_decoupled_kd_loss(s, t, y, beta=2.0),
        lambda s, t, y: (bernoulli(s, t) * (2 - F.one_hot(y, 4))).sum(1),
        *LOGITS,
        others=(LABELS,),
    ),
    direction=LossCase(losses.direction_distance, directions, *MAPS),
    # The sizes of the target are the other map's, so that large inputs are compared less finely.
    diversity=LossCase(losses.diversity_loss, diversity, *MAPS),
    factor_transfer=LossCase(
        losses.factor_transfer_loss,
        lambda s, t: (
            (
                s.flatten(1) / s.flatten(1).norm(dim=1, keepdim=True)
                - t.flatten(1) / t.flatten(1).norm(dim=1, keepdim=True)
            )
            .abs()
            .mean(1)
        ),
        *MAPS,
    ),
    feature_distance=LossCase(
        losses.feature_distance_loss, lambda s, t: (s - t).square().sum(1).sqrt().mean((1, 2)), *MAPS
    ),
    focal_global=LossCase(
        focal_global,
        focal_global_reference,
        *MAPS,
        per_sample=False,
        order_free=False,
        large=100.0,
        exact=1e-7,
    ),
    focal_kl=LossCase(
        losses.focal_kl_loss,
        lambda s, t: bernoulli(s, t) * ((s.sigmoid() - t.sigmoid()) ** 2 + 1e-6) ** 0.25,
        *LOGITS,
    ),
    hint=LossCase(losses.hint_loss, lambda s, t: (s - t) ** 2, *MAPS),
    hint_l1=LossCase(lambda s, t: losses.hint_loss(s, t, "l1"), lambda s, t: (s - t).abs(), *MAPS),
    kl=LossCase(
        lambda s, t: losses.kl_divergence(s, t, 2.0), lambda s, t: 4 * categorical(s / 2, t / 2), *LOGITS
    ),
    binary_kl=LossCase(
        lambda s, t: losses.binary_kl_divergence(s, t, 2.0),
        lambda s, t: 4 * bernoulli(s / 2, t / 2),
        *LOGITS,
    ),
    localisation=LossCase(
        lambda s, t: losses.localisation_distillation_loss(s, t, 2.0),
        lambda s, t: 4 * categorical(s / 2, t / 2).mean(1) / 7,
        *EDGES,
    ),
    masked_generation=LossCase(
        losses.generation_loss, lambda s, t: ((s - t) ** 2).sum((1, 2, 3)), *MAPS, large=100.0
    ),
    overhaul=LossCase(losses.partial_l2_loss, partial, *MAPS),
    pearson=LossCase(
        lambda s, t: losses.pearson_distillation_loss(s, t).mean(),
        correlation,
        *MAPS,
        per_sample=False,
        exact=1e-6,
    ),
    probability_focal=LossCase(
        losses.probability_focal_loss, focal, normal(0, 5, 4).sigmoid(), LABELS, large=1.0, taught=False
    ),
    quality_kd=LossCase(
        losses.quality_kd_loss,
        lambda s, t: (
            -(s.sigmoid() - t.sigmoid()).abs()
            * (t.sigmoid() * s.sigmoid().log() + (1 - t.sigmoid()) * (1 - s.sigmoid()).log())
        ),
        *LOGITS,
    ),
    relational=LossCase(
        losses.relational_loss, relations, normal(4, 5, 3), normal(5, 5, 6), per_sample=False
    ),
    similarity=LossCase(
        lambda s, t: losses.similarity_preserving_loss(s, t).mean(), similarity, *MAPS, per_sample=False
    ),
    soft_cross_entropy=LossCase(
        lambda s, t: losses.soft_cross_entropy(s, t, WEIGHTS.float().to(s.device), 2.0, True),
        lambda s, t: -4 * (WEIGHTS * (t / 2).softmax(1) * (s / 2).softmax(1).log()).sum(1),
        *LOGITS,
    ),
    binary_soft_cross_entropy=LossCase(
        lambda s, t: losses.binary_soft_cross_entropy(s, t, 1.0, 1.5),
        lambda s, t: -(t.sigmoid() * s.sigmoid().log() + 1.5 * (1 - t.sigmoid()) * (1 - s.sigmoid()).log()),
        *LOGITS,
    ),
)
#: Of ``losses.__all__``: no losses but parts of them.
PARTS = {
    "attention_temperature",
    "binary_not_true_divergence",  # constant in a true class: see test_not_true
    "complementary_attention",
    "complementary_features",
    "contrastive_attention",
    "focal_terms",
    "fuse_scores",
    "gate_scores",
    "known_divergence",
    "negative_expectation",
    "not_true_divergence",  # likewise
    "object_masks",
    "relation_agreement_loss",  # constant in a part of the student's own: see test_relation_agreement
}

every_loss = pytest.mark.parametrize("case", CASES.values(), ids=CASES)


@every_loss
def test_value_is_the_references(case):
    case.check_value()


@every_loss
def test_gradient_is_that_of_finite_differences_and_spares_the_teacher(case):
    case.check_gradient()


@every_loss
@pytest.mark.parametrize("large", [False, True])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_gives_the_result_of_float32(case, dtype, large):
    case.check_half_precision(dtype, case.large if large else 1.0)


@every_loss
def test_nan_comes_out_as_nan(case):
    case.check_nan()


@every_loss
def test_order_of_the_samples_does_not_matter(case):
    if case.order_free:
        case.check_samples()


@every_loss
def test_on_cuda_tensors_nothing_waits(case):
    case.check_device()


def test_every_function_has_a_case():
    functions = [name for name in losses.__all__ if name.islower()]
    assert len(set(functions) - PARTS) == len(CASES) - 2  # two norms of hint_loss, and focal_terms
