"""Settings, weights and reductions that all losses share."""

from lad import losses
from lad.errors import ConfigError
from lad.losses.weighted import WeightedLoss

import pytest
import torch

CHANNELS = dict(FGDLoss=dict(channels=4))
LOSSES = sorted(
    name
    for name in losses.__all__
    if isinstance(kind := getattr(losses, name), type) and issubclass(kind, WeightedLoss) and "Loss" in name
)


@pytest.mark.parametrize("name", [name for name in LOSSES if name != "RKDLoss"])
def test_unknown_reduction_is_refused(name):
    with pytest.raises(ConfigError, match=f"{name}: reduction must be one of none, mean, sum, got 'avg'"):
        getattr(losses, name)(**CHANNELS.get(name, {}), reduction="avg")


@pytest.mark.parametrize(
    "name", ["KDLoss", "DKDLoss", "LDLoss", "CWDLoss", "FGDLoss", "SoftCrossEntropyLoss"]
)
@pytest.mark.parametrize("temperature", [0, -1.0, float("nan")])
def test_temperature_that_is_not_positive_is_refused(name, temperature):
    wanted = "a number" if temperature != temperature else "positive"
    with pytest.raises(ConfigError, match=f"{name}: temperature must be {wanted}, got {temperature}"):
        getattr(losses, name)(**CHANNELS.get(name, {}), temperature=temperature)


def test_exponents_without_a_gradient_are_refused():
    with pytest.raises(ConfigError, match=r"ATLoss: power must be at least 1, got 0\.5"):
        losses.ATLoss(power=0.5)
    with pytest.raises(ConfigError, match="FocalKLLoss: gamma must be at least 0, got -1"):
        losses.FocalKLLoss(gamma=-1)


@pytest.mark.parametrize(
    ("name", "shape", "weight"),
    [
        ("KDLoss", (4, 3), (4, 1)),
        ("KDLoss", (1, 3), (1, 1)),
        ("KDLoss", (4, 3), (3,)),
        ("SoftCrossEntropyLoss", (4, 3), (4, 1)),
        ("QualityKDLoss", (4, 3), (4, 3)),
        ("FocalKLLoss", (3, 3), (3,)),
        ("HintLoss", (2, 3, 4, 4), (4,)),
        ("LDLoss", (5, 4, 6), (5, 4)),
    ],
)
def test_weight_that_broadcasting_would_pair_with_other_elements_is_refused(name, shape, weight):
    with pytest.raises(
        ValueError, match=f"{name}: weight of shape .* does not fit elements of shape"
    ) as caught:
        getattr(losses, name)()(torch.zeros(shape), torch.zeros(shape), weight=torch.ones(weight))
    assert "\n" not in str(caught.value)


def test_weight_may_share_dimensions_and_be_a_scalar():
    """Elements 1, 4, 9 and 16; weights 1 and 10 of the rows, 1 and 10 of the columns, and 2 of all."""
    student, teacher = torch.tensor([[1.0, 2.0], [3.0, 4.0]]), torch.zeros(2, 2)
    loss = losses.HintLoss(reduction="sum")
    assert loss(student, teacher, torch.tensor([[1.0], [10.0]])).item() == 1 + 4 + 90 + 160
    assert loss(student, teacher, torch.tensor([[1.0, 10.0]])).item() == 1 + 40 + 9 + 160
    assert loss(student, teacher, torch.tensor(2.0)).item() == 60


@pytest.mark.parametrize(
    ("name", "shape"),
    [
        ("KDLoss", (0, 3)),
        ("SoftCrossEntropyLoss", (0, 3)),
        ("QualityKDLoss", (0, 3)),
        ("FocalKLLoss", (0, 3)),
        ("LDLoss", (0, 4, 5)),
        ("HintLoss", (0, 3)),
        ("ATLoss", (0, 3, 4, 4)),
        ("CWDLoss", (0, 3, 4, 4)),
        ("FeatureDistanceLoss", (0, 3, 4, 4)),
        ("MGDLoss", (0, 3, 4, 4)),
        ("PKDLoss", (0, 3, 4, 4)),
        ("SimilarityPreservingLoss", (0, 3, 4, 4)),
    ],
)
@pytest.mark.parametrize("weighted", [False, True])
def test_mean_of_nothing_is_zero_and_has_a_gradient(name, shape, weighted):
    student = torch.zeros(shape, requires_grad=True)
    loss = getattr(losses, name)()
    weight = torch.zeros(loss(student, student, reduction_override="none").shape) if weighted else None
    value = loss(student, torch.zeros(shape), weight)
    assert value.item() == 0
    value.backward()
    assert student.grad.shape == shape


def test_mean_of_no_boxes_and_no_labels_is_zero():
    boxes = torch.zeros(0, 4, requires_grad=True)
    labels = torch.zeros(0, dtype=torch.long)
    values = [
        losses.BoundedRegressionLoss()(boxes, boxes, boxes),
        losses.DKDLoss()(boxes, boxes, labels),
        losses.DKDLoss(use_sigmoid=True)(boxes, boxes, labels),
        losses.ProbabilityFocalLoss()(boxes, labels),
    ]
    assert [value.item() for value in values] == [0] * 4
    sum(values).backward()
    assert boxes.grad.shape == (0, 4)
