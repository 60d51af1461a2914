"""Which losses the methods on class logits take."""

from lad.errors import ConfigError, UnsupportedError
from lad.methods.response.logits import build_binary_loss, build_logit_loss, logit_loss

import pytest
import torch
from mmdet.registry import MODELS

OWNER = "TheMethod"
SIGMOID = ["DKDLoss", "KDLoss", "QualityKDLoss", "SoftCrossEntropyLoss"]
SOFTMAX = ["DKDLoss", "KDLoss", "SoftCrossEntropyLoss"]
FORMS = [*((name, True) for name in SIGMOID), *((name, False) for name in SOFTMAX)]


@pytest.mark.parametrize(("name", "use_sigmoid"), FORMS)
def test_what_is_offered_compares_weighted_samples_in_the_form_of_the_classifier(name, use_sigmoid):
    generator = torch.Generator().manual_seed(0)
    student, teacher = (torch.randn(5, 3, generator=generator) for _ in range(2))
    labels, weight = torch.tensor([0, 1, 2, 0, 1]), torch.tensor([1.0, 0.0, 2.0, 0.5, 1.0])
    loss = build_logit_loss(OWNER, dict(type=name, loss_weight=3.0), use_sigmoid)
    assert getattr(loss, "use_sigmoid", True) is use_sigmoid
    value = logit_loss(loss, student, teacher, labels, weight, avg_factor=torch.tensor(4.0))
    ones = [
        logit_loss(
            loss, *(part[i : i + 1] for part in (student, teacher, labels)), torch.ones(1), torch.tensor(1.0)
        )
        for i in range(5)
    ]
    torch.testing.assert_close(value, (torch.stack(ones) * weight).sum() / 4)


def test_a_config_may_say_otherwise_than_the_head():
    assert build_logit_loss(OWNER, dict(type="KDLoss", use_sigmoid=False), True).use_sigmoid is False


@pytest.mark.parametrize(
    ("name", "use_sigmoid", "offered"),
    [
        ("MSELoss", True, SIGMOID),
        ("ResNet", True, SIGMOID),
        ("FocalKLLoss", True, SIGMOID),  # element by element: a weight for each sample does not fit
        ("QualityKDLoss", False, SOFTMAX),  # one binary classifier a class
        ("CWDLoss", False, SOFTMAX),
    ],
)
def test_what_does_not_compare_such_logits_is_refused_with_what_does(name, use_sigmoid, offered):
    form = "sigmoid" if use_sigmoid else "softmax"
    compares = f"{OWNER}: {name} does not compare two networks' logits .* {form} classifiers"
    message = f"{compares}: use one of {', '.join(offered)}"
    with pytest.raises(UnsupportedError) as caught:
        build_logit_loss(OWNER, dict(type=name), use_sigmoid)
    assert str(caught.value) == message.replace(".*", "(n, C) of") + "."


def test_an_unknown_loss_is_answered_with_what_there_is_for_the_classifier():
    with pytest.raises(
        ConfigError, match=r"TheMethod: there is no loss 'KDLos': for softmax .* DKDLoss, KDLoss, SoftCross"
    ):
        build_logit_loss(OWNER, dict(type="KDLos"), False)


def test_a_loss_of_ones_own_says_what_it_compares():
    class OwnLoss(torch.nn.Module):
        logit_forms = frozenset({"softmax"})

    MODELS.register_module(module=OwnLoss)
    try:
        assert isinstance(build_logit_loss(OWNER, dict(type="OwnLoss"), False), OwnLoss)
        with pytest.raises(UnsupportedError, match="OwnLoss does not compare"):
            build_logit_loss(OWNER, dict(type="OwnLoss"), True)
    finally:
        del MODELS.module_dict["OwnLoss"]


@pytest.mark.parametrize(("name", "use_sigmoid"), FORMS)
def test_a_loss_is_the_same_over_rows_and_over_priors_of_maps(name, use_sigmoid):
    loss = build_logit_loss(OWNER, dict(type=name), use_sigmoid)
    generator = torch.Generator().manual_seed(0)
    # As lad.heads.dense.join_levels gives them: 4 maps of 6 cells, 3 channels.
    student, teacher = torch.randn(2, 4, 3, 6, generator=generator).transpose(2, 3).unbind()
    labels = torch.randint(0, 3 if use_sigmoid else 2, (4, 6), generator=generator)
    weight = torch.rand(4, 6, generator=generator)
    rows = logit_loss(
        loss, student.flatten(0, 1), teacher.flatten(0, 1), labels.flatten(), weight.flatten(), 7.0
    )
    torch.testing.assert_close(logit_loss(loss, student, teacher, labels, weight, 7.0), rows)


@pytest.mark.parametrize("config", [dict(temperature=2.0), "KDLoss", None])
def test_what_is_no_config_of_a_loss_is_answered_with_what_there_is(config):
    with pytest.raises(
        ConfigError, match=r"TheMethod: a loss is dict\(type=..., ...\), got .* there are DKDLoss, "
    ):
        build_logit_loss(OWNER, config, True)


@pytest.mark.parametrize("reduction", ["sum", "none"])
@pytest.mark.parametrize(("name", "use_sigmoid"), FORMS)
def test_another_reduction_is_refused_where_the_method_divides(name, use_sigmoid, reduction):
    with pytest.raises(ConfigError, match=f"TheMethod: .* leave out reduction='{reduction}'"):
        build_logit_loss(OWNER, dict(type=name, reduction=reduction), use_sigmoid)


@pytest.mark.parametrize("name", ["KDLoss", "SoftCrossEntropyLoss"])
def test_a_softmax_is_no_loss_of_binary_classifiers(name):
    assert build_binary_loss(OWNER, dict(type=name, use_sigmoid=True), "why").use_sigmoid
    with pytest.raises(ConfigError, match=f"TheMethod: {name} .* leave out use_sigmoid=False"):
        build_binary_loss(OWNER, dict(type=name, use_sigmoid=False), "why")
    with pytest.raises(
        UnsupportedError, match="TheMethod: DKDLoss needs labels, and pixels have none: use KDLoss"
    ):
        build_binary_loss(OWNER, dict(type="DKDLoss"), "pixels have none")
