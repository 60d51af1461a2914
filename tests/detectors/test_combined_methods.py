"""Several methods of one detector, whatever their order: views of teachers, factors of own losses, random states."""

import copy

from lad.errors import ConfigError, UnsupportedError

import pytest
import torch
from helpers import build, co_learning, distillation_of, make_batch, small_paa
from mmdet.registry import MODELS

#: A method that takes its teachers apart, beside one that has one teacher.
APART = [
    dict(type="MulDE", candidates=20),
    dict(type="ClassBalancedDistillation"),
]
SINGLE = [
    dict(type="LabelAssignmentDistillation"),
    dict(type="SoftLabelDistillation"),
    dict(type="DenseLogitDistillation"),
    dict(type="FeatureDistillation", loss=dict(type="PKDLoss")),
]


def distil(folder, *methods):
    return distillation_of(folder, small_paa(), small_paa(base=16), *methods)


def losses_of(model, batch=((3, 2), (64, 96))):
    torch.manual_seed(0)
    return model.loss(*make_batch(*batch))


@pytest.mark.parametrize("single", SINGLE, ids=lambda method: method["type"])
@pytest.mark.parametrize("apart", APART, ids=lambda method: method["type"])
def test_methods_of_one_and_of_several_teachers_share_a_teacher_in_any_order(tmp_path, apart, single):
    losses = losses_of(distil(tmp_path, single, apart))
    for name, value in losses_of(distil(tmp_path, apart, single)).items():
        if name in losses and "loss" in name:
            torch.testing.assert_close(losses[name], value)
    assert any(name.startswith(("loss_mulde", "loss_cbd")) for name in losses)


def together(*methods, networks="ab"):
    """Networks that share their labels, with further methods."""
    config = co_learning(
        {name: small_paa(base=8 + 8 * (number % 2)) for number, name in enumerate(networks)},
        dict(type="StdMeanSwitch", per="gt"),
    )
    config["methods"] += copy.deepcopy(list(methods))
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = MODELS.build(config)
    for number, network in enumerate(model.trained_networks.values()):
        network.load_state_dict(build(small_paa(base=8 + 8 * (number % 2)), number).state_dict())
    return model.train()


@pytest.mark.parametrize("alpha", [1.0, 0.25])
def test_own_losses_of_a_joint_method_are_weighted_as_any_others(alpha):
    """CBD leaves 1 - alpha of the learner's own class loss; the peer's is its own."""
    plain = losses_of(together())
    losses = losses_of(
        together(dict(type="ClassBalancedDistillation", alpha=alpha, learner="a", taught_by="b"))
    )
    for name, factor in {"a.loss_cls": 1 - alpha, "b.loss_cls": 1.0, "a.loss_bbox": 1.0}.items():
        torch.testing.assert_close(losses[name], factor * plain[name])
    torch.testing.assert_close(losses["a.share"], plain["a.share"])


def test_networks_of_two_joint_methods_start_from_the_same_random_state():
    sharing = dict(type="CoLearningAssignment", switch=dict(type="StdMeanSwitch", per="gt"))
    model = MODELS.build(
        dict(
            type="DistillationDetector",
            networks={name: small_paa() for name in "abcd"},
            methods=[
                dict(sharing, name="first", among=["a", "b"]),
                dict(sharing, name="second", among=["c", "d"]),
            ],
        )
    ).train()
    drawn = []
    for network in model.trained_networks.values():
        network.backbone.register_forward_pre_hook(lambda *_: drawn.append(torch.rand(()).item()))
    losses_of(model)
    assert len(drawn) == 4
    assert len(set(drawn)) == 1


def test_single_value_of_a_norm_is_one_line_in_a_joint_method_too():
    with pytest.raises(UnsupportedError, match=r"^a, b: a batch or group norm has a single value"):
        losses_of(together(), batch=((1,), (32, 32)))


def test_factor_of_a_method_without_terms_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="it adds no loss terms that factor could multiply"):
        distil(tmp_path, dict(type="LabelAssignmentDistillation", factor=0.5))
    sharing = dict(type="CoLearningAssignment", switch=dict(type="StdMeanSwitch", per="gt"), name="second")
    with pytest.raises(ConfigError, match="it adds no loss terms that factor could multiply"):
        together(dict(sharing, factor=0))
