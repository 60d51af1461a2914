"""Learning rates that decay layer by layer: which networks and exits they reach."""

import copy

from lad.detectors.configs import check_layer_decay
from lad.errors import ConfigError

import pytest
from dense_detectors import dense
from mmdet.registry import MODELS
from mmengine.config import Config
from mmengine.optim import build_optim_wrapper
from torch import nn

DECAY = dict(
    constructor="LearningRateDecayOptimizerConstructor",
    paramwise_cfg=dict(decay_rate=0.5, decay_type="layer_wise", num_layers=6),
    optimizer=dict(type="SGD", lr=1.0),
)


class TinyConvNeXt(nn.Module):
    """Four maps; its modules are called as a ConvNeXt's, whose layers the constructor knows."""

    def __init__(self):
        super().__init__()
        strides = (4, 2, 2, 2)
        self.downsample_layers = nn.ModuleList(
            nn.Sequential(nn.Conv2d(3 if stride == 4 else 8, 8, stride, stride)) for stride in strides
        )
        self.stages = nn.ModuleList(nn.Sequential(nn.Conv2d(8, 8, 3, padding=1)) for _ in strides)

    def forward(self, inputs):
        maps = []
        for reduce, stage in zip(self.downsample_layers, self.stages, strict=True):
            inputs = stage(reduce(inputs))
            maps.append(inputs)
        return tuple(maps)


def convnext():
    config = dense("retinanet")
    config.backbone = dict(type=TinyConvNeXt)
    config.neck.in_channels = [8] * 4
    return config


def trained_by(model):
    return Config(dict(model=model, optim_wrapper=DECAY))


def test_several_networks_are_refused_in_one_line():
    networks = dict(a=dense("retinanet"), b=dense("retinanet"))
    with pytest.raises(ConfigError, match=r"paramwise_cfg.decay_rate: .* would reach 'b' alone") as refused:
        check_layer_decay(trained_by(dict(type="DistillationDetector", networks=networks, deploy="b")))
    assert "\n" not in str(refused.value)
    check_layer_decay(Config(dict(model=dict(type="DistillationDetector", networks=networks))))
    check_layer_decay(trained_by(dense("retinanet")))
    check_layer_decay(trained_by(dict(type="DistillationDetector", student=dense("retinanet"))))


def test_exits_get_the_rate_of_heads_and_the_network_that_of_its_layers():
    exits = dict(student=dict(early=dict(levels=[1])))
    model = MODELS.build(dict(type="DistillationDetector", student=convnext(), exits=exits))
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    wrapper = build_optim_wrapper(model, copy.deepcopy(DECAY))
    rates = {
        names[id(parameter)]: group["lr"]
        for group in wrapper.optimizer.param_groups
        for parameter in group["params"]
    }
    assert rates.keys() == set(names.values())
    heads = {rate for name, rate in rates.items() if name.startswith(("bbox_head.", "distillation.exits."))}
    assert heads == {1.0}
    # Of 8 layers the stem is number 0 and the last stage 6; each has half of the next one's rate.
    assert rates["backbone.downsample_layers.0.0.weight"] == 0.5**7
    assert rates["backbone.stages.3.0.weight"] == 0.5
