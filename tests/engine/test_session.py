"""A training a step at a time: what a step is, and that it goes on exactly."""

import copy

from lad.engine.session import TrainingSession
from lad.errors import CheckpointError, ConfigError

import pytest
import torch
from helpers import build, make_batch, small_detector
from mmengine.optim import build_optim_wrapper
from torch import nn

RETINANET = "mmdet::retinanet/retinanet_r50_fpn_1x_coco.py"
FASTER = "mmdet::faster_rcnn/faster-rcnn_r50_fpn_1x_coco.py"
SGD = dict(
    type="OptimWrapper", optimizer=dict(type="SGD", lr=0.001, momentum=0.9), clip_grad=dict(max_norm=10)
)


def batch(seed=0, images=1):
    """Images as a pipeline leaves them."""
    inputs, samples = make_batch((3,) * images, size=(64, 96), seed=seed)
    pixels = (inputs * 40 + 120).clamp(0, 255).to(torch.uint8)
    return dict(inputs=list(pixels), data_samples=samples)


def small(config=RETINANET, seed=0):
    """A detector whose batch norm is no exception in training: MMDetection's configs freeze it in the backbone."""
    model = small_detector(config)
    model.backbone.norm_eval = False
    return build(model, seed)


def session(optim_wrapper=SGD, config=RETINANET, **settings):
    return TrainingSession(small(config), optim_wrapper, **settings)


def weights(module):
    return {name: value.clone() for name, value in module.state_dict().items()}


def same(first, second):
    assert first.keys() == second.keys()
    return all(torch.equal(first[name], second[name]) for name in first)


def test_step_is_that_of_mmengine():
    ours = session(norm_eval=False)
    detector = small().train()
    wrapper = build_optim_wrapper(detector, copy.deepcopy(SGD))
    for seed in range(2):
        logged = detector.train_step(batch(seed), wrapper)
        result = ours.step(batch(seed))
        assert not result.fault
        assert torch.equal(result.losses["loss"], logged["loss"])
    assert same(weights(ours.detector), weights(detector))


def test_batch_can_be_trained_on_again():
    ours, own = session(), batch()
    before = copy.deepcopy(own)
    ours.step(own)
    assert torch.equal(own["inputs"][0], before["inputs"][0])
    assert own["data_samples"][0].metainfo == before["data_samples"][0].metainfo
    assert torch.equal(
        own["data_samples"][0].gt_instances.bboxes, before["data_samples"][0].gt_instances.bboxes
    )


@pytest.mark.parametrize("norm_eval", [True, False])
def test_statistics_of_batch_norm_are_kept_unless_asked_for(norm_eval):
    ours = session(norm_eval=norm_eval)
    before = weights(ours.detector)
    ours.step(batch())
    after = weights(ours.detector)
    moved = [name for name in before if "running" in name and not torch.equal(before[name], after[name])]
    assert bool(moved) != norm_eval
    # Its scale and shift learn in any case.
    assert not torch.equal(before["backbone.bn1.weight"], after["backbone.bn1.weight"])


@pytest.mark.parametrize(
    ("optim_wrapper", "config"),
    [
        (SGD, RETINANET),
        (dict(SGD, accumulative_counts=3), RETINANET),
        (dict(type="BFloat16OptimWrapper", optimizer=dict(type="AdamW", lr=0.001)), RETINANET),
        (SGD, FASTER),  # which draws the proposals that it trains on
    ],
    ids=["sgd", "accumulating", "bfloat16", "two stages"],
)
def test_goes_on_from_its_state_as_if_it_had_not_stopped(optim_wrapper, config, tmp_path):
    whole = session(optim_wrapper, config, seed=5)
    for seed in range(4):
        whole.step(batch(seed))
    first = session(optim_wrapper, config, seed=5)
    for seed in range(2):
        first.step(batch(seed))
    torch.save(first.state_dict(), tmp_path / "state.pth")
    # Weights, momentum and random state of another one.
    second = TrainingSession(small(config, seed=9), optim_wrapper, seed=5)
    second.step(batch(7))
    torch.rand(3)
    second.load_state_dict(torch.load(tmp_path / "state.pth", weights_only=True))
    for seed in range(2, 4):
        second.step(batch(seed))
    assert same(weights(second.detector), weights(whole.detector))
    assert second.steps == whole.steps == 4


def test_accumulated_gradients_are_part_of_the_state():
    ours = session(dict(SGD, accumulative_counts=2))
    before = weights(ours.detector)
    ours.step(batch())
    assert ours.is_accumulating
    assert same(weights(ours.detector), before)
    assert ours.state_dict()["gradients"]
    ours.step(batch(1))
    assert not ours.is_accumulating
    assert not ours.state_dict()["gradients"]
    assert not same(weights(ours.detector), before)


class Faulty(nn.Module):
    """A loss that is multiplied by a number, or a gradient that is."""

    def __init__(self, loss, factor, backward=False):
        super().__init__()
        self.loss, self.factor, self.backward = loss, factor, backward

    def forward(self, *args, **kwargs):
        value = self.loss(*args, **kwargs)
        if self.backward:
            value.register_hook(lambda gradient: gradient * self.factor)
            return value
        return value * self.factor


@pytest.mark.parametrize("norm_eval", [True, False])
@pytest.mark.parametrize(
    ("factor", "backward", "told"),
    [
        (float("nan"), False, "loss_cls"),
        (float("inf"), False, "is inf"),
        (float("nan"), True, "the gradient is not finite"),
    ],
)
def test_step_that_is_not_finite_is_left_out(factor, backward, told, norm_eval):
    ours = session(norm_eval=norm_eval)
    ours.step(batch())
    sound = ours.detector.bbox_head.loss_cls
    before, optimizer = weights(ours.detector), copy.deepcopy(ours.state_dict()["optimizer"])
    ours.detector.bbox_head.loss_cls = Faulty(sound, factor, backward)
    result = ours.step(batch(1))
    ours.detector.bbox_head.loss_cls = sound
    assert told in result.fault
    assert same(weights(ours.detector), before)
    for number, state in optimizer["state"].items():
        assert torch.equal(
            ours.state_dict()["optimizer"]["state"][number]["momentum_buffer"], state["momentum_buffer"]
        )
    assert not ours.step(batch(2)).fault
    assert not same(weights(ours.detector), before)


def test_error_of_the_label_assignment_is_a_fault_too():
    ours = session()

    def refuse(*args, **kwargs):
        raise FloatingPointError("cost is NaN")

    ours.detector.bbox_head.assigner.assign = refuse
    assert ours.step(batch()).fault == "cost is NaN"


def test_state_of_another_detector_is_refused():
    other = TrainingSession(small(FASTER), SGD)
    with pytest.raises(CheckpointError, match="does not fit"):
        session().load_state_dict(other.state_dict())
    with pytest.raises(CheckpointError, match="does not fit"):
        session().load_state_dict(dict(state_dict={}))


def test_detector_that_cannot_learn_is_refused():
    detector = small().requires_grad_(False)
    with pytest.raises(ConfigError, match="no parameter that learns"):
        TrainingSession(detector, SGD)
